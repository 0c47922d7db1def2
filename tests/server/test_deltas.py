"""The server makes deltas to what is active, offers them in check/ once whole, and forgets them."""

from __future__ import annotations

import hashlib
import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any, Dict, List

import pytest

from nuitkal_mini.delta import packages
from nuitkal_mini.delta.format import DeltaError
from nuitkal_mini.problem import Problem
from nuitkal_mini.server import delta_maker
from nuitkal_mini.server.application import Application
from nuitkal_mini.server.backup import back_up
from nuitkal_mini.server.check_data import check_data
from nuitkal_mini.server.delta_maker import make_next
from nuitkal_mini.server.deltas import MAX_ATTEMPTS
from nuitkal_mini.server.export import export
from nuitkal_mini.server.store import lock_file, owned_names

from ..delta.programs import library
from ..delta.releases import Tree, apply_all
from ..support import start_server
from .caller import Caller, make_zip
from .visitor import make_visitor

NOISE = hashlib.shake_128(b"noise").digest(50_000)
OLD = {"lib.so": library("old"), "main.py": b"print(1)\n", "noise": NOISE}
NEW = {"lib.so": library("new"), "main.py": b"print(2)\n", "noise": NOISE}


def make_all(data: Path, count: int = 5) -> None:
    for _ in range(20):
        assert make_next(data, count)


def offered(call: Caller, channel: str = "") -> List[Dict[str, Any]]:
    deltas: List[Dict[str, Any]] = call.get(channel + "check/").json["deltas"]
    return deltas


def manifest(call: Caller, version: str) -> bytes:
    return call.media(call.get(f"versions/{version}/").json["manifest_url"])


def test_a_delta_is_offered_once_it_is_made(call: Caller, data: Path) -> None:
    call.upload("1.0.0", OLD)
    call.upload("1.0.1", NEW)
    assert offered(call) == []
    make_all(data)
    (delta,) = offered(call)
    content = call.media(delta["url"])
    assert delta["from"] == "1.0.0" and delta["url"].endswith("update_1.0.1.from_1.0.0.delta")
    assert (delta["size"], delta["hash"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert len(content) < 4000
    made = apply_all(content, Tree(OLD, manifest(call, "1.0.0")))
    assert made == {"lib.so": NEW["lib.so"], "main.py": NEW["main.py"]}


def test_deltas_are_made_from_the_last_releases_newest_first(call: Caller, data: Path) -> None:
    for number in range(5):
        call.upload(f"1.0.{number}", {**OLD, "main.py": b"print(%d)\n" % number})
    assert make_next(data, 3)
    assert [delta["from"] for delta in offered(call)] == ["1.0.3"]
    make_all(data, 3)
    assert [delta["from"] for delta in offered(call)] == ["1.0.3", "1.0.2", "1.0.1"]


def test_activating_another_release_makes_deltas_to_it(call: Caller, data: Path) -> None:
    call.upload("1.0.0", OLD)
    call.upload("1.0.1", NEW)
    make_all(data)
    call("POST", "set_active/1.0.0/")
    assert offered(call) == []
    make_all(data)
    assert [delta["from"] for delta in offered(call)] == ["1.0.1"]


def test_a_promoted_release_gets_deltas_in_its_channel(call: Caller, data: Path) -> None:
    call.upload("1.0.0", OLD)
    call.upload("1.0.1", NEW, channel="beta")
    call.send("POST", "promote/1.0.1/", {"from": "beta"})
    make_all(data)
    assert [delta["from"] for delta in offered(call)] == ["1.0.0"]
    assert offered(call, "channels/beta/") == []


def test_a_delta_that_does_not_pay_is_not_offered_and_not_tried_again(
    call: Caller, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call.upload("1.0.0", {"noise": NOISE})
    call.upload("1.0.1", {"noise": NOISE[::-1]})
    make_all(data)
    assert offered(call) == []

    def fail(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(packages, "write_delta", fail)
    make_all(data)


def test_deleting_either_release_deletes_the_delta(
    call: Caller, data: Path, app: Application
) -> None:
    for number in range(3):
        call.upload(f"1.0.{number}", {**OLD, "main.py": b"print(%d)\n" % number})
    make_all(data)
    assert [delta["from"] for delta in offered(call)] == ["1.0.1", "1.0.0"]
    assert call("DELETE", "versions/1.0.0/").status == 204
    assert [delta["from"] for delta in offered(call)] == ["1.0.1"]
    call("POST", "set_active/1.0.1/")
    assert call("DELETE", "versions/1.0.2/").status == 204
    assert list((data / "media").rglob("*.delta")) == []
    with app.store.database.read() as db:
        assert not any(name.endswith(".delta") for name in owned_names(db))


def test_a_failure_is_tried_again_a_few_times_and_then_left(
    call: Caller, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call.upload("1.0.0", OLD)
    call.upload("1.0.1", NEW)
    tried = []

    def fail(*_: object) -> None:
        tried.append(1)
        raise DeltaError("it does not work")

    monkeypatch.setattr(packages, "write_delta", fail)
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(Problem, match="does not work"):
            make_next(data, 5)
    make_all(data)
    assert len(tried) == MAX_ATTEMPTS and offered(call) == []


def test_a_damaged_package_gives_no_delta(call: Caller, data: Path) -> None:
    call.upload("1.0.0", {"a": b"x" * 1000})
    call.upload("1.0.1", {"a": b"y" * 1000})
    package = next((data / "media").rglob("update_1.0.1.zip"))
    other = make_zip({"a": b"z" * 1000})
    package.write_bytes(other)
    with pytest.raises(Problem, match="another 'a'"):
        make_next(data, 5)
    assert offered(call) == [] and list((data / "media").rglob("*.delta")) == []


def test_a_damaged_delta_is_found_and_made_again(call: Caller, data: Path) -> None:
    call.upload("1.0.0", OLD)
    call.upload("1.0.1", NEW)
    make_all(data)
    assert list(check_data(data)) == []
    (file,) = (data / "media").rglob("*.delta")
    content = file.read_bytes()
    file.write_bytes(b"damaged")
    assert [sentence for sentence in check_data(data) if str(file) in sentence]
    file.unlink()
    make_all(data)
    assert file.read_bytes() == content and list(check_data(data)) == []


def test_a_delta_goes_into_backup_and_export(call: Caller, data: Path, tmp_path: Path) -> None:
    call.upload("1.0.0", OLD)
    call.upload("1.0.1", NEW)
    make_all(data)
    export(data, tmp_path / "site", None, False, 1.0)
    back_up(data, tmp_path / "backup")
    for folder in ("site", "backup"):
        assert len(list((tmp_path / folder).rglob("*.delta"))) == 1
    check = json.loads((tmp_path / "site/api/nuitkal_pack/check.json").read_bytes())
    assert check["deltas"][0]["from"] == "1.0.0"


def test_two_processes_do_not_make_the_same_delta(call: Caller, data: Path) -> None:
    call.upload("1.0.0", OLD)
    call.upload("1.0.1", NEW)
    with open(data / delta_maker.LOCK, "ab") as lock:
        lock_file(lock)
        assert not make_next(data, 5)
    make_all(data)
    assert len(offered(call)) == 1


def test_the_admins_page_of_a_release_lists_its_deltas(
    app: Application, call: Caller, data: Path, quick_passwords: None
) -> None:
    call.upload("1.0.0", OLD)
    call.upload("1.0.1", NEW)
    visitor = make_visitor(app)
    assert "from 1.0.0" not in visitor.get("versions/1.0.1/").text
    make_all(data)
    page = visitor.get("versions/1.0.1/").text
    assert re.search(r"<li>from 1\.0\.0: \d\.\d kB, [2-6](\.\d)? % of the package", page)
    assert "of the package" not in visitor.get("versions/1.0.0/").text


@pytest.mark.parametrize("count", [5, pytest.param(0, marks=pytest.mark.slow)])
def test_a_running_server_makes_deltas_by_itself(call: Caller, data: Path, count: int) -> None:
    call.upload("1.0.0", OLD)
    call.upload("1.0.1", NEW)
    with start_server(data, "--deltas", str(count)) as server:
        until = time.monotonic() + (60 if count else 4)
        deltas: List[Dict[str, Any]] = []
        while not deltas and time.monotonic() < until:
            with urllib.request.urlopen(server.api + "check/") as reply:
                deltas = json.load(reply)["deltas"]
            time.sleep(0.2)
    assert [delta["from"] for delta in deltas] == ["1.0.0"] * bool(count)
