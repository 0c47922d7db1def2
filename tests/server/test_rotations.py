"""`check/` names the signed manifests that change the keys, for clients that slept through some."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Sequence

from nuitkal_mini.server import create_app
from nuitkal_mini.signing import SecretKey, public_key, public_key_text

from .caller import KEY, Caller, make_manifest, make_signature

A, B, C = (
    public_key_text(public_key(SecretKey(f"key id {n}".encode(), str(n).encode() * 32))).split(
        "\n"
    )[1]
    for n in (1, 2, 3)
)
TREE = {"main.py": b"1"}


def upload(
    call: Caller, version: str, keys: Sequence[str], signed: bool = True, **parts: Any
) -> Any:
    more = {"keys": list(keys)} if keys else {}
    manifest = make_manifest(version, TREE, **more)
    if signed:
        parts["signature"] = make_signature(manifest, version, key=KEY)
    reply = call.upload(version, TREE, manifest=manifest, **parts)
    assert reply.status == 201, reply.text
    return reply.json


def rotations(call: Caller, path: str = "check/") -> List[str]:
    found: List[str] = call.get(path).json["rotations"]
    return found


def test_manifests_that_change_the_keys_are_named_oldest_first(call: Caller) -> None:
    upload(call, "1.0", [])
    assert rotations(call) == []
    first = upload(call, "1.1", [A, B])
    upload(call, "1.2", [A, B])  # no change
    upload(call, "1.3", [])
    upload(call, "1.4", [C], signed=False)
    second = upload(call, "1.5", [A, B, C])
    assert rotations(call) == [first["manifest_url"], second["manifest_url"]]


def test_a_rotation_stays_when_its_release_is_deleted_and_after_a_restart(
    call: Caller, data: Path
) -> None:
    release = upload(call, "1.1", [A, B])
    upload(call, "1.2", [])
    manifest, signature = (call.media(release[key]) for key in ("manifest_url", "signature_url"))
    call("DELETE", "versions/1.1/")
    assert rotations(call) == [release["manifest_url"]]
    call.app.close()
    path = data / "media" / release["signature_url"].split("/media/")[1]
    path.write_bytes(b"damaged")
    again = create_app(data)
    call.app = again
    assert call.media(release["manifest_url"]) == manifest
    assert call.media(release["signature_url"]) == signature
    assert rotations(call) == [release["manifest_url"]]
    assert call.get(release["download_url"][len("http://updates.test") :]).status == 404
    again.close()


def test_a_promoted_rotation_is_one_of_the_other_channel_too(call: Caller) -> None:
    upload(call, "1.1", [A, B])
    promoted = call.send("POST", "channels/beta/promote/1.1/", {"from": "stable"}).json
    assert rotations(call, "channels/beta/check/") == [promoted["manifest_url"]]


def test_a_signature_that_comes_later_makes_a_rotation(call: Caller) -> None:
    release = upload(call, "1.1", [A, B], signed=False)
    manifest = call.media(release["manifest_url"])
    signature = make_signature(manifest, "1.1").decode()
    assert call.send("PATCH", "versions/1.1/", {"signature": signature}).status == 200
    assert rotations(call) == [release["manifest_url"]]
