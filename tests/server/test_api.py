"""The contract's JSON API, call by call and error by error."""

from __future__ import annotations

import errno
import json
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any, Dict, List

import pytest

from nuitkal_mini.client.release import MAX_CHECK_BYTES
from nuitkal_mini.server import create_app, releases
from nuitkal_mini.server.releases import MAX_CHANGELOG_BYTES

from .caller import BASE, BOUNDARY, Caller, make_manifest, make_signature, make_zip, sha256

TREE = {"main.py": b"print('one')\n", "lib/a.so": bytes(5000)}
SIGNATURE = make_signature(make_manifest("1.0", TREE), "1.0")


def test_a_new_server_has_no_active_version(call: Caller) -> None:
    reply = call.get("check/")
    assert (reply.status, reply.code) == (404, "no_active_version")
    assert call.get("versions/").json == {"count": 0, "versions": []}


def test_an_upload_is_what_check_offers(call: Caller) -> None:
    package = make_zip(TREE)
    reply = call.upload("1.0.1", file=package, changelog="第一版\n<b>bold</b>")
    release = reply.json
    assert (reply.status, release.pop("message")) == (201, "版本上传成功")
    assert re.fullmatch(
        r"http://updates\.test/media/nuitkal_packs/20\d\d/[01]\d/update_1\.0\.1\.zip",
        release["download_url"],
    )
    assert release["manifest_url"] == release["download_url"][:-4] + ".json"
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", release["upload_time"])
    assert {
        name: release[name]
        for name in (
            "version",
            "file_hash",
            "file_size",
            "changelog",
            "is_active",
            "signature",
            "signature_url",
        )
    } == {
        "version": "1.0.1",
        "file_hash": sha256(package),
        "file_size": len(package),
        "changelog": "第一版\n<b>bold</b>",
        "is_active": True,
        "signature": None,
        "signature_url": None,
    }
    assert call.get("check/").json == {**release, "deltas": [], "rotations": []}
    assert call.media(release["download_url"]) == package


def test_the_server_writes_the_manifest_of_an_upload_without_one(call: Caller) -> None:
    release = call.upload("1.0", TREE).json
    manifest = json.loads(call.media(release["manifest_url"]))
    assert manifest == json.loads(make_manifest("1.0", TREE, app=""))


def test_a_publishers_manifest_and_signature_are_kept_byte_for_byte(call: Caller) -> None:
    manifest = b"  " + make_manifest("1.0", TREE) + b"\n"
    release = call.upload("1.0", TREE, manifest=manifest, signature=SIGNATURE).json
    assert call.media(release["manifest_url"]) == manifest
    assert call.media(release["signature_url"]) == release["signature"].encode() == SIGNATURE
    assert call.get("check/").json["signature"] == release["signature"]


@pytest.mark.parametrize(
    "path", ["check", "check/", "channels/stable/check", "channels/stable/check/"]
)
def test_paths_work_with_and_without_the_final_slash_and_the_channels_name(
    call: Caller, path: str
) -> None:
    call.upload("1.0", TREE)
    assert call.get(path).json["version"] == "1.0"


def test_check_is_the_same_document_for_every_client_and_costs_nothing_when_it_is_known(
    call: Caller,
) -> None:
    call.upload("1.0", TREE)
    first = call.get("check/")
    assert call("GET", "check/", query="version=0.9") == first
    assert first.headers["cache-control"] == "private, no-cache"  # its URLs depend on the Host
    again = call.get("check/", HTTP_IF_NONE_MATCH=f'"other", {first.headers["etag"]}')
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
    call.upload("1.1", {**TREE, "new": b"1"})
    changed = call.get("check/", HTTP_IF_NONE_MATCH=first.headers["etag"])
    assert (changed.status, changed.json["version"]) == (200, "1.1")


def test_head_is_get_without_the_body(call: Caller) -> None:
    call.upload("1.0", TREE)
    got, head = call.get("check/"), call("HEAD", "check/")
    assert (head.status, head.headers, head.body) == (200, got.headers, b"")


def test_urls_begin_with_the_address_of_the_request(call: Caller) -> None:
    call.upload("1.0", TREE)
    urls = [
        call.get("check/", **environ).json["download_url"].split("/media/")[0]
        for environ in (
            {"HTTP_HOST": "a.example:8080"},
            {"HTTP_HOST": "[::1]:80", "wsgi.url_scheme": "https"},
            {"HTTP_HOST": "b", "SCRIPT_NAME": "/below"},
            {"HTTP_HOST": ""},
        )
    ]
    assert urls == [
        "http://a.example:8080",
        "https://[::1]:80",
        "http://b/below",
        "http://127.0.0.1:8000",
    ]


@pytest.mark.parametrize(
    "host", ["evil.example/path", "a b", "user@host", "a:b", "a:999999", '"', "host?x", "é"]
)
def test_a_forged_host_is_refused(call: Caller, host: str) -> None:
    call.upload("1.0", TREE)
    reply = call.get("check/", HTTP_HOST=host)
    assert (reply.status, reply.code) == (400, "bad_host")


def test_the_public_url_wins_over_the_host_and_may_be_cached_by_all(tmp_path: Path) -> None:
    app = create_app(tmp_path / "public", public_url="https://cdn.example/u/")
    public = Caller(app)
    assert (
        public.upload("1.0", TREE)
        .json["download_url"]
        .startswith("https://cdn.example/u/media/nuitkal_packs/")
    )
    reply = public.get("check/", HTTP_HOST="evil example")
    assert reply.json["manifest_url"].startswith("https://cdn.example/u/media/")
    assert reply.headers["cache-control"] == "public, no-cache"
    app.close()


def test_versions_are_shown_newest_upload_first_and_in_pages(call: Caller) -> None:
    for version in ("2.0", "1.0", "3.0"):
        call.upload(version, TREE, is_active="no")
    assert [release["version"] for release in call.get("versions/").json["versions"]] == [
        "3.0",
        "1.0",
        "2.0",
    ]
    page = call("GET", "versions/", query="limit=1&offset=1").json
    assert (page["count"], [release["version"] for release in page["versions"]]) == (3, ["1.0"])


@pytest.mark.parametrize(
    "query", ["limit=x", "limit=-1", "offset=1e3", "limit=", "limit=1234567890"]
)
def test_a_limit_that_is_no_number_is_refused(call: Caller, query: str) -> None:
    reply = call("GET", "versions/", query=query)
    assert (reply.status, reply.code) == (400, "bad_field")


@pytest.mark.parametrize(
    "text, active",
    [
        ("true", True),
        ("YES", True),
        ("1", True),
        ("On", True),
        ("false", False),
        ("No", False),
        ("0", False),
        ("OFF", False),
    ],
)
def test_is_active_is_spelt_as_forms_do(call: Caller, text: str, active: bool) -> None:
    assert call.upload("1.0", TREE, is_active=text).json["is_active"] is active
    assert call.get("check/").status == (200 if active else 404)


@pytest.mark.parametrize(
    "parts, code",
    [
        pytest.param({"version": "1.0"}, "missing_field", id="no file"),
        pytest.param({"file": make_zip(TREE)}, "missing_field", id="no version"),
        pytest.param(
            {"version": "1.0", "file": make_zip(TREE), "signature": b"x"},
            "missing_field",
            id="a signature of nothing",
        ),
        pytest.param({"version": "1.0", "file": "text"}, "bad_field", id="a file sent as text"),
        pytest.param(
            {"version": "1.0", "file": make_zip(TREE), "is_active": "maybe"},
            "bad_field",
            id="is_active",
        ),
        pytest.param(
            {"version": "1.0", "file": make_zip(TREE), "is_active": ""},
            "bad_field",
            id="empty is_active",
        ),
        pytest.param(
            {"version": "1.0", "file": make_zip(TREE), "manifest": b"{}"},
            "bad_field",
            id="not a manifest",
        ),
        pytest.param(
            {"version": "1.0", "file": make_zip(TREE), "manifest": b"\xff"},
            "bad_field",
            id="not JSON",
        ),
        pytest.param(
            {"version": "1.0.0.0.0", "file": make_zip(TREE)}, "bad_version", id="five parts"
        ),
        pytest.param({"version": "", "file": make_zip(TREE)}, "bad_version", id="empty version"),
        pytest.param(
            {"version": "1." * 33 + "1", "file": make_zip(TREE)}, "bad_version", id="long version"
        ),
        pytest.param(
            {"version": "../1.0", "file": make_zip(TREE)},
            "bad_version",
            id="a version that is a path",
        ),
        pytest.param({"version": "1.0", "file": b"PK not really"}, "bad_zip", id="no ZIP"),
        pytest.param({"version": "1.0", "file": b""}, "bad_zip", id="empty file"),
        pytest.param({"version": "1.0", "file": make_zip(TREE)[:-30]}, "bad_zip", id="cut short"),
        pytest.param({"version": "1.0", "file": make_zip({})}, "bad_zip", id="no entries"),
        pytest.param(
            {"version": "1.0", "file": make_zip({"../evil": b""})}, "unsafe_path", id="dot dot"
        ),
        pytest.param(
            {"version": "1.0", "file": make_zip({"/etc/passwd": b""})}, "unsafe_path", id="absolute"
        ),
        pytest.param(
            {"version": "1.0", "file": make_zip({"Lib/a": b"", "lib/b": b""})},
            "unsafe_path",
            id="case",
        ),
        pytest.param(
            {"version": "1.0", "file": make_zip({"aux.txt": b""})},
            "unsafe_path",
            id="a Windows device",
        ),
        pytest.param(
            {
                "version": "1.0",
                "file": make_zip(TREE),
                "manifest": make_manifest("1.0", {"../x": b""}),
            },
            "unsafe_path",
            id="in the manifest",
        ),
        pytest.param(
            {"version": "1.0", "file": make_zip(TREE), "manifest": make_manifest("1.1", TREE)},
            "manifest_mismatch",
            id="another version",
        ),
        pytest.param(
            {
                "version": "1.0",
                "file": make_zip({**TREE, "extra": b""}),
                "manifest": make_manifest("1.0", TREE),
            },
            "manifest_mismatch",
            id="too much",
        ),
        pytest.param(
            {
                "version": "1.0",
                "file": make_zip({**TREE, "main.py": b"x"}),
                "manifest": make_manifest("1.0", TREE),
            },
            "manifest_mismatch",
            id="other bytes",
        ),
        pytest.param(
            {"version": "1.0", "file": make_zip({}), "manifest": make_manifest("1.0", TREE)},
            "incomplete",
            id="nothing sent, nothing held",
        ),
        pytest.param(
            {"version": "1.0", "file": make_zip(TREE, b"nuitkal-partial")},
            "incomplete",
            id="partial without a manifest",
        ),
    ],
)
def test_a_bad_upload_is_refused_and_leaves_nothing(
    call: Caller, parts: Dict[str, Any], code: str
) -> None:
    reply = call.form("upload/", **parts)
    assert (reply.status, reply.code) == (400, code)
    assert call.get("versions/").json["count"] == 0
    store = call.app.store
    assert [
        path for path in (*store.media.rglob("*"), *store.incoming.rglob("*")) if path.is_file()
    ] == []


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xfe", id="not text"),
        pytest.param(SIGNATURE + b"one line more", id="more behind it"),
        pytest.param(b"x" * 10_000, id="long"),
    ],
)
def test_what_cannot_be_a_signature_is_refused(call: Caller, signature: bytes) -> None:
    reply = call.upload("1.0", TREE, manifest=make_manifest("1.0", TREE), signature=signature)
    assert (reply.status, reply.code) == (403, "bad_signature")


def test_a_version_is_taken_whatever_its_spelling(call: Caller) -> None:
    call.upload("v1.0", TREE)
    for spelling in ("1.0.0", "v1", "1.0.0.0+build"):
        reply = call.upload(spelling, TREE)
        assert (reply.status, reply.code) == (409, "version_exists")
        assert call("POST", f"set_active/{spelling}/").json["version"] == "v1.0"


def test_a_build_in_the_url_is_percent_encoded_once(call: Caller) -> None:
    release = call.upload("1.0.0+a.b", TREE).json
    assert release["download_url"].endswith("/update_1.0.0%2Ba.b.zip")
    assert call.media(release["download_url"])


def test_an_upload_without_a_length_is_refused(call: Caller) -> None:
    reply = call(
        "POST",
        "upload/",
        CONTENT_LENGTH="",
        CONTENT_TYPE=f"multipart/form-data; boundary={BOUNDARY}",
    )
    assert (reply.status, reply.code) == (411, "length_required")
    assert call("POST", "missing/", CONTENT_LENGTH="").status == 411


def test_an_upload_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    app = create_app(tmp_path / "small", max_upload=1000)
    call = Caller(app)
    reply = call(
        "POST",
        "upload/",
        b"",
        CONTENT_LENGTH="1001",
        CONTENT_TYPE="multipart/form-data; boundary=b",
    )
    assert (reply.status, reply.code) == (413, "too_large")
    app.close()


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        sqlite3.OperationalError("database or disk is full"),
    ],
    ids=["file", "database"],
)
def test_a_full_disk_is_507_and_leaves_nothing(
    call: Caller, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise failure

    monkeypatch.setattr(call.app.store, "publish_files", fail)
    reply = call.upload("1.0", TREE)
    assert (reply.status, reply.code) == (507, "disk_full")
    assert [path for path in call.app.store.incoming.rglob("*") if path.is_file()] == []
    monkeypatch.undo()
    assert call.upload("1.0", TREE).status == 201


def test_an_upload_that_cannot_fit_is_refused_before_it_is_read(
    call: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**30, 2**30 - 2**20, 2**20)
    )
    reply = call.upload("1.0", TREE)
    assert (reply.status, reply.code) == (507, "disk_full")


def test_activating_moves_the_one_mark(call: Caller) -> None:
    call.upload("1.0.0", TREE)
    call.upload("1.0.1", TREE)
    reply = call("POST", "set_active/1.0.0/")
    assert (reply.status, reply.json) == (
        200,
        {"message": "版本 1.0.0 已设为激活版本", "version": "1.0.0"},
    )
    assert {
        release["version"]: release["is_active"]
        for release in call.get("versions/").json["versions"]
    } == {"1.0.0": True, "1.0.1": False}
    assert call.get("check/").json["version"] == "1.0.0"


@pytest.mark.parametrize(
    "method, path, fields",
    [
        ("POST", "set_active/9.9/", None),
        ("POST", "set_active/banana/", None),
        ("PATCH", "versions/9.9/", {}),
        ("DELETE", "versions/9.9/", None),
        ("POST", "channels/beta/promote/9.9/", {"from": "stable"}),
        ("POST", "promote/1.0/", {"from": "nowhere"}),
    ],
)
def test_a_version_that_is_not_there_is_404(
    call: Caller, method: str, path: str, fields: Any
) -> None:
    call.upload("1.0", TREE, channel="other")
    reply = call.send(method, path, fields)
    assert (reply.status, reply.code) == (404, "no_such_version")


def test_missing_names_the_contents_that_no_channel_has(call: Caller) -> None:
    call.upload("1.0", TREE, channel="beta")
    held, other = sha256(TREE["main.py"]), sha256(b"other")
    assert call.send("POST", "missing/", {"hashes": [other, held, other]}).json == {
        "missing": [other]
    }
    assert call.send("POST", "missing/", {"hashes": []}).json == {"missing": []}


@pytest.mark.parametrize(
    "body, code",
    [
        (b"{", "bad_json"),
        (b"[]", "bad_json"),
        (b"\xff", "bad_json"),
        (b"[" * 100_000, "bad_json"),
        (b"", "bad_json"),
        (b"{}", "bad_field"),
        (b'{"hashes": "a"}', "bad_field"),
        (b'{"hashes": [1]}', "bad_field"),
        (b'{"hashes": ["zz"]}', "bad_field"),
        (b'{"hashes": ["' + b"A" * 64 + b'"]}', "bad_field"),
        (b'{"hashes": [], "more": 1}', "bad_field"),
    ],
)
def test_missing_refuses_what_is_no_list_of_hashes(call: Caller, body: bytes, code: str) -> None:
    reply = call("POST", "missing/", body)
    assert (reply.status, reply.code) == (400, code)


def test_json_over_the_limit_is_413(call: Caller) -> None:
    assert call("POST", "missing/", CONTENT_LENGTH=str(2**30)).code == "too_large"


def test_an_edit_changes_what_it_names(call: Caller) -> None:
    call.upload("1.0", TREE, manifest=make_manifest("1.0", TREE), changelog="old")
    edited = call.send(
        "PATCH", "versions/v1/", {"changelog": "new", "signature": SIGNATURE.decode()}
    )
    assert (edited.status, edited.json["changelog"], edited.json["is_active"]) == (200, "new", True)
    assert (
        call.media(edited.json["signature_url"]).decode()
        == edited.json["signature"]
        == call.get("check/").json["signature"]
    )
    off = call.send("PATCH", "versions/1.0", {"is_active": False}).json
    assert (off["is_active"], off["changelog"]) == (False, "new")
    assert call.get("check/").code == "no_active_version"
    assert call.send("PATCH", "versions/1.0", {"is_active": True}).json["is_active"] is True
    assert (
        call.send("PATCH", "versions/1.0", {}).json == call.send("PATCH", "versions/1.0", {}).json
    )


@pytest.mark.parametrize(
    "fields, status, code",
    [
        ({"changelog": 5}, 400, "bad_field"),
        ({"changelog": None}, 400, "bad_field"),
        ({"changelog": "\ud800"}, 400, "bad_field"),
        ({"is_active": "maybe"}, 400, "bad_field"),
        ({"is_active": 1}, 400, "bad_field"),
        ({"version": "2"}, 400, "bad_field"),
        ([], 400, "bad_json"),
        ({"signature": 1}, 400, "bad_field"),
        ({"signature": ""}, 403, "bad_signature"),
        ({"signature": SIGNATURE.decode() + "x"}, 403, "bad_signature"),
    ],
)
def test_an_edit_refuses_what_it_cannot_set_and_changes_nothing(
    call: Caller, fields: Any, status: int, code: str
) -> None:
    call.upload("1.0", TREE)
    before = call.get("check/").body
    reply = call.send("PATCH", "versions/1.0/", fields)
    assert (reply.status, reply.code) == (status, code)
    assert call.get("check/").body == before


def test_no_changelog_makes_check_longer_than_clients_read(call: Caller) -> None:
    longest = "\x01" * MAX_CHANGELOG_BYTES  # what JSON makes most of
    assert call.upload("1.0", TREE, changelog=longest).status == 201
    assert len(call.get("check/").body) < MAX_CHECK_BYTES
    assert (
        call.upload("1.1", TREE, changelog=longest + "x").code,
        call.send("PATCH", "versions/1.0/", {"changelog": longest + "x"}).code,
    ) == ("too_large", "too_large")
    assert call.get("check/").json["changelog"] == longest


def test_a_refused_field_undoes_the_whole_edit(call: Caller) -> None:
    call.upload("1.0", TREE)
    before = call.get("check/").body
    assert (
        call.send(
            "PATCH", "versions/1.0/", {"changelog": "new", "is_active": False, "signature": ""}
        ).status
        == 403
    )
    assert call.get("check/").body == before


def test_the_active_version_cannot_be_deleted_and_another_one_can(call: Caller) -> None:
    release = call.upload("1.0", TREE).json
    assert call("DELETE", "versions/1.0/").code == "version_is_active"
    call.upload("1.1", TREE)
    reply = call("DELETE", "versions/v1/")
    assert (reply.status, reply.body) == (204, b"")
    assert call("DELETE", "versions/1.0/").code == "no_such_version"
    assert call.get(release["download_url"][len("http://updates.test") :]).status == 404
    assert [shown["version"] for shown in call.get("versions/").json["versions"]] == ["1.1"]


def test_promoting_moves_a_release_into_another_channel_as_it_is(call: Caller) -> None:
    first = call.upload(
        "1.0",
        TREE,
        channel="beta",
        manifest=make_manifest("1.0", TREE),
        signature=SIGNATURE,
        changelog="text",
    ).json
    reply = call.send("POST", "promote/1.0/", {"from": "beta"})
    promoted = reply.json
    assert reply.status == 201 and promoted["download_url"] == first["download_url"].replace(
        "/beta/", "/"
    )
    assert [promoted[name] for name in ("file_hash", "signature", "changelog", "is_active")] == [
        first["file_hash"],
        SIGNATURE.decode(),
        "text",
        True,
    ]
    for url in ("download_url", "manifest_url", "signature_url"):
        assert call.media(promoted[url]) == call.media(first[url])
    again = call.send("POST", "promote/1/", {"from": "beta"})
    assert (again.status, again.code) == (409, "version_exists")
    assert (
        call.send("POST", "channels/late/promote/1.0/", {"from": "beta", "is_active": "no"}).json[
            "is_active"
        ]
        is False
    )


@pytest.mark.parametrize(
    "fields, code",
    [
        ({}, "missing_field"),
        ({"from": 1}, "bad_field"),
        ({"from": "beta", "is_active": 3}, "bad_field"),
        ("x", "bad_json"),
    ],
)
def test_promoting_refuses_bad_fields(call: Caller, fields: Any, code: str) -> None:
    reply = call.send("POST", "promote/1.0/", fields)
    assert (reply.status, reply.code) == (400, code)


def test_a_channel_keeps_its_app(call: Caller) -> None:
    call.upload("0.9", TREE)  # without a manifest: unknown
    call.upload("1.0", TREE, manifest=make_manifest("1.0", TREE, app="one"))
    assert (
        call.upload("1.1", TREE, manifest=make_manifest("1.1", TREE, app="two")).code
        == "manifest_mismatch"
    )
    assert call.upload("1.2", TREE, manifest=make_manifest("1.2", TREE, app="")).status == 201
    written = call.upload("1.3", TREE).json
    assert json.loads(call.media(written["manifest_url"]))["app"] == "one"
    call.upload("2.0", TREE, channel="beta", manifest=make_manifest("2.0", TREE, app="two"))
    assert call.send("POST", "promote/2.0/", {"from": "beta"}).code == "manifest_mismatch"


def test_channels_do_not_see_each_others_versions(call: Caller) -> None:
    call.upload("1.0", TREE, channel="beta")
    assert call.get("check/").code == "no_active_version"
    assert call.upload("1.0", TREE).status == 201
    assert (
        call.get("channels/beta/check/")
        .json["download_url"]
        .split("nuitkal_packs/")[1]
        .startswith("beta/")
    )


@pytest.mark.parametrize("channel", ["Beta", "-x", "a" * 65, "a b", "..", "é"])
def test_a_name_that_is_no_channel_is_404(call: Caller, channel: str) -> None:
    assert call.get(f"channels/{channel}/check/").code == "no_such_channel"
    assert call.upload("1.0", TREE, channel=channel).status == 404


@pytest.mark.parametrize(
    "path, allowed",
    [
        ("check/", "GET, HEAD"),
        ("upload/", "POST"),
        ("versions/1.0/", "GET, HEAD, PATCH, DELETE"),
        ("missing", "POST"),
        ("health/", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_405_with_what_is_allowed(call: Caller, path: str, allowed: str) -> None:
    for method in ("PUT", "OPTIONS", "TRACE") + (("HEAD",) if "GET" not in allowed else ()):
        reply = call(method, path)
        assert (reply.status, reply.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/",
        BASE,
        "check//",
        "nothing/",
        "set_active/",
        "set_active/1/2/",
        "channels/",
        "channels/beta/",
        "/media/nuitkal.db",
        "/media/",
        "/media/../nuitkal.db",
        "/nuitkal.db",
        "/media/nuitkal_packs/",
        "channels/a/channels/b/check/",
    ],
)
def test_an_unknown_path_is_404(call: Caller, path: str) -> None:
    reply = call.get(path)
    assert (reply.status, reply.code) == (404, "not_found")


def test_media_answers_get_and_head_only(call: Caller) -> None:
    url = call.upload("1.0", TREE).json["download_url"][len("http://updates.test") :]
    reply = call("POST", url)
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
    part = call.get(url, HTTP_RANGE="bytes=0-3")
    assert (part.status, part.body) == (206, b"PK\3\4")
    assert call.get(url, HTTP_RANGE="bytes=99999999-").status == 416


def test_a_signature_is_asked_for_again_and_a_package_never(call: Caller) -> None:
    release = call.upload(
        "1.0", TREE, manifest=make_manifest("1.0", TREE), signature=SIGNATURE
    ).json
    caching = [
        call.get(release[name][len("http://updates.test") :]).headers["cache-control"]
        for name in ("download_url", "manifest_url", "signature_url")
    ]
    assert caching == ["public, max-age=31536000, immutable"] * 2 + ["no-cache"]


@pytest.mark.parametrize(
    "method, path",
    [
        ("POST", "upload/"),
        ("POST", "set_active/1.0/"),
        ("POST", "missing/"),
        ("PATCH", "versions/1.0/"),
        ("POST", "promote/1.0/"),
        ("DELETE", "versions/1.0/"),
    ],
)
@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic abc", "Bearer é"])
def test_what_changes_something_needs_a_token(
    call: Caller, method: str, path: str, header: Any
) -> None:
    call.token = None
    reply = call(method, path, **({} if header is None else {"HTTP_AUTHORIZATION": header}))
    assert (reply.status, reply.code, reply.headers["www-authenticate"]) == (
        401,
        "unauthorized",
        "Bearer",
    )


@pytest.mark.parametrize("channel", ["con", "nul", "aux.1", "com1", "beta.", "lpt9.x.y"])
def test_a_channel_that_could_not_be_downloaded_is_refused_everywhere(
    call: Caller, channel: str
) -> None:
    assert call.upload("1.0", {"a": b"a"}, channel=channel).code == "no_such_channel"
    call.upload("1.0", {"a": b"a"})
    reply = call.send("POST", f"channels/{channel}/promote/1.0/", {"from": "stable"})
    assert (reply.status, reply.code) == (404, "no_such_channel")
    assert channels_of(call) == ["stable"]


@pytest.mark.parametrize("channel", ["b", "console", "2025", "a.b-c_d", "0", "x-", "x" * 64])
def test_what_a_channel_takes_can_be_downloaded(call: Caller, channel: str) -> None:
    release = call.upload("1.0+b.1", {"a": b"a"}, channel=channel).json
    assert sha256(call.media(release["download_url"])) == release["file_hash"]
    assert call.media(release["manifest_url"])


def channels_of(call: Caller) -> List[str]:
    with call.app.store.database.read() as db:
        return releases.channels(db)


def test_one_release_is_had_by_any_spelling_of_its_version(call: Caller) -> None:
    release = call.upload("1.0", {"a": b"a"}, changelog="x").json
    del release["message"]
    call.upload("2.0", {"a": b"b"})
    reply = call.get("versions/v1.0.0/")
    assert (reply.status, reply.json) == (200, {**release, "is_active": False})
    assert call("HEAD", "versions/1/").status == 200
    assert call.get("versions/2.1/").code == "no_such_version"
    assert call.get("channels/beta/versions/1.0/").code == "no_such_version"
    assert (call.get("versions/one/").status, call.get("versions/one/").code) == (
        400,
        "bad_version",
    )


@pytest.mark.parametrize("gone", ["update_1.0.zip", "update_1.0.json", "cut"])
def test_a_release_whose_files_are_gone_is_neither_promoted_nor_signed_again(
    call: Caller, gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    call.upload("1.0", {"a": b"a"})
    for path in call.app.store.media.rglob(gone):
        path.unlink()
    if gone == "cut":
        package = next(call.app.store.media.rglob("update_1.0.zip"))
        package.write_bytes(package.read_bytes()[:-1])
    replies = [call.send("POST", "channels/beta/promote/1.0/", {"from": "stable"})]
    if gone == "update_1.0.json":
        signature = make_signature(b"", "1.0").decode()
        replies.append(call.send("PATCH", "versions/1.0/", {"signature": signature}))
    for reply in replies:
        assert (reply.status, reply.code) == (409, "files_gone")
    assert not caplog.records and channels_of(call) == ["stable"]
    assert call.get("versions/1.0/").json["signature"] is None


def test_ten_wrong_tokens_a_minute_and_the_right_one_always(call: Caller) -> None:
    wrong = [call("POST", "missing/", HTTP_AUTHORIZATION="Bearer wrong") for _ in range(12)]
    assert [reply.status for reply in wrong] == [401] * 10 + [429] * 2
    assert wrong[-1].code == "too_many_attempts" and 0 < int(wrong[-1].headers["retry-after"]) <= 61
    assert call.send("POST", "missing/", {"hashes": []}).status == 200
    assert (
        call("POST", "missing/", HTTP_AUTHORIZATION="Bearer wrong", REMOTE_ADDR="192.0.2.2").status
        == 401
    )


def test_health_asks_the_database(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call.get("health/").json == {"status": "ok"}
    with call.app.store.database.write() as db:
        db.execute("ALTER TABLE releases RENAME TO lost")
    reply = call.get("health/")
    assert (reply.status, reply.code) == (503, "unavailable")


def test_errors_are_chinese_unless_english_is_preferred(call: Caller) -> None:
    assert call.get("check/").json["error"] == "通道 stable 没有激活的版本"
    assert (
        call.get("check/", HTTP_ACCEPT_LANGUAGE="en-US,en;q=0.9,zh;q=0.5").json["error"]
        == "channel stable has no active version"
    )
    call.upload("1.0", TREE)
    assert (
        call("POST", "set_active/1.0/", HTTP_ACCEPT_LANGUAGE="en").json["message"]
        == "version 1.0 is now active"
    )


def test_a_failure_of_our_own_is_500_in_the_same_form(
    call: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(call.app.store.database, "generation", lambda: 1 // 0)
    reply = call.get("check/")
    assert (reply.status, reply.code) == (500, "internal_error")
    assert "ZeroDivisionError" in caplog.text and "Zero" not in reply.body.decode()


def test_many_hosts_do_not_fill_the_memory(call: Caller) -> None:
    call.upload("1.0", TREE)
    for number in range(600):
        call.get("check/", HTTP_HOST=f"h{number}")
    assert len(call.app._api._rendered) <= 256
