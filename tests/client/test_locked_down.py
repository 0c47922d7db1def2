"""Machines where little is allowed: the real command line runs under each restriction."""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import pytest

from nuitkal_mini.client import ClientUpdater, UpdaterConfig

from ..support import need_tool
from ..trees import Tree
from .conftest import Exchange, Serve
from .site import Site
from .test_transport import certificate

pytestmark = pytest.mark.skipif(os.name == "nt", reason="shells, users and limits of POSIX")
REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = b"import os, sys\nprint('version', 1, *sys.argv[1:])\nsys.exit(7)\n"
ONE: Tree = {
    "main.py": (PROGRAM, "644"),
    "tool": (b"#!/bin/sh\n", "755"),
    "lib/data": (b"a", "644"),
}
TWO: Tree = {
    "main.py": (PROGRAM.replace(b"1,", b"2,"), "644"),
    "tool": (b"#!/bin/sh\n# 2\n", "755"),
    "lib/data": (os.urandom(300_000), "644"),
}


def client(
    site: Site,
    folder: Path,
    verb: str = "run",
    *,
    shell: str = "",
    flags: Sequence[str] = (),
    options: Sequence[str] = (),
    env: Optional[Dict[str, str]] = None,
    before: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Runs the command line, after `shell` in the same process; `before` precedes Python."""
    command = [
        *before,
        sys.executable,
        *flags,
        "-m",
        "nuitkal_mini.client",
        verb,
        "--url",
        site.url,
        "--dir",
        str(folder),
        *options,
    ]
    environ = (
        {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        if env is None
        else env
    )
    return subprocess.run(
        ["/bin/sh", "-c", f'{shell}\nexec "$@"', "sh", *command],
        cwd=str(REPOSITORY),
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
    )


def lives(site: Site, folder: Path, **options: Any) -> None:
    """The machine lets a first install, an update, and a start happen."""
    for number, tree in ((1, ONE), (2, TWO)):
        site.publish(f"1.0.{number}", tree)
        done = client(site, folder, **options)
        assert (done.returncode, done.stdout) == (7, f"version {number}\n"), done.stderr
        assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    assert os.access(folder / "tool", os.X_OK)


def first_installed(site: Site, folder: Path) -> None:
    site.publish("1.0.1", ONE)
    ClientUpdater(UpdaterConfig(site.url, folder)).update()
    site.publish("1.0.2", TWO)


def without_root() -> List[str]:
    """What makes root obey permissions; nothing for a user, who does anyway."""
    if os.geteuid() != 0:
        return []
    return [
        need_tool("setpriv"),
        "--bounding-set=-dac_override,-dac_read_search,-fowner",
        "--inh-caps=-all",
    ]


@contextlib.contextmanager
def mode(folder: Path, bits: int) -> Iterator[None]:
    folder.chmod(bits)
    try:
        yield
    finally:
        folder.chmod(0o755)


# --- environment and limits -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "shell",
    [
        pytest.param("unset HOME TMPDIR TEMP TMP USER LANG", id="no HOME, no TMPDIR"),
        pytest.param(
            "export HOME=/nowhere TMPDIR=/nowhere TMP=/nowhere TEMP=/nowhere",
            id="HOME and TMPDIR that are not there",
        ),
        pytest.param("umask 077", id="umask 077"),
        pytest.param("umask 0", id="umask 0"),
        pytest.param("ulimit -n 64", id="64 descriptors"),
        pytest.param("ulimit -v 262144", id="256 MB of memory"),
        pytest.param("exec 0<&- 2>&-", id="no stdin, no stderr"),
        pytest.param("export LC_ALL=C PYTHONIOENCODING=ascii PYTHONUTF8=0", id="ASCII only"),
    ],
)
def test_it_lives_with(site: Site, tmp_path: Path, shell: str) -> None:
    lives(site, tmp_path / "app", shell=shell)


def test_it_lives_without_any_environment_and_with_nothing_of_python_but_the_library(
    site: Site, tmp_path: Path
) -> None:
    """`-S -E`, and no PATH. (`-I` leaves out the working directory: test_vendor uses it.)"""
    lives(site, tmp_path / "app", flags=["-S", "-E", "-W", "error"], env={})


def test_with_umask_0_nobody_else_may_write_what_runs(site: Site, tmp_path: Path) -> None:
    lives(site, tmp_path / "app", shell="umask 0")
    loose = [
        path
        for path in (tmp_path / "app").rglob("*")
        if not path.is_symlink() and path.stat().st_mode & 0o022
    ]
    assert loose == []


def test_with_a_home_and_a_temporary_folder_that_may_not_even_be_listed(
    site: Site, tmp_path: Path
) -> None:
    """So a temporary folder mounted noexec does not matter either."""
    (tmp_path / "locked").mkdir()
    with mode(tmp_path / "locked", 0o000):
        lives(
            site,
            tmp_path / "app",
            before=without_root(),
            shell=f"export HOME={tmp_path}/locked TMPDIR={tmp_path}/locked",
        )


@pytest.mark.parametrize("closed", ["1>&-", "0<&- 1>&-", "0<&- 1>&- 2>&-"])
def test_what_the_program_prints_into_a_closed_output_goes_nowhere(
    site: Site, tmp_path: Path, closed: str
) -> None:
    """The lock would be descriptor 1 else, and the program would write into it."""
    for number, tree in ((1, ONE), (2, TWO)):
        tree = {
            **tree,
            "main.sh": (b"#!/bin/sh\necho into the lock\necho to stderr >&2\nexit 7\n", "644"),
        }
        site.publish(f"1.0.{number}", tree)
        assert (
            client(
                site,
                tmp_path / "app",
                shell=f"exec {closed}",
                options=["--main", "main.sh", "--log-file", str(tmp_path / "log")],
            ).returncode
            == 7
        )
    for lock in ("lock", "runs/0"):
        assert (tmp_path / "app" / ".update" / lock).read_bytes() == b"released"
    assert "into the lock" not in (tmp_path / "log").read_text()


# --- places ---------------------------------------------------------------------------------------


def deep(tmp_path: Path) -> Path:
    """A folder whose path has 240 characters."""
    left = 240 - len(str(tmp_path))
    parts = ["d" * 50] * (left // 51)
    rest = left - 51 * len(parts)
    return tmp_path.joinpath(*parts, *(["r" * (rest - 1)] if rest > 1 else []))


@pytest.mark.parametrize(
    "installation",
    [
        pytest.param(lambda tmp: tmp / "My Program, version 1 (x86)", id="spaces"),
        pytest.param(lambda tmp: tmp / "我的程序" / "é", id="Chinese"),
        pytest.param(lambda tmp: tmp / "🙂🚀", id="emoji"),
        pytest.param(lambda tmp: tmp / 'it\'s "100%" $HOME & ;', id="a shell's characters"),
        pytest.param(deep, id="240 characters deep"),
    ],
)
def test_it_lives_on_a_path_with(
    site: Site, tmp_path: Path, installation: Callable[[Path], Path]
) -> None:
    lives(site, installation(tmp_path))


def test_it_lives_behind_a_symlink(site: Site, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    lives(site, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "main.py").exists()


def test_it_lives_on_another_file_system_than_everything_else(site: Site, tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    with tempfile.TemporaryDirectory(dir=str(memory)) as folder:
        lives(site, Path(folder) / "app")


def test_it_lives_where_parent_folders_may_be_passed_and_not_read(
    site: Site, tmp_path: Path
) -> None:
    app = tmp_path / "closed" / "deeper" / "app"
    app.mkdir(parents=True)
    with mode(tmp_path / "closed", 0o111), mode(tmp_path / "closed" / "deeper", 0o111):
        lives(site, app, before=without_root())


def test_in_a_folder_that_is_read_only_what_is_installed_starts_and_an_update_says_why_not(
    site: Site, tmp_path: Path
) -> None:
    app = tmp_path / "app"
    first_installed(site, app)
    with mode(app, 0o555), mode(app / ".update", 0o555), mode(app / "lib", 0o555):
        run, update = (client(site, app, verb, before=without_root()) for verb in ("run", "update"))
    assert (run.returncode, run.stdout) == (7, "version 1\n")
    assert (
        update.returncode == 1
        and "Permission denied" in update.stderr.splitlines()[-1]
        and "Traceback" not in update.stderr
    )
    lives(site, app)


@pytest.mark.parametrize("folder", ["", "lib"])
def test_a_folder_that_may_not_be_changed_is_named_before_anything_is_fetched(
    site: Site, tmp_path: Path, folder: str
) -> None:
    first_installed(site, tmp_path / "app")
    site.requests()
    with mode(tmp_path / "app" / folder, 0o555):
        done = client(site, tmp_path / "app", "update", before=without_root())
    assert done.returncode == 1 and f"{tmp_path / 'app' / folder} may not be changed" in done.stderr
    assert not any(path.endswith(".zip") for path in site.requests())
    lives(site, tmp_path / "app")


# --- networks -------------------------------------------------------------------------------------


def test_without_any_network_what_is_installed_starts_at_once(site: Site, tmp_path: Path) -> None:
    first_installed(site, tmp_path / "app")
    apart = [need_tool("unshare"), "-n"] if os.geteuid() == 0 else [need_tool("unshare"), "-rn"]
    if subprocess.run([*apart, "true"], stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("this machine does not let a process be cut off from the network")
    began = time.monotonic()
    done = client(site, tmp_path / "app", before=apart)
    assert (done.returncode, done.stdout) == (7, "version 1\n") and time.monotonic() - began < 4
    update = client(site, tmp_path / "app", "check", before=apart)
    assert (
        update.returncode == 1
        and len(update.stderr.strip().splitlines()[-1]) > 20
        and "Traceback" not in update.stderr
    )


@pytest.mark.slow
def test_a_name_service_that_hangs_holds_a_start_up_for_its_five_seconds_only(
    site: Site, tmp_path: Path
) -> None:
    first_installed(site, tmp_path / "app")
    (tmp_path / "usercustomize").mkdir()
    (tmp_path / "usercustomize" / "sitecustomize.py").write_text(
        "import socket, time\nsocket.getaddrinfo = lambda *_, **__: time.sleep(100)\n"
    )
    site.url = "http://updates.example/check"
    began = time.monotonic()
    done = client(site, tmp_path / "app", shell=f"export PYTHONPATH={tmp_path}/usercustomize")
    assert (done.returncode, done.stdout) == (7, "version 1\n")
    assert 4.5 < time.monotonic() - began < 10 and "has not answered yet" in done.stderr


def login_page(exchange: Exchange) -> None:
    exchange.reply(
        200, b"<!DOCTYPE html><title>Welcome to our hotel</title>", Content_Type="text/html"
    )


def to_the_login_page(exchange: Exchange) -> None:
    if exchange.path.startswith("/login"):
        return login_page(exchange)
    exchange.reply(302, Location=f"http://localhost:{exchange.server.server_port}/login?from=here")


@pytest.mark.parametrize("portal", [login_page, to_the_login_page])
def test_a_captive_portal_is_named_and_what_is_installed_starts(
    site: Site, tmp_path: Path, portal: Callable[[Exchange], None]
) -> None:
    first_installed(site, tmp_path / "app")
    site.origin.answer = portal
    check, run = (client(site, tmp_path / "app", verb) for verb in ("check", "run"))
    assert check.returncode == 1 and "login" in check.stderr and "browser" in check.stderr
    assert (run.returncode, run.stdout) == (7, "version 1\n")


def proxy_for(site: Site, serve: Serve, password: bool) -> str:
    """A proxy that alone knows where the site is; the URL for `http_proxy`."""

    def answer(exchange: Exchange) -> None:
        if password and exchange.headers.get("Proxy-Authorization") != "Basic dXNlcjpwQHNz":
            return exchange.reply(407, b"", Proxy_Authenticate="Basic")
        assert exchange.path.startswith("http://updates.example/")
        exchange.path = exchange.path[len("http://updates.example") :]
        site._answer(exchange)

    url = serve(answer).url
    return url.replace("//", "//user:p%40ss@") if password else url


@pytest.mark.parametrize("password", [False, True], ids=["without password", "with password"])
def test_it_lives_behind_a_proxy(site: Site, serve: Serve, tmp_path: Path, password: bool) -> None:
    proxy = proxy_for(site, serve, password)
    site.url = "http://updates.example/check"
    lives(site, tmp_path / "app", shell=f"export http_proxy={proxy}")


def test_a_proxy_without_its_password_is_a_sentence_that_says_how(
    site: Site, serve: Serve, tmp_path: Path
) -> None:
    proxy = proxy_for(site, serve, password=True)
    site.url = "http://updates.example/check"
    done = client(
        site,
        tmp_path / "app",
        "update",
        shell=f"export http_proxy={proxy.replace('user:p%40ss@', '')}",
    )
    assert done.returncode == 1 and "http_proxy=http://user:password@" in done.stderr


@pytest.fixture
def authority(tmp_path: Path) -> ssl.SSLContext:
    """The certificate that a proxy which reads TLS shows; its authority is tmp_path/cert.pem."""
    return certificate(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("knows", ["ca_file", "the system"])
def test_it_lives_behind_a_proxy_that_reads_tls(
    serve: Serve, authority: ssl.SSLContext, tmp_path: Path, knows: str
) -> None:
    site = Site(lambda answer: serve(answer, context=authority))
    site.publish("1.0.1", ONE)
    stranger = client(site, tmp_path / "app", "update")
    assert stranger.returncode == 1 and "name its file in `ca_file`" in stranger.stderr
    if knows == "ca_file":
        lives(site, tmp_path / "app", options=["--ca-file", str(tmp_path / "cert.pem")])
    else:
        lives(site, tmp_path / "app", shell=f"export SSL_CERT_FILE={tmp_path}/cert.pem")


@pytest.mark.slow
@pytest.mark.parametrize(
    "dates, word",
    [
        ("20000101000000Z 20010101000000Z", "out of date"),
        ("20480101000000Z 20491231000000Z", "not yet valid"),
    ],
)
def test_a_clock_that_is_years_off_is_named(
    serve: Serve, tmp_path: Path, dates: str, word: str
) -> None:
    site = Site(lambda answer: serve(answer, context=certificate(tmp_path, dates=dates)))
    site.publish("1.0.1", ONE)
    done = client(
        site, tmp_path / "app", "update", options=["--ca-file", str(tmp_path / "cert.pem")]
    )
    assert done.returncode == 1 and word in done.stderr and "clock" in done.stderr
