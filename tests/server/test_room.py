"""Room on the disk: what `--max-data` refuses, and which releases `--keep` deletes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from nuitkal_mini.server import create_app
from nuitkal_mini.server.application import Application
from nuitkal_mini.server.delta_maker import make_next
from nuitkal_mini.server.store import bytes_below

from .caller import BOUNDARY, Caller, files_below, make_form, make_zip

Make = Callable[..., Caller]


@pytest.fixture
def make(data: Path) -> Iterator[Make]:
    made: List[Application] = []

    def make(**options: int) -> Caller:
        made.append(create_app(data, **options))
        return Caller(made[-1])

    yield make
    for app in made:
        app.close()


def files(version: str, noise: int = 0) -> Dict[str, bytes]:
    return {"main.py": b"print('%s')\n" % version.encode(), "noise": os.urandom(noise)}


def versions(call: Caller, channel: str = "") -> List[str]:
    return [
        release["version"]
        for release in call.get(f"channels/{channel}/versions/" if channel else "versions/").json[
            "versions"
        ]
    ]


def packages(data: Path) -> List[str]:
    return sorted(Path(name).name for name in files_below(data / "media") if name.endswith(".zip"))


def test_the_oldest_inactive_releases_go_when_another_one_becomes_active(
    make: Make, data: Path
) -> None:
    call = make(keep=2)
    for number in range(1, 6):
        call.upload(f"1.{number}", files(f"1.{number}"))
    assert versions(call) == ["1.5", "1.4", "1.3"]
    assert packages(data) == [f"update_1.{number}.zip" for number in (3, 4, 5)]
    assert call.get("versions/1.1/").code == "no_such_version"


def test_the_release_below_the_active_one_stays_and_so_does_what_a_delta_leads_from(
    make: Make, data: Path
) -> None:
    call = make(keep=0)
    call.upload("1.0", files("1.0"))
    call.upload("1.1", files("1.1"))
    assert versions(call) == ["1.1", "1.0"]
    call.app.store.keep = 5
    old = {"lib": os.urandom(40_000), "main.py": b"1"}
    call.upload("1.2", old)
    call.upload("1.3", {**old, "main.py": b"2"}, is_active="false")
    call.upload("1.4", {**old, "main.py": b"3"})
    for _ in range(4):
        assert make_next(data, 3)
    sources = {delta["from"] for delta in call.get("check/").json["deltas"]}
    assert sources == {"1.2", "1.3"}
    call.app.store.keep = 0
    call.send("PATCH", "versions/1.4/", {"is_active": False})
    call.send("PATCH", "versions/1.4/", {"is_active": True})
    assert versions(call) == ["1.4", "1.3", "1.2"]


def test_what_waits_for_its_activation_and_what_was_taken_back_stays(make: Make) -> None:
    call = make(keep=0)
    call.upload("1.0", files("1.0"))
    call.upload("2.0", files("2.0"), is_active="false")
    assert versions(call) == ["2.0", "1.0"]
    call.upload("1.1", files("1.1"))  # 2.0 was uploaded before it, as is 1.0, the version below
    assert versions(call) == ["1.1", "1.0"]
    call.upload("1.2", files("1.2"))
    call.send("PATCH", "versions/1.1/", {"is_active": True})
    assert versions(call) == ["1.2", "1.1"]


def test_the_release_that_was_active_before_stays(make: Make) -> None:
    call = make(keep=1)
    call.upload("1.0", files("1.0"))
    for version in ("1.1", "1.2", "1.3"):
        call.upload(version, files(version), is_active="false")
    call.send("PATCH", "versions/1.3/", {"is_active": True})
    assert versions(call) == ["1.3", "1.2", "1.0"]
    call.upload("1.2.1", files("1.2.1"))  # below 1.3, which was active until now
    assert versions(call) == ["1.2.1", "1.3", "1.2"]


def test_nothing_goes_without_an_active_release_or_from_another_channel(make: Make) -> None:
    call = make(keep=0)
    call.upload("1.0", files("1.0"), is_active="false")
    call.upload("1.1", files("1.1"), is_active="false")
    assert versions(call) == ["1.1", "1.0"]
    for version in ("1.0", "1.1"):
        reply = call.send("POST", f"channels/beta/promote/{version}/", {"from": "stable"})
        assert reply.status == 201
    assert versions(call) == versions(call, "beta") == ["1.1", "1.0"]


def test_an_upload_beyond_the_limit_of_the_folder_is_507_and_fits_after_a_deletion(
    make: Make, data: Path
) -> None:
    call = make(max_data=600_000)
    assert bytes_below(data) < 150_000
    assert call.upload("1.0", files("1.0", 200_000)).status == 201
    assert call.upload("1.1", files("1.1", 100_000)).status == 201
    before = files_below(data / "media")
    reply = call.upload("1.2", files("1.2", 200_000))
    assert (reply.status, reply.code) == (507, "disk_full") and "--max-data" in reply.text
    assert files_below(data / "media") == before
    assert call.send("DELETE", "versions/1.0/", {}).status == 204
    assert call.upload("1.2", files("1.2", 200_000)).status == 201
    assert bytes_below(data) < 600_000


def test_what_says_no_length_is_measured_when_it_is_there(make: Make, data: Path) -> None:
    call = make(max_data=400_000)
    form = make_form({"version": "1.0", "file": make_zip(files("1.0", 500_000))})
    content_type = f"multipart/form-data; boundary={BOUNDARY}"
    chunked: Dict[str, Any] = {"wsgi.input_terminated": True, "CONTENT_LENGTH": ""}
    reply = call("POST", "upload/", form, CONTENT_TYPE=content_type, **chunked)
    assert (reply.status, reply.code) == (507, "disk_full")
    assert files_below(data / "media") == [] and bytes_below(data) < 300_000


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "b").write_bytes(b"x" * 10)
    if hasattr(os, "link"):
        os.link(tmp_path / "a", tmp_path / "below" / "a")
    assert bytes_below(tmp_path) == 1010
