"""What lies on the disk and in the database: composed packages, shared contents, deletions,
crashes, races.
"""

from __future__ import annotations

import io
import os
import random
import sqlite3
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Set

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuitkal_mini.entries import FileEntry, link_entry
from nuitkal_mini.manifest import Manifest, dumps
from nuitkal_mini.server import create_app
from nuitkal_mini.zip_read import read_directory

from .caller import Caller, files_below, make_manifest, make_zip, sha256


def noise(seed: str, size: int = 3000) -> bytes:
    """Bytes that do not compress, always the same for a seed."""
    return random.Random(seed).getrandbits(8 * size).to_bytes(size, "big")


OLD = {"app/main.py": b"one\n" * 100, "lib/big.so": noise("big"), "readme": b"text"}
NEW = {**OLD, "app/main.py": b"two\n" * 100, "copy/of/big.so": OLD["lib/big.so"]}


def upload_partial(
    call: Caller, version: str, tree: Dict[str, bytes], sent: Dict[str, bytes], **parts: Any
) -> Any:
    return call.upload(
        version,
        file=make_zip(sent, b"nuitkal-partial"),
        manifest=make_manifest(version, tree),
        **parts,
    )


def contents_of(package: bytes) -> Dict[str, bytes]:
    """The package as zipfile reads it, which knows nothing of our reader and writer."""
    with zipfile.ZipFile(io.BytesIO(package)) as opened:
        assert opened.testzip() is None
        return {name: opened.read(name) for name in opened.namelist()}


# --- composing


def test_what_the_server_holds_need_not_be_sent(call: Caller) -> None:
    call.upload("1.0", OLD)
    reply = upload_partial(call, "1.1", NEW, {"app/main.py": NEW["app/main.py"]})
    package = call.media(reply.json["download_url"])
    assert reply.status == 201 and contents_of(package) == NEW
    assert (reply.json["file_hash"], reply.json["file_size"]) == (sha256(package), len(package))


def test_a_composed_package_has_the_newest_contents_last(call: Caller) -> None:
    call.upload("1.0", {"z": b"first", "y": noise("y")})
    upload_partial(
        call,
        "1.1",
        {"z": b"first", "y": noise("y"), "b": b"second", "a": noise("a")},
        {"b": b"second", "a": noise("a")},
    )
    tree = {"0": b"third", "a": noise("a"), "b": b"second", "y": noise("y"), "z": b"first"}
    reply = upload_partial(call, "1.2", tree, {"0": b"third"})
    package = io.BytesIO(call.media(reply.json["download_url"]))
    assert [
        member.path
        for member in sorted(read_directory(package).members, key=lambda member: member.offset)
    ] == ["y", "z", "a", "b", "0"]


def test_the_order_of_contents_survives_the_release_that_brought_them(call: Caller) -> None:
    call.upload("1.0", {"z": b"old"})
    upload_partial(call, "1.1", {"z": b"old", "a": b"newer"}, {"a": b"newer"})
    call("DELETE", "versions/1.0/")
    reply = upload_partial(
        call, "1.2", {"z": b"old", "a": b"newer", "0": b"newest"}, {"0": b"newest"}
    )
    assert list(contents_of(call.media(reply.json["download_url"]))) == ["z", "a", "0"]


def test_compressed_bytes_are_copied_as_they_are(call: Caller) -> None:
    """Stored by the first uploader although it would deflate: recompressing would show."""
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_STORED) as package:
        package.writestr("a", b"a" * 5000)
    call.upload("1.0", file=stored.getvalue())
    reply = upload_partial(call, "1.1", {"a": b"a" * 5000, "b": b"b"}, {"b": b"b"})
    assert {
        member.path: member.method
        for member in read_directory(io.BytesIO(call.media(reply.json["download_url"]))).members
    }["a"] == 0


def test_contents_are_found_under_other_names_and_in_other_channels(call: Caller) -> None:
    call.upload("1.0", OLD, channel="beta")
    reply = upload_partial(call, "1.0", {"renamed": OLD["lib/big.so"]}, {})
    assert contents_of(call.media(reply.json["download_url"])) == {"renamed": OLD["lib/big.so"]}


def test_one_content_sent_once_serves_several_paths(call: Caller) -> None:
    reply = upload_partial(call, "1.0", {"a": b"same", "b": b"same"}, {"b": b"same"})
    assert contents_of(call.media(reply.json["download_url"])) == {"a": b"same", "b": b"same"}


def test_a_complete_package_does_not_keep_the_mark_of_a_partial_one(call: Caller) -> None:
    reply = upload_partial(call, "1.0", OLD, OLD)
    assert read_directory(io.BytesIO(call.media(reply.json["download_url"]))).comment == b""


def test_links_and_modes_come_from_the_manifest(call: Caller) -> None:
    entry = FileEntry("bin/run", 4, sha256(b"text"), "755")
    manifest = dumps(Manifest("tests", "1.1", (entry, link_entry("current", "bin/run"))))
    call.upload("1.0", OLD)
    reply = call.upload("1.1", file=make_zip({}, b"nuitkal-partial"), manifest=manifest)
    members = {
        member.path: member
        for member in read_directory(io.BytesIO(call.media(reply.json["download_url"]))).members
    }
    assert (members["bin/run"].mode, members["current"].is_link) == ("755", True)
    assert call.media(reply.json["manifest_url"]) == manifest


def test_an_empty_tree_can_be_a_release_when_its_manifest_says_so(call: Caller) -> None:
    assert call.upload("1.0", {}, manifest=make_manifest("1.0", {})).status == 201


def test_what_is_nowhere_is_named(call: Caller) -> None:
    tree = {f"file{number}": noise(str(number), 10) for number in range(5)}
    reply = call.upload("1.0", {}, manifest=make_manifest("1.0", tree))
    assert (reply.code, reply.json["error"]) == (
        "incomplete",
        "5 个文件的内容既不在 ZIP 文件中，也不在服务器上：file0, file1, file2, …",
    )


def test_a_damaged_package_is_no_source_any_more(call: Caller) -> None:
    first = call.upload("1.0", OLD).json
    path = call.app.store.media / first["download_url"].split("/media/")[1]
    path.write_bytes(path.read_bytes()[:100])
    assert (
        upload_partial(call, "1.1", NEW, {"app/main.py": NEW["app/main.py"]}).code == "incomplete"
    )
    wanted = sorted(map(sha256, OLD.values()))
    assert sorted(call.send("POST", "missing/", {"hashes": wanted}).json["missing"]) == wanted
    assert upload_partial(call, "1.1", NEW, NEW).status == 201


# --- deleting


def test_a_deleted_release_takes_its_contents_along_unless_another_has_them(call: Caller) -> None:
    call.upload("1.0", {"a": b"alone", "b": b"shared"})
    call.upload("1.1", {"b": b"shared"})
    call("DELETE", "versions/1.0/")
    assert call.send(
        "POST", "missing/", {"hashes": [sha256(b"alone"), sha256(b"shared")]}
    ).json == {"missing": [sha256(b"alone")]}
    assert len(files_below(call.app.store.media)) == 2


def test_a_deleted_version_comes_back_only_with_the_same_files(call: Caller) -> None:
    call.upload("v1.0", OLD)
    # Now the channel has an app
    call.upload("2.0", {"x": b""}, manifest=make_manifest("2.0", {"x": b""}))
    call("DELETE", "versions/1.0/")
    refused = call.upload("1.0.0", NEW)
    assert (refused.status, refused.code) == (409, "version_exists")
    back = call.upload("1.0.0", OLD, changelog="again")
    assert (back.status, back.json["version"], back.json["changelog"]) == (201, "v1.0", "again")
    assert contents_of(call.media(back.json["download_url"])) == OLD
    assert [release["version"] for release in call.get("versions/").json["versions"]] == [
        "v1.0",
        "2.0",
    ]
    assert call.send("POST", "missing/", {"hashes": [sha256(OLD["readme"])]}).json == {
        "missing": []
    }


def test_missing_answers_thousands_of_hashes_in_the_order_asked_each_once(call: Caller) -> None:
    call.upload("1.0", {f"f{number}": b"%d" % number for number in range(700)})
    call.upload("1.1", {"g": b"1"})  # two packages hold it
    asked = [sha256(b"%d" % number) for number in range(1400)][::-1]
    reply = call.send("POST", "missing/", {"hashes": asked + asked})
    assert reply.json == {"missing": asked[:700]}


def test_a_package_under_one_url_never_changes_its_bytes(call: Caller) -> None:
    """Clients, proxies and browsers keep it for ever."""
    first = call.upload("1.0", OLD).json
    call.upload("1.1", NEW)
    call("DELETE", "versions/1.0/")
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as package:
        for path, content in OLD.items():
            package.writestr(path, content)
    refused = call.upload("1.0", file=stored.getvalue())
    assert (refused.status, refused.code) == (409, "version_exists")
    back = call.upload("1.0", OLD).json
    assert (back["download_url"], back["file_hash"]) == (
        first["download_url"],
        first["file_hash"],
    )


def test_the_smallest_copy_of_a_content_goes_into_a_composed_package(call: Caller) -> None:
    big, small = b"a" * 300_000, {"small": b"1"}
    call.upload("1.0", {"big": big})
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as package:
        package.writestr("big", big)
    assert call.upload("1.1", file=stored.getvalue()).json["file_size"] > len(big)
    composed = upload_partial(call, "1.2", {"big": big, **small}, small).json
    assert composed["file_size"] < 2000
    both = io.BytesIO()
    with zipfile.ZipFile(both, "w") as package:
        package.writestr("big", big)
        package.comment = b"nuitkal-partial"
    tree = {"big": big, **small, "more": b"2"}
    refused = call.upload("1.3", file=both.getvalue(), manifest=make_manifest("1.3", tree))
    assert refused.code == "incomplete"
    call.upload("1.4", {"more": b"2"})
    composed = call.upload("1.3", file=both.getvalue(), manifest=make_manifest("1.3", tree)).json
    assert composed["file_size"] < 2000
    assert contents_of(call.media(composed["download_url"])) == tree


def test_contents_from_before_their_size_was_recorded_are_still_a_source(call: Caller) -> None:
    call.upload("1.0", OLD)
    with call.app.store.database.write() as db:
        db.execute("UPDATE contents SET stored_size = NULL")
    composed = upload_partial(call, "1.1", {**OLD, "new": b"1"}, {"new": b"1"}).json
    assert contents_of(call.media(composed["download_url"])) == {**OLD, "new": b"1"}


def test_a_promoted_release_outlives_its_origin(call: Caller) -> None:
    call.upload("1.0", OLD, channel="beta")
    promoted = call.send("POST", "promote/1.0/", {"from": "beta"}).json
    package = call.app.store.media / promoted["download_url"].split("/media/")[1]
    assert package.stat().st_nlink == 2
    call.upload("1.1", NEW, channel="beta")
    call("DELETE", "channels/beta/versions/1.0/")
    assert package.stat().st_nlink == 1 and contents_of(package.read_bytes()) == OLD


def test_promoting_works_without_hard_links(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError("this file system has no hard links")

    monkeypatch.setattr(os, "link", refuse)
    call.upload("1.0", OLD, channel="beta")
    promoted = call.send("POST", "promote/1.0/", {"from": "beta"}).json
    assert contents_of(call.media(promoted["download_url"])) == OLD


# --- the database's own rules


def test_what_is_committed_is_on_the_disk(call: Caller) -> None:
    """Some builds of SQLite sync only at checkpoints unless told otherwise; the sweep of power cuts
    relies on this.
    """
    with call.app.store.database.read() as db:
        assert (
            db.execute("PRAGMA journal_mode").fetchone(),
            db.execute("PRAGMA synchronous").fetchone(),
        ) == (("wal",), (2,))


def test_two_active_releases_are_impossible(call: Caller) -> None:
    call.upload("1.0", OLD)
    call.upload("1.1", NEW)
    with pytest.raises(sqlite3.IntegrityError), call.app.store.database.write() as db:
        db.execute("UPDATE releases SET is_active = 1")


def test_the_log_tells_who_did_what_and_cannot_be_changed(call: Caller) -> None:
    call.upload("1.0", OLD)
    call.upload("1.1", NEW, is_active="no")
    call("POST", "set_active/1.1/")
    call.send("PATCH", "versions/1.1/", {"changelog": "x", "is_active": False})
    call("DELETE", "versions/1.0/")
    call.send("POST", "channels/beta/promote/1.1/", {"from": "stable"})
    call("POST", "set_active/9/")
    with call.app.store.database.read() as db:
        rows = db.execute("SELECT who, action, detail FROM log ORDER BY id").fetchall()
        assert rows[0] == ("tests", "token_create", "tests")
        assert {row[0] for row in rows[1:]} == {"token tests"}
        assert [row[1:] for row in rows[1:]] == [
            ("upload", "stable 1.0"),
            ("activate", "stable 1.0"),
            ("upload", "stable 1.1"),
            ("activate", "stable 1.1"),
            ("edit", "stable 1.1: changelog"),
            ("deactivate", "stable 1.1"),
            ("delete", "stable 1.0"),
            ("promote", "beta 1.1 from stable"),
            ("activate", "beta 1.1"),
        ]
        for statement in ("DELETE FROM log", "UPDATE log SET who = 'nobody'"):
            with pytest.raises(sqlite3.IntegrityError):
                db.execute(statement)


def test_uploads_are_ordered_even_when_the_clock_is_set_back(
    call: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    call.upload("1.0", OLD)
    monkeypatch.setattr("nuitkal_mini.server.releases.now", lambda: 1)
    call.upload("1.1", NEW)
    assert [release["version"] for release in call.get("versions/").json["versions"]] == [
        "1.1",
        "1.0",
    ]


def test_two_versions_that_differ_in_case_are_one_file_where_case_is_folded(
    call: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call.upload("1.0-RC", OLD).status == 201
    assert call.upload("1.0-rc", NEW).status == 201
    monkeypatch.setattr(Path, "exists", lambda path: True)
    assert call.upload("1.0-Rc", NEW).code == "version_exists"


# --- crashes


def test_what_a_crash_left_is_swept_at_the_next_start(call: Caller, data: Path) -> None:
    kept = call.upload("1.0", OLD, manifest=make_manifest("1.0", OLD)).json
    before = files_below(data / "media")
    folder = (data / "media" / kept["download_url"].split("/media/")[1]).parent
    for name in ("update_2.0.zip", "update_2.0.json", "update_1.0.json.minisig"):
        (folder / name).write_bytes(b"left behind")
    (folder / "robots.txt").write_bytes(b"the operator's own")
    orphan = data / "incoming" / "of-a-dead-server"
    orphan.mkdir()
    (orphan / "upload-x").write_bytes(b"half")
    (data / "incoming" / "of-a-dead-server.lock").write_bytes(b"")
    second = create_app(data)
    assert files_below(data / "media") == sorted(
        before + [str((folder / "robots.txt").relative_to(data / "media"))]
    )
    assert not orphan.exists() and not orphan.with_name("of-a-dead-server.lock").exists()
    second.close()


def test_the_sweep_leaves_what_another_server_is_writing(call: Caller, data: Path) -> None:
    with call.app.store.scratch() as folder:
        (folder / "upload-x").write_bytes(b"half")
        create_app(data).close()
        assert (folder / "upload-x").exists()
    assert call.upload("1.0", OLD).status == 201


def test_a_release_whose_files_are_gone_is_reported_and_its_contents_are_asked_for(
    call: Caller, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = call.upload("1.0", OLD).json["download_url"]
    (data / "media" / url.split("/media/")[1]).unlink()
    create_app(data).close()
    assert "update_1.0.zip are gone" in caplog.text
    assert (
        len(
            call.send("POST", "missing/", {"hashes": sorted(map(sha256, OLD.values()))}).json[
                "missing"
            ]
        )
        == 3
    )


def test_closing_leaves_no_unfinished_files(data: Path) -> None:
    create_app(data).close()
    assert list((data / "incoming").iterdir()) == []


# --- races


def test_of_two_uploads_of_a_version_one_wins(call: Caller) -> None:
    barrier = threading.Barrier(4)
    replies: List[Any] = []

    def upload(number: int) -> None:
        barrier.wait()
        replies.append(call.upload("1.0" if number % 2 else "v1", {"a": noise(str(number))}))

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply.status for reply in replies) == [201, 409, 409, 409]
    won = next(reply.json for reply in replies if reply.status == 201)
    assert sha256(call.media(won["download_url"])) == won["file_hash"]
    assert len(files_below(call.app.store.media)) == 2


def test_what_one_server_changes_another_one_shows(call: Caller, data: Path) -> None:
    second = create_app(data)
    other = Caller.__new__(Caller)
    other.app, other.token = second, call.token
    call.upload("1.0", OLD)
    assert other.get("check/").json["version"] == "1.0"
    other.upload("1.1", NEW)
    assert call.get("check/").json["version"] == "1.1"
    call("POST", "set_active/1.0/")
    assert (call.get("check/").json["version"], other.get("check/").json["version"]) == (
        "1.0",
        "1.0",
    )
    second.close()


# --- any sequence of calls

VERSIONS = st.sampled_from(["1.0", "1.1", "2.0"])
CHANNELS = st.sampled_from(["stable", "beta"])
CONTENTS = st.sampled_from([b"", b"one", b"two", b"three" * 300])
TREES = st.dictionaries(st.sampled_from(["a", "b", "c/d"]), CONTENTS, min_size=1)
STEPS = st.one_of(
    st.tuples(st.just("upload"), CHANNELS, VERSIONS, TREES, st.booleans()),
    st.tuples(st.sampled_from(["activate", "deactivate", "delete", "promote"]), CHANNELS, VERSIONS),
)


class Model:
    """What the server should hold: channel -> version -> tree, which version is active, and what
    deleted ones were.
    """

    def __init__(self) -> None:
        self.live: Dict[str, Dict[str, Dict[str, bytes]]] = {"stable": {}, "beta": {}}
        self.gone: Dict[str, Dict[str, Dict[str, bytes]]] = {"stable": {}, "beta": {}}
        self.active: Dict[str, str] = {}

    def held(self) -> Set[bytes]:
        return {
            content
            for releases in self.live.values()
            for tree in releases.values()
            for content in tree.values()
        }

    def take(self, channel: str, version: str, tree: Dict[str, bytes], is_active: bool) -> int:
        if version in self.live[channel] or self.gone[channel].get(version, tree) != tree:
            return 409
        self.live[channel][version] = tree
        if is_active:
            self.active[channel] = version
        return 201

    def step(self, name: str, channel: str, version: str) -> int:
        if name == "promote":
            other = "beta" if channel == "stable" else "stable"
            return (
                self.take(channel, version, self.live[other][version], True)
                if version in self.live[other]
                else 404
            )
        if version not in self.live[channel]:
            return 404
        if name == "activate":
            self.active[channel] = version
        elif self.active.get(channel) == version:
            if name == "delete":
                return 409
            del self.active[channel]
        elif name == "delete":
            self.gone[channel][version] = self.live[channel].pop(version)
            return 204
        return 200


def perform(
    call: Caller,
    model: Model,
    name: str,
    channel: str,
    version: str,
    tree: Dict[str, bytes],
    is_active: bool,
) -> int:
    base = f"channels/{channel}/"
    if name == "upload":  # as `publish` does it: only what the server lacks
        lacking = set(
            call.send("POST", "missing/", {"hashes": sorted(map(sha256, tree.values()))}).json[
                "missing"
            ]
        )
        assert lacking == set(map(sha256, set(tree.values()) - model.held()))
        sent = {path: content for path, content in tree.items() if sha256(content) in lacking}
        return upload_partial(
            call, version, tree, sent, channel=channel, is_active=str(is_active)
        ).status
    if name == "promote":
        return call.send(
            "POST",
            f"{base}promote/{version}/",
            {"from": "beta" if channel == "stable" else "stable"},
        ).status
    if name == "delete":
        return call("DELETE", f"{base}versions/{version}/").status
    return call.send(
        "PATCH", f"{base}versions/{version}/", {"is_active": name == "activate"}
    ).status


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, max_size=15))
def test_any_sequence_of_calls_leaves_what_it_should(steps: List[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        app, model = create_app(folder), Model()
        call = Caller(app)
        for name, channel, version, *rest in steps:
            tree, is_active = rest or ({}, True)
            status = perform(call, model, name, channel, version, tree, is_active)
            assert status == (
                model.take(channel, version, tree, is_active)
                if name == "upload"
                else model.step(name, channel, version)
            )
        for channel, releases in model.live.items():
            shown = {
                release["version"]: release
                for release in call.get(f"channels/{channel}/versions/").json["versions"]
            }
            assert {
                version: contents_of(call.media(release["download_url"]))
                for version, release in shown.items()
            } == releases
            active = [version for version, release in shown.items() if release["is_active"]]
            assert active == ([model.active[channel]] if channel in model.active else [])
            assert call.get(f"channels/{channel}/check/").json.get("version") == model.active.get(
                channel
            )
        assert len(files_below(app.store.media)) == 2 * sum(map(len, model.live.values()))
        app.close()
