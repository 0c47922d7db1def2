"""Uploading to a server that fails: what is sent, what is tried again, what is said."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any, Dict, List

import pytest

from nuitkal_mini.manifest import Terms
from nuitkal_mini.minisign import parse_release_comment, verify
from nuitkal_mini.publish import api
from nuitkal_mini.publish.api import ApiClient, ApiError
from nuitkal_mini.publish.keys import trusted_comment
from nuitkal_mini.publish.tree import PublishError, read_tree
from nuitkal_mini.publish.upload import Signer, resign, upload
from nuitkal_mini.semver import parse
from nuitkal_mini.signing import SecretKey, public_key, sign
from nuitkal_mini.zip_read import PARTIAL_COMMENT

from .conftest import TOKEN, Fault, ScriptedServer, parse_form, refusal, write

KEY = SecretKey(b"keynumb1", bytes(range(32)))


def client(scripted: ScriptedServer, token: str = TOKEN, pauses: Any = None) -> ApiClient:
    return ApiClient(scripted.base, token, sleep=(pauses if pauses is not None else []).append)


def publish(
    program: Path,
    server: ApiClient,
    version: str = "1.0.0",
    app: str = "app",
    active: str = "yes",
    terms: Terms = Terms(),
    **options: Any,
) -> str:
    fields = {"version": version, "is_active": active, "changelog": "Neu: größer\nund schöner"}
    return upload(read_tree(program, app, version, terms=terms), server, fields, **options).text


def signer(timestamp: int, key: SecretKey = KEY) -> Signer:
    return lambda content: sign(key, content, trusted_comment(content, "update.json", timestamp))


def fault(path: str, status: int, code: str = "", sentence: str = "No.", **options: Any) -> Fault:
    return Fault(path, status, refusal(status, code, sentence)[1] if code else b"<html>", **options)


def test_the_first_upload_sends_everything(scripted: ScriptedServer, program: Path) -> None:
    assert (
        publish(program, client(scripted)) == "uploaded 1.0.0: 4 of 4 files sent, 0.1 MB of 0.1 MB"
    )
    assert scripted.releases["1.0.0"]["is_active"]
    assert scripted.releases["1.0.0"]["changelog"] == "Neu: größer\nund schöner"
    assert PARTIAL_COMMENT not in scripted.packages["1.0.0"]


def test_the_next_upload_sends_what_changed(scripted: ScriptedServer, program: Path) -> None:
    publish(program, client(scripted))
    write(program, "main.py", b"print('hello again')\n" * 5000)
    assert (
        publish(program, client(scripted), "1.0.1", active="no")
        == "uploaded 1.0.1: 1 of 4 files sent, 0.1 MB of 0.2 MB"
    )
    assert len(scripted.packages["1.0.1"]) < 1000 and scripted.packages["1.0.1"].endswith(
        PARTIAL_COMMENT
    )
    assert scripted.releases["1.0.0"]["is_active"] and not scripted.releases["1.0.1"]["is_active"]


def test_a_release_with_nothing_new_sends_no_file(scripted: ScriptedServer, program: Path) -> None:
    publish(program, client(scripted))
    assert (
        publish(program, client(scripted), "1.0.1")
        == "uploaded 1.0.1: 0 of 4 files sent, 0.0 MB of 0.1 MB"
    )


def test_the_same_version_with_the_same_content_is_fine_and_changes_nothing(
    scripted: ScriptedServer, program: Path
) -> None:
    publish(program, client(scripted))
    assert (
        publish(program, client(scripted), "v1.0")
        == "1.0.0 is on the server with the same content; nothing to send"
    )
    publish(program, client(scripted), "1.0.1")
    assert "`activate 1.0.0`" in publish(program, client(scripted))
    assert scripted.releases["1.0.1"]["is_active"]
    assert len(scripted.paths("upload/")) == 2


@pytest.mark.parametrize("change", ["file", "app", "terms"])
def test_the_same_version_with_other_content_is_an_error_that_says_what_to_do(
    scripted: ScriptedServer, program: Path, change: str
) -> None:
    publish(program, client(scripted))
    if change == "file":
        write(program, "new.py", b"")
    with pytest.raises(
        PublishError, match="1.0.0 is on the server with other content.*choose a new version number"
    ):
        publish(
            program,
            client(scripted),
            app="other" if change == "app" else "app",
            terms=Terms("0.9" if change == "terms" else ""),
        )
    assert len(scripted.paths("upload/")) == 1


def test_a_version_is_found_behind_the_first_page(scripted: ScriptedServer, program: Path) -> None:
    publish(program, client(scripted), "0.0.1")
    first = scripted.releases.pop("0.0.1")
    scripted.releases.update(
        {f"2.0.{n}": {**first, "version": f"2.0.{n}"} for n in range(150)}, **{"0.0.1": first}
    )
    assert "same content" in publish(program, client(scripted), "0.0.1")


@pytest.mark.parametrize("status", [0, 408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("path", ["versions/", "missing/", "set_active/", "upload/"])
def test_what_may_pass_is_tried_again(
    scripted: ScriptedServer, program: Path, path: str, status: int
) -> None:
    scripted.faults = [fault(path, status), fault(path, status)]
    pauses: List[float] = []
    server = client(scripted, pauses=pauses)
    assert publish(program, server).startswith("uploaded 1.0.0: 4 of 4")
    server.activate(parse("1.0.0"))
    assert len(pauses) == 2 and 0 < pauses[0] < pauses[1] < 3
    assert not scripted.faults


def test_the_server_says_how_long_to_wait(scripted: ScriptedServer, program: Path) -> None:
    pauses: List[float] = []
    scripted.faults = [
        fault("missing/", 429, headers=(("Retry-After", "7"),)),
        fault("missing/", 503, headers=(("Retry-After", "86400"),)),
    ]
    publish(program, client(scripted, pauses=pauses))
    assert pauses == [7.0, api.MAX_PAUSE]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 411, 507])
def test_what_will_not_pass_is_said_at_once(
    scripted: ScriptedServer, program: Path, status: int
) -> None:
    scripted.faults = [fault("upload/", status, "some_code", "This is why.")]
    with pytest.raises(ApiError, match="^the server refused: This is why") as caught:
        publish(program, client(scripted))
    assert caught.value.code == "some_code" and len(scripted.paths("upload/")) == 1


@pytest.mark.parametrize("status", [0, 504])
def test_an_upload_whose_answer_was_lost_is_not_sent_twice(
    scripted: ScriptedServer, program: Path, status: int
) -> None:
    scripted.faults = [fault("upload/", status, after=True)]
    assert (
        publish(program, client(scripted)) == "uploaded 1.0.0: 4 of 4 files sent, 0.1 MB of 0.1 MB"
    )
    assert len(scripted.paths("upload/")) == 1


def test_a_race_for_the_version_is_won_by_equal_content_only(
    scripted: ScriptedServer, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(program, client(scripted))
    real = ApiClient.find  # which at first does not see it
    monkeypatch.setattr(
        ApiClient,
        "find",
        lambda server, version: (
            real(server, version) if len(scripted.paths("upload/")) > 1 else None
        ),
    )
    assert (
        publish(program, client(scripted))
        == "1.0.0 is on the server with the same content; nothing to send"
    )


def test_contents_that_vanished_after_missing_are_sent_in_a_second_try(
    scripted: ScriptedServer, program: Path
) -> None:
    publish(program, client(scripted))
    contents, real = set(scripted.contents), scripted.carry_out

    def forgetful(request: Any) -> Any:
        if request.path.endswith("upload/") and contents & scripted.contents == contents:
            scripted.contents.clear()
        return real(request)

    scripted.carry_out = forgetful  # type: ignore[method-assign]
    assert publish(program, client(scripted), "1.0.1").startswith("uploaded 1.0.1: 4 of 4")


def test_an_answer_that_comes_while_the_upload_is_being_sent_is_read(
    scripted: ScriptedServer, program: Path
) -> None:
    write(program, "large", os.urandom(20_000_000))
    scripted.faults = [fault("upload/", 413, "too_large", "The upload is too large.")]
    with pytest.raises(ApiError, match="The upload is too large"):
        publish(program, client(scripted))


def test_a_wrong_token_is_one_sentence_without_the_token(
    scripted: ScriptedServer, program: Path
) -> None:
    with pytest.raises(ApiError) as caught:
        publish(program, client(scripted, token="wr0ng"))
    assert (
        str(caught.value)
        == "the server refused: The token is missing or wrong; check --token or NUITKAL_TOKEN"
    )


def test_the_token_goes_out_with_changes_only_and_follows_no_redirect(
    scripted: ScriptedServer, program: Path
) -> None:
    other = ScriptedServer()
    try:
        publish(program, client(scripted))
        scripted.faults = [Fault("missing/", 307, headers=(("Location", other.base + "missing/"),))]
        with pytest.raises(
            ApiError,
            match=f"redirects to '{other.base}missing/'; give the address behind that as --server",
        ):
            publish(program, client(scripted), "1.0.1")
        other.manifests = scripted.manifests
        scripted.releases["1.0.0"]["manifest_url"] = other.base + "manifest/1.0.0"
        publish(program, client(scripted))
        scripted.releases["1.0.0"]["manifest_url"] = "manifest/1.0.0"
        scripted.faults = [
            Fault("manifest/", 302, headers=(("Location", other.base + "manifest/1.0.0"),))
        ]
        publish(program, client(scripted))
        assert len(other.requests) == 2
        assert not any("Authorization" in request.headers for request in other.requests)
    finally:
        other.close()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_the_server_cannot_make_us_open_something_else_than_http(
    scripted: ScriptedServer, program: Path, url: str
) -> None:
    publish(program, client(scripted))
    scripted.releases["1.0.0"]["manifest_url"] = url
    with pytest.raises(PublishError, match="neither http nor https"):
        publish(program, client(scripted))
    scripted.releases["1.0.0"]["manifest_url"] = "manifest/1.0.0"
    scripted.faults = [Fault("manifest/", 302, headers=(("Location", url),))]
    with pytest.raises(ApiError, match="redirects"):
        publish(program, client(scripted))


def test_a_server_that_is_away_is_one_sentence(program: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        pauses: List[float] = []
        with pytest.raises(ApiError, match=f"^no answer from http://127.0.0.1:{port}: .*refused"):
            publish(
                program,
                ApiClient(f"http://127.0.0.1:{port}/api/nuitkal_pack/", TOKEN, sleep=pauses.append),
            )
    assert len(pauses) == len(api.PAUSES)


@pytest.mark.parametrize(
    "answer",
    [b"<html>", b"[]", b"{}", b'{"count": "1"}', b'{"count": 1, "versions": [[]]}', b"[" * 100_000],
    ids=lambda answer: repr(answer[:20]),
)
def test_an_address_that_is_no_api_is_one_sentence(
    scripted: ScriptedServer, program: Path, answer: bytes
) -> None:
    scripted.faults = [Fault("versions/", 200, answer)]
    with pytest.raises(PublishError, match="is --server the API's base"):
        publish(program, client(scripted))


def test_an_answer_that_was_cut_short_is_asked_for_again(
    scripted: ScriptedServer, program: Path
) -> None:
    publish(program, client(scripted))
    scripted.faults = [
        Fault(
            "manifest/",
            200,
            scripted.manifests["1.0.0"][:99],
            headers=(("Content-Length", "9999"),),
        )
    ]
    assert "same content" in publish(program, client(scripted))


def test_an_endless_answer_is_cut(
    scripted: ScriptedServer, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "MAX_BYTES", 200_000)
    scripted.faults = [Fault("versions/", 200, b" " * 300_000)]
    with pytest.raises(PublishError, match="answered with more than 64 MiB"):
        publish(program, client(scripted))


def test_control_characters_of_a_server_do_not_reach_the_terminal(
    scripted: ScriptedServer, program: Path
) -> None:
    scripted.faults = [fault("versions/", 400, "x", "a\x1b[31m\nb")]
    with pytest.raises(ApiError, match=r"^the server refused: a\[31mb$"):
        publish(program, client(scripted))


def test_an_upload_with_a_key_carries_a_signature_of_the_manifests_bytes(
    scripted: ScriptedServer, program: Path
) -> None:
    publish(program, client(scripted), sign=signer(1000))
    form = parse_form(scripted.paths("upload/")[0])
    verified = verify([public_key(KEY)], form["manifest"], form["signature"])
    assert parse_release_comment(verified.trusted_comment) == (1000, "app", "1.0.0")


def test_uploading_the_same_content_with_a_key_signs_the_release(
    scripted: ScriptedServer, program: Path
) -> None:
    publish(program, client(scripted))
    assert publish(program, client(scripted), sign=signer(1000)).endswith("; signed anew")
    verify([public_key(KEY)], scripted.manifests["1.0.0"], scripted.releases["1.0.0"]["signature"])


def test_only_bytes_that_the_folder_vouches_for_are_signed(
    scripted: ScriptedServer, program: Path
) -> None:
    publish(program, client(scripted))
    scripted.manifests["1.0.0"] = scripted.manifests["1.0.0"].replace(
        b'"files"', b'"unknown": "0.1", "files"', 1
    )
    assert "signed" not in publish(program, client(scripted), sign=signer(1000))
    assert scripted.releases["1.0.0"]["signature"] is None


def test_resign_gives_a_release_a_newer_time(scripted: ScriptedServer, program: Path) -> None:
    publish(program, client(scripted), sign=signer(1000))
    resign(client(scripted), parse("v1.0"), [public_key(KEY)], signer(2000))
    verified = verify(
        [public_key(KEY)], scripted.manifests["1.0.0"], scripted.releases["1.0.0"]["signature"]
    )
    assert parse_release_comment(verified.trusted_comment).timestamp == 2000


@pytest.mark.parametrize(
    "attack, sentence",
    [
        ("unsigned", "not signed"),
        ("changed", "these are not the bytes that were signed"),
        ("another key", "not among the trusted keys"),
        ("another release", "'1.0.0' as that of 1.0.1"),
        ("another version", "not on the server"),
    ],
)
def test_resign_signs_nothing_on_the_servers_word_alone(
    scripted: ScriptedServer, program: Path, attack: str, sentence: str
) -> None:
    publish(program, client(scripted), sign=signer(1000))
    publish(program, client(scripted), "1.0.1", sign=signer(1000))
    release: Dict[str, Any] = scripted.releases["1.0.1"]
    if attack == "unsigned":
        release["signature"] = None
    elif attack == "changed":
        scripted.manifests["1.0.1"] = scripted.manifests["1.0.1"].replace(b"main.py", b"evil.py")
    elif attack == "another key":
        release["signature"] = signer(1000, SecretKey(b"keynumb2", bytes(32)))(
            scripted.manifests["1.0.1"]
        )
    elif attack == "another release":
        release.update(
            signature=scripted.releases["1.0.0"]["signature"], manifest_url="manifest/1.0.0"
        )
    before = json.dumps(scripted.releases)
    with pytest.raises((PublishError, ValueError), match=sentence):
        resign(
            client(scripted),
            parse("3.0" if attack == "another version" else "1.0.1"),
            [public_key(KEY)],
            signer(2000),
        )
    assert json.dumps(scripted.releases) == before
