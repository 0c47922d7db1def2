"""Key files: their mode, that they are never overwritten, and the ways a password can come."""

from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path
from typing import Tuple

import pytest

from nuitkal_mini.manifest import Manifest, dumps
from nuitkal_mini.minisign import SignatureError, parse_public_key, parse_release_comment, verify
from nuitkal_mini.publish.keys import (
    KeyFileError,
    keygen,
    load_secret_key,
    new_password,
    password_for,
    public_path,
    trusted_comment,
)
from nuitkal_mini.signing import SecretKey, WrongPassword, secret_key_text, sign

REPOSITORY = Path(__file__).parents[2]


def never() -> str:
    raise AssertionError("nobody may ask for a password")


def encrypted_key(folder: Path) -> Path:
    path = folder / "with password.key"
    path.write_text(
        secret_key_text(
            SecretKey(b"key id 1", bytes(32)), "pw", bytes(32), operations=2**15, memory=2**24
        )
    )
    return path


def test_a_new_key_pair_signs_and_verifies(tmp_path: Path) -> None:
    public = keygen(tmp_path / "app.key", "")
    assert parse_public_key((tmp_path / "app.key.pub").read_text()) == public
    text = sign(load_secret_key(tmp_path / "app.key", str), b"content", "timestamp:1\tfile:content")
    assert verify([public], b"content", text).key == public
    assert keygen(tmp_path / "other.key", "") != public


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
def test_only_the_owner_reads_the_secret_key_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keygen(tmp_path / "app.key", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "app.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "app.key.pub").stat().st_mode) == 0o644


@pytest.mark.parametrize("name", ["app.key", "app.key.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(KeyFileError, match=f"{name} exists"):
        keygen(tmp_path / "app.key", "")
    assert [file.name for file in tmp_path.iterdir()] == [name] and (
        tmp_path / name
    ).read_text() == "precious"


def test_a_dangling_link_counts_as_a_key_that_exists(tmp_path: Path) -> None:
    (tmp_path / "app.key").symlink_to(tmp_path / "a stick that is not mounted")
    with pytest.raises(KeyFileError, match="exists"):
        keygen(tmp_path / "app.key", "")


def test_the_password_is_asked_only_when_the_key_has_one(tmp_path: Path) -> None:
    keygen(tmp_path / "app.key", "")
    load_secret_key(tmp_path / "app.key", never)
    assert load_secret_key(encrypted_key(tmp_path), lambda: "pw").key_id == b"key id 1"
    with pytest.raises(WrongPassword, match="not the secret key's password"):
        load_secret_key(encrypted_key(tmp_path), lambda: "other")


def test_what_is_no_key_file_ends_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(bytes(range(256)))
    with pytest.raises(SignatureError, match="not a minisign secret key file"):
        load_secret_key(tmp_path / "image.png", never)


@pytest.mark.slow
def test_a_new_key_with_a_password_needs_it(tmp_path: Path) -> None:
    public = keygen(tmp_path / "app.key", "Größe")
    text = sign(load_secret_key(tmp_path / "app.key", lambda: "Größe"), b"content", "timestamp:1")
    assert verify([public], b"content", text).key == public
    with pytest.raises(WrongPassword):
        load_secret_key(tmp_path / "app.key", lambda: "Grosse")


def test_a_manifest_is_signed_with_its_app_and_version(tmp_path: Path) -> None:
    content = dumps(Manifest("my app", "v1.0", ()))
    assert parse_release_comment(trusted_comment(content, "update.json", 17)) == (
        17,
        "my app",
        "v1.0",
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG",
        b'{"format": 2}',
        b'{"format": 1, "app": "a", "version": "one", "files": []}',
    ],
)
def test_another_file_is_signed_with_its_name(content: bytes) -> None:
    assert trusted_comment(content, "image.png", 17) == "timestamp:17\tfile:image.png\thashed"


def test_a_password_comes_as_one_line_of_standard_input(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(" two words \r\nnot this\n"))
    assert new_password(from_stdin=True) == " two words "
    monkeypatch.setattr(sys, "stdin", io.StringIO("pw"))
    assert (
        load_secret_key(
            encrypted_key(tmp_path), lambda: password_for(tmp_path, from_stdin=True)
        ).key_id
        == b"key id 1"
    )


def test_standard_input_without_a_password_makes_no_key_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(KeyFileError, match="brought no password"):
        new_password(from_stdin=True)


def test_without_a_terminal_a_new_key_has_no_password_and_an_old_one_says_how(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("piped"))
    assert new_password(from_stdin=False) == ""
    with pytest.raises(KeyFileError, match="--password-stdin"):
        load_secret_key(encrypted_key(tmp_path), lambda: password_for(tmp_path, from_stdin=False))


def on_a_terminal(*typed: bytes) -> bytes:
    """What a terminal shows while `typed` is entered at the prompts of `new_password`."""
    import pty

    child, terminal = pty.fork()
    if child == 0:
        program = (
            "from nuitkal_mini.publish.keys import *\n"
            "try: print(len(new_password(False)))\n"
            "except KeyFileError as error: print(error)"
        )
        os.chdir(REPOSITORY)
        os.execv(sys.executable, [sys.executable, "-c", program])
    shown = b""
    answers = list(typed)
    try:
        while True:
            shown += os.read(terminal, 1000)
            if answers and shown.endswith(
                b": "
            ):  # only now: getpass drops what was typed before its prompt
                os.write(terminal, answers.pop(0) + b"\n")
    except OSError:  # how Linux says that the other side has closed
        pass
    os.waitpid(child, 0)
    os.close(terminal)
    return shown


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals of this kind")
@pytest.mark.parametrize(
    "typed, last",
    [
        ((b"geheim", b"geheim"), b"6"),
        ((b"geheim", b"anders"), b"the two passwords differ; no key was made"),
        ((b"",), b"0"),
    ],
)
def test_a_password_is_typed_twice_and_never_shown(typed: Tuple[bytes, ...], last: bytes) -> None:
    shown = on_a_terminal(*typed)
    assert shown.split() and shown.strip().endswith(last)
    assert b"geheim" not in shown and b"anders" not in shown


def test_the_public_key_lies_beside_the_secret_one() -> None:
    assert public_path(Path("keys/app.key")) == Path("keys/app.key.pub")
