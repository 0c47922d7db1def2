"""The main job over real processes.

Publish a folder, update a client, go back, in channels, with signatures.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path
from typing import Iterator, List

import pytest
from hypothesis import HealthCheck, given, settings

from nuitkal_mini import ClientUpdater, UpdaterConfig
from nuitkal_mini.publish.__main__ import main as publish_main

from ..support import ROOT, RunningServer, need_tool, start_server
from ..trees import Tree, read_tree, trees, write_tree

OURS = (".update", ".backup", "local_version.json")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with start_server(tmp_path_factory.mktemp("server") / "data") as running:
        yield running


def run(module: str, *args: object, code: int = 0, **environ: str) -> str:
    """A command's standard output; its exit code must be `code`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", f"nuitkal_mini.{module}", *map(str, args)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def publish(
    server: RunningServer, folder: Path, version: str, *args: object, channel: str = "stable"
) -> str:
    return run(
        "publish",
        "upload",
        folder,
        "--app",
        "story",
        "--version",
        version,
        "--server",
        f"{server.api}channels/{channel}/",
        *args,
        NUITKAL_TOKEN=server.token,
    )


def client(
    server: RunningServer,
    folder: Path,
    verb: str,
    *args: object,
    channel: str = "stable",
    code: int = 0,
) -> str:
    return run(
        "client",
        verb,
        "--url",
        f"{server.api}channels/{channel}/check/",
        "--dir",
        folder,
        *args,
        code=code,
    )


def test_two_releases_an_update_and_the_way_back(server: RunningServer, tmp_path: Path) -> None:
    app, user = tmp_path / "app", tmp_path / "user"
    write_tree(
        app,
        {
            "main.py": (
                b"import sys\nprint('one', *sys.argv[1:])\nsys.exit(int(sys.argv[1]))\n",
                "644",
            ),
            **{f"lib/{number:03}.bin": (os.urandom(3000), "644") for number in range(100)},
        },
    )
    assert (
        publish(server, app, "1.0.0").splitlines()[-1]
        == "uploaded 1.0.0: 101 of 101 files sent, 0.3 MB of 0.3 MB"
    )
    assert client(server, user, "check", code=10) == "1.0.0 is available, nothing is installed\n"
    assert client(server, user, "run", "--", "7", "a b", "--flag", code=7) == "one 7 a b --flag\n"
    assert client(server, user, "check") == "1.0.0 is up to date\n"

    (app / "main.py").write_text("print('two')\n")
    assert (
        publish(server, app, "1.0.1").splitlines()[-1]
        == "uploaded 1.0.1: 1 of 101 files sent, 0.0 MB of 0.3 MB"
    )
    assert "same content" in publish(server, app, "1.0.1") or "already" in publish(
        server, app, "1.0.1"
    )
    assert client(server, user, "run") == "two\n"
    run("publish", "activate", "v1.0", "--server", server.api, NUITKAL_TOKEN=server.token)
    assert client(server, user, "run", "--", "0") == "one 0\n"
    assert client(server, user, "verify") == ""
    (user / "lib/007.bin").unlink()
    assert client(server, user, "verify", code=11) == "lib/007.bin\n"
    assert (
        client(server, user, "update") == "1.0.0 is installed\n"
        and client(server, user, "verify") == ""
    )
    assert read_tree(user, OURS)["lib/007.bin"] == read_tree(app)["lib/007.bin"]
    assert client(server, user, "rollback", code=1) == ""  # never up to what was withdrawn
    run("publish", "activate", "1.0.1", "--server", server.api, NUITKAL_TOKEN=server.token)
    assert client(server, user, "run") == "two\n"
    assert client(server, user, "rollback") == "1.0.0 is installed again\n"
    assert "installed: 1.0.0" in client(server, user, "status")
    assert client(server, user, "rollback", code=1) == ""


def test_a_promoted_release_costs_no_byte_and_is_the_same_in_the_other_channel(
    server: RunningServer, tmp_path: Path
) -> None:
    app = tmp_path / "app"
    write_tree(app, {"main.py": (b"print('beta')\n", "644"), "data": (os.urandom(10_000), "644")})
    publish(server, app, "2.0.0", channel="beta")
    run(
        "publish",
        "promote",
        "2.0.0",
        "--from",
        "beta",
        "--server",
        f"{server.api}channels/gamma/",
        NUITKAL_TOKEN=server.token,
    )
    assert client(server, tmp_path / "user", "run", channel="gamma") == "beta\n"
    assert "0 of 2 files sent" in publish(server, app, "2.0.1", channel="delta"), (
        "contents are shared between channels"
    )


def test_a_signed_release_and_a_server_that_lies(server: RunningServer, tmp_path: Path) -> None:
    app, user, key = tmp_path / "app", tmp_path / "user", tmp_path / "key"
    run("publish", "keygen", key)
    public = (tmp_path / "key.pub").read_text().splitlines()[1]
    write_tree(app, {"main.py": (b"print('signed')\n", "644")})
    publish(server, app, "1.0.0", "--key", key, channel="signed")
    assert client(server, user, "run", "--public-key", public, channel="signed") == "signed\n"
    write_tree(app, {"main.py": (b"print('forged')\n", "644")})
    publish(server, app, "1.0.1", channel="signed")
    client(server, user, "update", channel="signed", code=1)
    assert client(server, user, "run", channel="signed") == "signed\n"
    run(
        "publish",
        "resign",
        "1.0.0",
        "--server",
        f"{server.api}channels/signed/",
        "--key",
        key,
        NUITKAL_TOKEN=server.token,
    )
    run(
        "publish",
        "activate",
        "1.0.0",
        "--server",
        f"{server.api}channels/signed/",
        NUITKAL_TOKEN=server.token,
    )
    assert client(server, user, "check", channel="signed") == "1.0.0 is up to date\n"


def test_what_the_server_serves_satisfies_the_real_minisign(
    server: RunningServer, tmp_path: Path
) -> None:
    minisign = need_tool("minisign")
    run("publish", "keygen", tmp_path / "key")
    write_tree(tmp_path / "app", {"main.py": (b"print('signed')\n", "644")})
    publish(server, tmp_path / "app", "1.0.0", "--key", tmp_path / "key", channel="minisign")
    with urllib.request.urlopen(f"{server.api}channels/minisign/check/") as response:
        release = json.load(response)
    for name, url in (
        ("m.json", release["manifest_url"]),
        ("m.json.minisig", release["signature_url"]),
    ):
        with urllib.request.urlopen(url) as response:
            (tmp_path / name).write_bytes(response.read())
    subprocess.run(
        [minisign, "-V", "-m", tmp_path / "m.json", "-p", tmp_path / "key.pub"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    assert (tmp_path / "m.json.minisig").read_text() == release["signature"]


def test_many_clients_update_while_a_release_is_published(
    server: RunningServer, tmp_path: Path
) -> None:
    app = tmp_path / "app"
    write_tree(app, {"main.py": (b"print(1)\n", "644"), "data": (os.urandom(200_000), "644")})
    publish(server, app, "1.0.0", channel="crowd")
    (app / "main.py").write_text("print(2)\n")
    failed: List[BaseException] = []

    def update(number: int) -> None:
        config = UpdaterConfig(f"{server.api}channels/crowd/check/", tmp_path / f"user{number}")
        try:
            for _ in range(3):
                with ClientUpdater(config) as updater:
                    updater.update()
                    assert updater.verify() == []
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=update, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    publish(server, app, "1.0.1", channel="crowd")
    for thread in threads:
        thread.join()
    assert not failed


versions = itertools.count(1)


def leaves_room(tree: Tree) -> bool:
    """Whether main.py, without which a release is refused, can be added to the tree."""
    return all(path.split("/")[0].lower() != "main.py" for path in tree)


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(old=trees().filter(leaves_room), new=trees().filter(leaves_room))
def test_any_pair_of_trees_updates_and_rolls_back_exactly(
    server: RunningServer, old: Tree, new: Tree
) -> None:
    program: Tree = {"main.py": (b"", "644")}  # a release without it is refused
    old, new = {**old, **program}, {**new, **program}
    folder = Path(tempfile.mkdtemp())
    channel = f"pair{next(versions)}"
    try:
        for version, tree in (("1", old), ("2", new)):
            write_tree(folder / version, tree)
        updater = ClientUpdater(
            UpdaterConfig(f"{server.api}channels/{channel}/check/", folder / "user")
        )

        def upload(version: str) -> None:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(
                io.StringIO()
            ):
                assert (
                    publish_main(
                        [
                            "upload",
                            str(folder / version),
                            "--app",
                            channel,
                            "--version",
                            version,
                            "--server",
                            f"{server.api}channels/{channel}/",
                            "--token",
                            server.token,
                        ]
                    )
                    == 0
                )

        upload("1")
        assert updater.update() and read_tree(folder / "user", OURS) == old
        upload("2")
        updater.update()
        assert read_tree(folder / "user", OURS) == new and updater.installed_version == "2"
        assert updater.rollback() == "1" and read_tree(folder / "user", OURS) == old
        assert updater.update(force=True) and read_tree(folder / "user", OURS) == new
    finally:
        shutil.rmtree(folder)
