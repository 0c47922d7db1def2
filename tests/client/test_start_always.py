"""A release that cannot be started goes back at once; `update_and_run` raises only LaunchError."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuitkal_mini.client import ClientUpdater, InstallError, LaunchError, UpdaterConfig, launch

from ..trees import Tree
from .conftest import Serve
from .site import Site

REPOSITORY = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name != "posix", reason="executable bits and exec errors of POSIX")
GOOD: Tree = {"run": (b"#!/bin/sh\nexit 7\n", "755")}


@pytest.fixture(autouse=True)
def own_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations with relative paths write there, and not into the checkout."""
    folder = tmp_path.with_name(tmp_path.name + "-work")
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture
def site(serve: Serve) -> Site:
    site = Site(serve)
    site.publish("1.0.1", GOOD)
    return site


# --- a release that cannot be started -------------------------------------------------------------


@posix
@pytest.mark.parametrize("confirm_seconds", [0.0, 0.5])
@pytest.mark.parametrize(
    "tree",
    [
        pytest.param({"x/run": GOOD["run"]}, id="moved"),
        pytest.param({"run": (GOOD["run"][0], "644")}, id="no executable bit"),
        pytest.param({"run": (b"\x7fELF\x02\x01\x01" + bytes(60), "755")}, id="another machine"),
        pytest.param({"run": (b"", "755")}, id="empty"),
        pytest.param({"run": (b"#!/no/such/interpreter\n", "755")}, id="no interpreter"),
        pytest.param({"run": (b"#!/bin/sh\nexec /no/such/program\n", "755")}, id="ends by exec"),
    ],
)
def test_a_new_version_that_cannot_be_started_goes_back_in_the_same_start(
    site: Site, tmp_path: Path, tree: Tree, confirm_seconds: float
) -> None:
    config = UpdaterConfig(
        site.url, tmp_path / "app", main_script="run", confirm_seconds=confirm_seconds
    )
    with ClientUpdater(config) as updater:
        assert updater.update_and_run([]) == 7
        site.publish("1.0.2", tree)
        assert updater.update_and_run([]) == 7 and updater.installed_version == "1.0.1"
        assert updater.update_and_run([]) == 7 and updater.installed_version == "1.0.1"
        site.publish("1.0.3", {"run": (b"#!/bin/sh\nexit 0\n", "755")})
        assert updater.update_and_run([]) == 0 and updater.installed_version == "1.0.3"


@posix
def test_a_version_that_has_started_once_is_kept_even_when_it_ends_with_an_error(
    site: Site, tmp_path: Path
) -> None:
    config = UpdaterConfig(site.url, tmp_path / "app", main_script="run")
    with ClientUpdater(config) as updater:
        assert updater.update_and_run([]) == 7
        site.publish("1.0.2", {"run": (b"#!/bin/sh\nexit 1\n", "755")})
        assert updater.update_and_run([]) == 1 and updater.installed_version == "1.0.2"
        (tmp_path / "app" / "run").chmod(0o644)
        with pytest.raises(LaunchError, match="not executable"):
            updater.run([])
        assert updater.installed_version == "1.0.2"


@posix
def test_the_first_version_has_no_way_back_and_says_what_is_wrong(
    serve: Serve, tmp_path: Path
) -> None:
    site = Site(serve)
    site.publish("1.0.1", {"run": (GOOD["run"][0], "644")})
    with ClientUpdater(UpdaterConfig(site.url, tmp_path / "app", main_script="run")) as updater:
        with pytest.raises(LaunchError, match="not executable"):
            updater.update_and_run([])


def test_a_folder_in_a_onefiles_unpack_folder_is_refused(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Compiled:
        onefile = True
        standalone = True
        containing_dir = str(tmp_path)

    monkeypatch.setattr(launch, "__compiled__", Compiled, raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "onefile_1" / "python"))
    config = UpdaterConfig(site.url, tmp_path / "onefile_1" / "app", main_script="run")
    with ClientUpdater(config) as updater:
        with pytest.raises(InstallError, match="own_folder"):
            updater.update()
        with pytest.raises(LaunchError, match="own_folder"):
            updater.update_and_run([])
    assert os.listdir(tmp_path) == []


# --- whatever is broken ---------------------------------------------------------------------------

VALUES = st.sampled_from([None, "", "x", "a/b", "\0", "\udcff", -1, 0, 1.5, float("nan"), b"b", ()])
FIELDS = st.sampled_from(
    [
        "check_api_url",
        "client_dir",
        "main_script",
        "version_file",
        "timeout",
        "chunk_size",
        "verify_ssl",
        "progress_callback",
        "app",
        "public_keys",
        "preserve",
        "retries",
        "python",
        "ca_file",
        "headers",
        "log_file",
        "confirm_seconds",
        "check_seconds",
        "lock_seconds",
        "max_age_days",
        "minimum_version",
    ]
)
STATES = st.sampled_from(
    [
        ("local_version.json", b""),
        ("local_version.json", b"[]"),
        ("local_version.json", None),
        (".update/state.json", b"{"),
        (".update/journal.json", b"{}"),
        (".update/lock", None),
        (".update/runs", b"a file"),
        (".update", b"a file"),
        (".update/staging", b"a file"),
        (".backup", b"a file"),
    ]
)


@posix
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    fields=st.dictionaries(FIELDS, VALUES, max_size=2),
    states=st.lists(STATES, max_size=2),
)
def test_whatever_configuration_and_folder_are_only_a_launch_error_is_raised(
    site: Site, tmp_path: Path, fields: Any, states: Any
) -> None:
    app = tmp_path / "app"
    shutil.rmtree(app, ignore_errors=True)
    config = UpdaterConfig(site.url, app, main_script="run", retries=0, lock_seconds=0.1)
    with ClientUpdater(config) as updater:
        updater.update()
        for path, content in states:
            if (app / path).is_dir():
                shutil.rmtree(app / path)
            elif (app / path).exists():
                (app / path).unlink()
            if content is not None and (app / path).parent.is_dir():
                (app / path).write_bytes(content)
        for name, value in fields.items():
            setattr(config, name, value)
        try:
            assert updater.update_and_run([]) == 7
        except LaunchError as error:
            assert str(error)


@posix
def test_a_working_directory_that_is_gone_matters_only_for_relative_paths(
    site: Site, tmp_path: Path
) -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from nuitkal_mini.client import *\n"
        "os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
        "config = UpdaterConfig(sys.argv[2], sys.argv[3], main_script='run', retries=0)\n"
        "try:\n    sys.exit(ClientUpdater(config).update_and_run([]))\n"
        "except LaunchError as error:\n    print(error)"
    )
    # -I: with "" in sys.path, Python 3.13 itself cannot import in a folder that is gone.
    command = [sys.executable, "-I", "-c", code, str(REPOSITORY), site.url]
    for folder, exit_code in ((str(tmp_path / "app"), 7), ("app", 0)):
        done = subprocess.run(
            [*command, folder], cwd=str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert done.returncode == exit_code, done.stderr
    assert b"working directory is gone" in done.stdout


@posix
def test_a_signal_handler_in_c_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    (tmp_path / "main.sh").write_text("exit 7\n")
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(signal, "getsignal", lambda _: None)
    assert launch.run("main.sh", tmp_path) == 7
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) == before
