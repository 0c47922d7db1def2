"""A server that was given public keys: what they have not signed stays outside, and nothing is left
of it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Iterator, Optional

import pytest

from nuitkal_mini.server import create_app
from nuitkal_mini.signing import SecretKey, public_key, public_key_text, sign
from tests.support import ROOT, need_tool, start_server

from .caller import KEY, Caller, Reply, files_below, make_manifest, make_signature, make_zip
from .visitor import make_visitor

TREE = {"main.py": b"print('one')\n"}
MANIFEST = make_manifest("1.0", TREE)
OTHER_KEY = SecretKey(b"key id 2", b"2" * 32)
IMPOSTOR = SecretKey(KEY.key_id, b"3" * 32)  # the key id is no secret
RIGHT = make_signature(MANIFEST, "1.0")
WRONG = [
    pytest.param(None, id="none"),
    pytest.param(b"", id="empty"),
    pytest.param(b"signed, honestly", id="no signature at all"),
    pytest.param(
        make_signature(MANIFEST, "1.0", key=SecretKey(b"key id 9", b"1" * 32)), id="an unknown key"
    ),
    pytest.param(make_signature(MANIFEST, "1.0", key=IMPOSTOR), id="another key of the same id"),
    pytest.param(make_signature(MANIFEST + b" ", "1.0"), id="of other bytes"),
    pytest.param(make_signature(MANIFEST, "1.1"), id="for another version"),
    pytest.param(make_signature(MANIFEST, "one"), id="for what is no version"),
    pytest.param(make_signature(MANIFEST, "1.0", app="other"), id="for another app"),
    pytest.param(RIGHT.replace(b"app:tests", b"app:toast"), id="its comment changed"),
    pytest.param(
        sign(KEY, MANIFEST, "timestamp:1\tfile:update.json").encode(),
        id="a comment without app and version",
    ),
]


@pytest.fixture
def strict(data: Path) -> Iterator[Caller]:
    """A server with two keys, one of them given as a .pub file's text."""
    app = create_app(
        data, public_keys=[str(public_key(OTHER_KEY)), public_key_text(public_key(KEY))]
    )
    yield Caller(app)
    app.close()


def upload(call: Caller, signature: Optional[bytes], channel: str = "") -> Reply:
    return call.upload(
        "1.0",
        TREE,
        channel,
        manifest=MANIFEST,
        **({} if signature is None else {"signature": signature}),
    )


@pytest.mark.parametrize("signature", WRONG)
def test_an_upload_without_a_right_signature_leaves_nothing(
    strict: Caller, signature: Optional[bytes]
) -> None:
    reply = upload(strict, signature)
    assert (reply.status, reply.code) == (403, "bad_signature")
    store = strict.app.store
    assert (
        strict.get("versions/").json["count"] == 0
        and files_below(store.media) == files_below(store.incoming) == []
    )
    with store.database.read() as db:
        assert db.execute("SELECT * FROM channels").fetchall() == []
    assert upload(strict, RIGHT).status == 201


def test_an_upload_without_a_manifest_is_refused(strict: Caller) -> None:
    assert strict.upload("1.0", TREE).code == "bad_signature"


def test_any_of_the_keys_will_do_and_any_spelling_of_the_version(strict: Caller) -> None:
    for version, key in (("1.0", KEY), ("2.0.0", OTHER_KEY)):
        manifest = make_manifest(version, TREE)
        signature = make_signature(manifest, f"v{version}", key=key)
        release = strict.upload(version, TREE, manifest=manifest, signature=signature).json
        assert release["signature"].encode() == strict.media(release["signature_url"]) == signature


@pytest.mark.parametrize("signature", WRONG)
def test_the_site_refuses_the_same_and_says_why(
    strict: Caller, signature: Optional[bytes], quick_passwords: None
) -> None:
    visitor = make_visitor(strict.app)
    fields = {"version": "1.0", "file": make_zip(TREE), "manifest": MANIFEST}
    reply = visitor.post(
        "upload/", **fields, **({} if signature is None else {"signature": signature})
    )
    assert reply.status == 403 and re.search(
        r'class="error"[^>]*>[^<]*(sign|trusted comment)', reply.text
    )
    assert files_below(strict.app.store.media) == files_below(strict.app.store.incoming) == []
    assert visitor.post("upload/", **fields, signature=RIGHT).status == 303


@pytest.mark.parametrize("signature", WRONG[1:])
def test_a_signature_is_only_replaced_by_a_right_one(strict: Caller, signature: bytes) -> None:
    upload(strict, RIGHT)
    before = strict.get("check/").json
    reply = strict.send("PATCH", "versions/1.0/", {"signature": signature.decode()})
    assert (reply.status, reply.code) == (403, "bad_signature")
    assert strict.get("check/").json == before and strict.media(before["signature_url"]) == RIGHT
    newer = make_signature(MANIFEST, "1.0", key=OTHER_KEY).decode()
    assert strict.send("PATCH", "versions/1.0/", {"signature": newer}).json["signature"] == newer


def test_what_was_taken_before_the_keys_came_is_served_and_not_promoted(data: Path) -> None:
    app = create_app(data)
    before = Caller(app)
    upload(before, None)
    upload(before, make_signature(MANIFEST, "1.0", key=IMPOSTOR), channel="beta")
    app.close()
    app = create_app(data, public_keys=[str(public_key(KEY))])
    strict = Caller.__new__(Caller)
    strict.app, strict.token = app, before.token
    assert strict.get("check/").json["version"] == "1.0"
    for source in ("stable", "beta"):
        assert (
            strict.send("POST", "channels/late/promote/1.0/", {"from": source}).code
            == "bad_signature"
        )
    assert (
        strict.send("PATCH", "channels/beta/versions/1.0/", {"signature": RIGHT.decode()}).status
        == 200
    )
    assert (
        strict.send("POST", "channels/late/promote/1.0/", {"from": "beta"})
        .json["signature"]
        .encode()
        == RIGHT
    )
    app.close()


def test_without_keys_a_signature_is_kept_as_it_is_whoever_made_it(call: Caller) -> None:
    signature = make_signature(MANIFEST, "7.7", key=IMPOSTOR)
    assert upload(call, signature).json["signature"].encode() == signature
    assert call.get("check/").json["signature"].encode() == signature


@pytest.mark.parametrize(
    "language, sentence",
    [
        pytest.param(
            "en", "the signature is for tests 1.1, the manifest for tests 1.0", id="English"
        ),
        pytest.param("zh", "签名针对 tests 1.1，而清单属于 tests 1.0", id="Chinese"),
    ],
)
def test_the_refusal_says_what_is_wrong(strict: Caller, language: str, sentence: str) -> None:
    upload(strict, RIGHT)
    fields = {"signature": make_signature(MANIFEST, "1.1").decode()}
    assert (
        strict.send("PATCH", "versions/1.0/", fields, HTTP_ACCEPT_LANGUAGE=language).json["error"]
        == sentence
    )


def test_a_key_that_is_none_is_an_error_at_once(data: Path) -> None:
    with pytest.raises(ValueError, match="not a minisign public key"):
        create_app(data, public_keys=["RWQ"])
    done = subprocess.run(
        [sys.executable, "-m", "nuitkal_mini.server", "--data", str(data), "--public-key", "RWQ"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
    )
    assert (
        done.returncode == 2
        and b"'RWQ' is not a minisign public key" in done.stderr
        and not data.exists()
    )


def test_publish_signs_for_a_strict_server_and_minisign_agrees_with_what_it_serves(
    data: Path, tmp_path: Path
) -> None:
    """Real processes: keygen, a server with the key, uploads with and without it, and the
    `minisign` command over what a client gets.
    """
    program, key, served = tmp_path / "program", tmp_path / "app.key", tmp_path / "served"
    program.mkdir()
    served.mkdir()
    (program / "main.py").write_bytes(TREE["main.py"])
    assert publish("keygen", str(key)) == 0
    public = Path(f"{key}.pub").read_text().splitlines()[1]
    with start_server(
        data, "--public-key", str(public_key(OTHER_KEY)), "--public-key", public
    ) as server:
        release = [
            "upload",
            str(program),
            "--app",
            "tests",
            "--version",
            "1.0",
            "--server",
            server.api,
            "--token",
            server.token,
        ]
        assert publish(*release) == 1 and files_below(data / "media") == []
        assert publish(*release, "--key", str(key)) == 0
        names = [name for name in files_below(data / "media") if not name.endswith(".zip")]
        for name in names:
            (served / Path(name).name).write_bytes(fetch(f"{server.url}media/{name}"))
    verified = subprocess.run(
        [need_tool("minisign"), "-V", "-P", public, "-m", str(served / "update_1.0.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert (
        len(names) == 2
        and verified.returncode == 0
        and b"app:tests\tversion:1.0" in verified.stdout
    ), verified


def publish(*args: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", "nuitkal_mini.publish", *args],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ).returncode


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url) as reply:
        return bytes(reply.read())
