"""minisign's files, against the `minisign` command both ways."""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Callable, List, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuitkal_mini import signing
from nuitkal_mini.minisign import (
    ReleaseComment,
    SignatureError,
    UnknownKey,
    key_name,
    parse_public_key,
    parse_release_comment,
    parse_signature,
    parse_signatures,
    signed_bytes,
    to_base64,
    verify,
    verify_comment,
)
from nuitkal_mini.signing import (
    SecretKey,
    WrongPassword,
    ed25519_sign,
    parse_secret_key,
    public_key,
    public_key_text,
    release_comment_text,
    secret_key_text,
    sign,
)

from .support import need_tool

VECTORS = Path(__file__).parent / "vectors"
SECRET = SecretKey(b"\x5d\xd8\x3e\x27\xe3\xe9\xf5\x64", bytes(range(32)))
PUBLIC = public_key(SECRET)
MESSAGE = b'{"format": 1}'
COMMENT = "timestamp:1700000000\tapp:Größe 1\tversion:1.0.1"
TEXT = sign(SECRET, MESSAGE, COMMENT)
FAST = {"operations": 2**15, "memory": 2**24}  # scrypt limits for tests: 16 MiB


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def stored(name: str) -> str:
    return (VECTORS / "minisign" / name).read_text()


# --- Signatures


@pytest.mark.parametrize("prehashed", [True, False])
def test_a_signature_gives_its_key_and_its_comment(prehashed: bool) -> None:
    other = public_key(SecretKey(b"another1", bytes(32)))
    assert verify([other, PUBLIC], MESSAGE, sign(SECRET, MESSAGE, COMMENT, prehashed)) == (
        PUBLIC,
        COMMENT,
    )


NEWER = SecretKey(b"newer\0\0\0", bytes(range(1, 33)))


def test_of_several_signatures_the_first_by_a_known_key_decides() -> None:
    both = TEXT + sign(NEWER, MESSAGE, "timestamp:2")
    assert verify([public_key(NEWER)], MESSAGE, both).trusted_comment == "timestamp:2"
    assert verify([public_key(NEWER), PUBLIC], MESSAGE, both) == (PUBLIC, COMMENT)
    assert verify_comment([public_key(NEWER)], both) == "timestamp:2"
    assert parse_signature(both) == parse_signatures(both)[0] == parse_signature(TEXT)
    assert len(parse_signatures(both.replace("\n", "\r\n"))) == 2


def test_a_wrong_signature_by_a_known_key_is_not_made_up_for_by_a_later_one() -> None:
    wrong = sign(SECRET, b"other", COMMENT)
    for text in (wrong + sign(NEWER, MESSAGE, "x"), wrong + TEXT):
        with pytest.raises(SignatureError, match="is wrong"):
            verify([public_key(NEWER), PUBLIC], MESSAGE, text)
    assert verify([public_key(NEWER)], MESSAGE, wrong + sign(NEWER, MESSAGE, "x"))


def test_signatures_by_strangers_alone_are_named() -> None:
    with pytest.raises(UnknownKey, match=f"{key_name(SECRET.key_id)}, {key_name(NEWER.key_id)}"):
        verify([], MESSAGE, TEXT + sign(NEWER, MESSAGE, "x"))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TEXT + TEXT[:-40], id="the second cut short"),
        pytest.param(TEXT + "\n" + TEXT, id="an empty line between"),
        pytest.param(TEXT + TEXT.split("\n", 1)[1], id="the second without its comment"),
        pytest.param(TEXT + "untrusted comment: x\n", id="a comment behind"),
        pytest.param(TEXT * 60, id="more than 16 KiB"),
        pytest.param("", id="none"),
    ],
)
def test_a_file_of_signatures_holds_nothing_else(text: str) -> None:
    with pytest.raises(SignatureError, match="not a minisign signature"):
        parse_signatures(text)


@pytest.mark.parametrize(
    "signature, key",
    [("plain-legacy.minisig", "plain.pub"), ("password-prehashed.minisig", "password.pub")],
)
def test_signatures_that_minisign_made(signature: str, key: str) -> None:
    found = verify([parse_public_key(stored(key))], b"hello\n", stored(signature))
    assert found.trusted_comment.startswith("timestamp:1795511037\tfile:f")


def test_an_unknown_key_is_told_from_a_wrong_signature() -> None:
    other = public_key(SecretKey(b"another1", SECRET.seed))
    with pytest.raises(
        UnknownKey,
        match=r"the key 64F5E9E3273ED85D, which is not among the trusted keys \(31726568746F6E61\)",
    ):
        verify([other], MESSAGE, TEXT)
    with pytest.raises(UnknownKey, match=r"\(none\)"):
        verify([], MESSAGE, TEXT)
    with pytest.raises(SignatureError, match="the key 64F5E9E3273ED85D is wrong") as wrong:
        verify([PUBLIC], MESSAGE + b" ", TEXT)
    assert not isinstance(wrong.value, UnknownKey)


def test_of_two_keys_with_one_id_either_may_sign() -> None:
    twin = SecretKey(SECRET.key_id, bytes(32))
    assert verify(
        [PUBLIC, public_key(twin)], MESSAGE, sign(twin, MESSAGE, COMMENT)
    ).key == public_key(twin)
    assert verify([public_key(twin), PUBLIC], MESSAGE, TEXT).key == PUBLIC


def test_another_comment_is_refused_even_from_another_signature_by_the_same_key() -> None:
    ours, other = (
        TEXT.split("\n"),
        sign(SECRET, b"another release", "timestamp:1\tapp:a\tversion:9.0.0").split("\n"),
    )
    with pytest.raises(SignatureError, match="trusted comment is wrong"):
        verify([PUBLIC], MESSAGE, "\n".join(ours[:2] + other[2:]))
    with pytest.raises(SignatureError, match="trusted comment is wrong"):
        verify([PUBLIC], MESSAGE, TEXT.replace("1.0.1", "1.0.2"))


def test_a_prehashed_signature_is_none_of_the_hash_as_a_message() -> None:
    with pytest.raises(SignatureError, match="is wrong"):
        verify([PUBLIC], hashlib.blake2b(MESSAGE).digest(), sign(SECRET, MESSAGE, COMMENT))


def test_lines_may_end_as_on_windows() -> None:
    windows = TEXT.replace("\n", "\r\n")
    assert (
        verify([PUBLIC], MESSAGE, windows)
        == verify([PUBLIC], MESSAGE, windows.encode())
        == (PUBLIC, COMMENT)
    )
    assert parse_public_key(public_key_text(PUBLIC).replace("\n", "\r\n")) == PUBLIC


LINES = TEXT.split("\n")
LOOSE_BITS = (
    LINES[1][:-2] + chr(ord(LINES[1][-2]) + 1) + "="
)  # differs from the true line in bits that base64 ignores
MALFORMED = {
    "empty": "",
    "a bare line": LINES[1],
    "three lines": "\n".join(LINES[:3]),
    "five lines": TEXT + "more",
    "an empty line after": TEXT + "\n",
    "an empty line before": "\n" + TEXT,
    "no prefix": TEXT.replace("untrusted comment: ", ""),
    "no trusted prefix": TEXT.replace("\ntrusted comment: ", "\n"),
    "bad base64": TEXT.replace("RU", "R*"),
    "base64 with a space": TEXT.replace(LINES[1], LINES[1][:8] + " " + LINES[1][8:]),
    "loose bits": TEXT.replace(LINES[1], LOOSE_BITS),
    "not ASCII": TEXT.replace(LINES[1], "é" + LINES[1][1:]),
    "another algorithm": TEXT.replace(
        LINES[1], base64.b64encode(b"XX" + base64.b64decode(LINES[1])[2:]).decode()
    ),
    "short": TEXT.replace(LINES[1], LINES[1][:-4]),
    "global signature short": TEXT.replace(LINES[3], LINES[3][:-4]),
    "global signature missing": TEXT.replace(LINES[3], ""),
    "huge": TEXT.replace("minisign", "9" * 20_000),
    "a long comment": TEXT.replace("timestamp", "timestamp" + "9" * 9_000),
    "a NUL": TEXT.replace("app", "a\0pp"),
    "an escape": TEXT.replace("app", "a\x1b[2Jpp"),
    "a CR in a line": TEXT.replace("app", "a\rpp"),
    "a lone surrogate": TEXT.replace("app", "\ud800"),
    "a lone surrogate outside": TEXT.replace("minisign", "\udfff"),
    "a key": public_key_text(PUBLIC),
    "a line separator": TEXT.replace("\n", "\u2028"),
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_signature_file_is_refused(text: str) -> None:
    with pytest.raises(SignatureError):
        verify([PUBLIC], MESSAGE, text)


@pytest.mark.parametrize("parse", [parse_signature, parse_public_key, parse_secret_key])
def test_bytes_that_are_not_utf_8_are_refused(parse: Callable[[bytes], object]) -> None:
    with pytest.raises(SignatureError):
        parse(b"untrusted comment: \xff\n" + TEXT.encode())


@pytest.mark.parametrize(
    "parse", [parse_signature, parse_public_key, parse_secret_key, parse_release_comment]
)
@given(
    st.one_of(
        st.text(max_size=300),
        st.lists(st.sampled_from(LINES + [str(PUBLIC), "\t", "app:"]), max_size=5).map("\n".join),
    )
)
def test_any_text_is_parsed_or_refused(parse: Callable[[str], object], text: str) -> None:
    try:
        parse(text)
    except SignatureError:
        pass


@pytest.mark.parametrize(
    "step", [11, pytest.param(1, marks=pytest.mark.slow)], ids=["sample", "every bit"]
)
def test_no_flipped_bit_of_a_signature_file_counts_outside_the_untrusted_comment(step: int) -> None:
    raw = TEXT.encode()
    free = range(8 * len("untrusted comment: "), 8 * raw.index(b"\n"))
    survivors = [bit for bit in range(0, 8 * len(raw), step) if accepts(flip(raw, bit))]
    assert survivors and set(survivors) <= set(free)


def accepts(text: bytes) -> bool:
    try:
        return verify([PUBLIC], MESSAGE, text) == (PUBLIC, COMMENT)
    except SignatureError:
        return False


@settings(max_examples=300)
@given(
    st.integers(0, len(TEXT)),
    st.integers(0, 6),
    st.sampled_from(["", "\n", "\r\n", "\t", "A", "=", "\u2028", "0", LINES[1], COMMENT, "\ud800"]),
)
def test_a_changed_signature_file_is_refused_or_says_what_was_signed(
    place: int, length: int, put: str
) -> None:
    changed = TEXT[:place] + put + TEXT[place + length :]
    try:
        assert verify([PUBLIC], MESSAGE, changed) == (PUBLIC, COMMENT)
    except SignatureError:
        pass


@pytest.mark.parametrize(
    "comment", ["two\nlines", "a NUL \0", "\r", "\x1b[2J", "9" * 9_000, "file:\udcff"]
)
def test_a_comment_that_could_not_be_read_back_is_not_signed(comment: str) -> None:
    with pytest.raises(SignatureError, match="control characters"):
        sign(SECRET, MESSAGE, comment)


# --- Keys


@pytest.mark.parametrize(
    "text",
    [str(PUBLIC), f"  {PUBLIC}\n", public_key_text(PUBLIC), public_key_text(PUBLIC).rstrip()],
)
def test_a_public_key_is_a_line_or_a_file(text: str) -> None:
    assert parse_public_key(text) == parse_public_key(text.encode()) == PUBLIC


KEY_FILE = public_key_text(PUBLIC)
NO_PUBLIC_KEYS = {
    "empty": "",
    "a comment alone": "untrusted comment: minisign public key\n",
    "two lines without a comment": f"{PUBLIC}\n{PUBLIC}\n",
    "three lines": KEY_FILE + str(PUBLIC),
    "cut": str(PUBLIC)[:-4],
    "longer": str(PUBLIC) + "AAAA",
    "another algorithm": "RX" + str(PUBLIC)[2:],
    "a signature": TEXT,
    "a secret key": secret_key_text(SECRET, "", bytes(32)),
    "huge": str(PUBLIC) * 1000,
    "not ASCII": "ü" + str(PUBLIC)[1:],
}


@pytest.mark.parametrize("text", NO_PUBLIC_KEYS.values(), ids=NO_PUBLIC_KEYS.keys())
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(SignatureError, match="not a minisign public key"):
        parse_public_key(text)


def test_a_key_id_is_shown_as_minisign_shows_it() -> None:
    shown = stored("plain.pub").split("\n")[0].split()[-1]
    assert key_name(parse_public_key(stored("plain.pub")).key_id) == shown


def test_a_key_id_has_sixteen_digits_even_where_minisign_leaves_zeros_out() -> None:
    assert key_name(bytes.fromhex("e4fb7c1581578306")) == "06835781157CFBE4"


def test_a_secret_key_that_minisign_made_without_password() -> None:
    secret = parse_secret_key(stored("plain.key"))
    assert public_key_text(public_key(secret)) == stored("plain.pub")
    assert (
        secret_key_text(secret, "", bytes(32)).split("\n")[1] == stored("plain.key").split("\n")[1]
    )


@pytest.mark.slow
def test_a_secret_key_that_minisign_made_with_password() -> None:
    assert public_key_text(public_key(parse_secret_key(stored("password.key"), "pw"))) == stored(
        "password.pub"
    )


@pytest.mark.parametrize("password", ["", "pw", "Größe 密码 \U0001f511"])
def test_a_secret_key_comes_back_from_its_file(password: str) -> None:
    assert (
        parse_secret_key(secret_key_text(SECRET, password, bytes(range(32)), **FAST), password)
        == SECRET
    )


@pytest.mark.parametrize("password", [None, "", "PW", "pw "])
def test_another_password_is_refused(password: Optional[str]) -> None:
    text = secret_key_text(SECRET, "pw", bytes(32), **FAST)
    with pytest.raises(WrongPassword, match="password"):
        parse_secret_key(text, password)


def test_an_encrypted_key_file_shows_neither_seed_nor_key_id() -> None:
    raw = base64.b64decode(secret_key_text(SECRET, "pw", bytes(32), **FAST).split("\n")[1])
    assert SECRET.seed[:8] not in raw and SECRET.key_id not in raw
    assert "64F5E9E3273ED85D" in repr(SECRET) and repr(SECRET.seed)[2:20] not in repr(SECRET)


@pytest.mark.parametrize(
    "place, reason",
    [
        (0, "not a minisign secret key"),
        (2, "not a minisign secret key"),
        (4, "not a minisign secret key"),
        (70, "two halves"),
        (110, "two halves"),
    ],
)
def test_a_damaged_secret_key_is_refused(place: int, reason: str) -> None:
    head, line, _ = secret_key_text(SECRET, "", bytes(32)).split("\n")
    damaged = base64.b64encode(flip(base64.b64decode(line), 8 * place)).decode()
    with pytest.raises(SignatureError, match=reason):
        parse_secret_key(f"{head}\n{damaged}\n")


@pytest.mark.parametrize(
    "text",
    ["", "\n", TEXT, KEY_FILE, stored("plain.key") + "more", stored("plain.key").split("\n")[1]],
)
def test_what_is_no_secret_key_is_refused(text: str) -> None:
    with pytest.raises(SignatureError, match="not a minisign secret key"):
        parse_secret_key(text)


@pytest.mark.parametrize(
    "operations, memory", [(2**26, 2**24), (2**25, 2**31), (2**64 - 1, 2**64 - 1)]
)
def test_a_key_file_cannot_make_scrypt_run_for_ever(operations: int, memory: int) -> None:
    head, line, _ = secret_key_text(SECRET, "pw", bytes(32), **FAST).split("\n")
    raw = base64.b64decode(line)
    raw = raw[:38] + operations.to_bytes(8, "little") + memory.to_bytes(8, "little") + raw[54:]
    with pytest.raises(SignatureError, match="more work than minisign"):
        parse_secret_key(f"{head}\n{base64.b64encode(raw).decode()}\n", "pw")


@pytest.mark.parametrize(
    "operations, memory",
    [
        (0, 2**20),
        (2**15, 2**24),
        (2**19, 2**24),
        (2**21, 2**22),
        (100_000, 3_000_000),
        (2**20, 2**16),
    ],
)
def test_scrypt_takes_the_limits_as_libsodium_does(operations: int, memory: int) -> None:
    stream, salt = ctypes.create_string_buffer(104), bytes(range(32))
    name = ctypes.util.find_library("sodium")
    if name is None:
        pytest.skip("libsodium is not installed (Debian: libsodium23, comes with minisign)")
    library = ctypes.CDLL(name)
    library.crypto_pwhash_scryptsalsa208sha256.argtypes = [
        ctypes.c_char_p,
        ctypes.c_ulonglong,
        ctypes.c_char_p,
        ctypes.c_ulonglong,
        ctypes.c_char_p,
        ctypes.c_ulonglong,
        ctypes.c_size_t,
    ]
    assert (
        library.crypto_pwhash_scryptsalsa208sha256(stream, 104, b"pw", 2, salt, operations, memory)
        == 0
    )
    assert signing._scrypt_mask(bytes(104), "pw", salt, operations, memory) == stream.raw


def test_without_scrypt_a_key_with_a_password_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = secret_key_text(SECRET, "pw", bytes(32), **FAST)
    monkeypatch.delattr(hashlib, "scrypt")
    with pytest.raises(SignatureError, match="has no scrypt"):
        parse_secret_key(text, "pw")
    assert parse_secret_key(secret_key_text(SECRET, "", bytes(32))) == SECRET


def test_importing_loads_nothing_that_urllib_has_not_loaded_and_makes_no_table() -> None:
    program = """
import __future__, sys, types, typing, urllib.request
# Without the client, which the package's __init__ would bring.
package = sys.modules["nuitkal_mini"] = types.ModuleType("nuitkal_mini")
package.__path__ = ["nuitkal_mini"]
before = set(sys.modules)
from nuitkal_mini import ed25519, minisign
print(sorted(set(sys.modules) - before), ed25519._base_multiples.cache_info().currsize)"""
    shown = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        check=True,
        cwd=VECTORS.parent.parent,
    )
    assert (
        shown.stdout.decode().strip()
        == "['nuitkal_mini.ed25519', 'nuitkal_mini.minisign', 'nuitkal_mini.problem'] 0"
    )


# --- The trusted comment of a manifest


@pytest.mark.parametrize(
    "text, found",
    [
        ("timestamp:0\tapp:\tversion:1", (0, "", "1")),
        ("version:1.0.1\ttimestamp:1700000000\tapp:my app", (1700000000, "my app", "1.0.1")),
        ("app:a:b\tversion:v1\ttimestamp:5\tfile:update.json\thashed", (5, "a:b", "v1")),
    ],
)
def test_a_release_comment_is_read_in_any_order_with_further_fields(
    text: str, found: object
) -> None:
    assert parse_release_comment(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "timestamp:1\tapp:a",
        "app:a\tversion:1",
        "timestamp:1\tversion:1",
        "timestamp:1\tapp:a\tversion:",
        "timestamp:1\tapp:a\tversion:1\tapp:a",
        "timestamp:1\tapp:a\tversion:1\tversion:2",
        "timestamp:1\ttimestamp:1\tapp:a\tversion:1",
        "timestamp:-1\tapp:a\tversion:1",
        "timestamp:\tapp:a\tversion:1",
        "timestamp: 1\tapp:a\tversion:1",
        "timestamp:01\tapp:a\tversion:1",
        "timestamp:1_0\tapp:a\tversion:1",
        "timestamp:١\tapp:a\tversion:1",
        "timestamp:" + "9" * 13 + "\tapp:a\tversion:1",
        "timestamp:1 app:a version:1",
        "Timestamp:1\tapp:a\tversion:1",
        "timestamp:1\tapp:a\x1b\tversion:1",
        "timestamp:1\tapp\tversion:1\tversion",
        "timestamp:1\tapp:a\u202e\tversion:1",
    ],
)
def test_other_comments_are_no_release_comment(text: str) -> None:
    with pytest.raises(SignatureError, match="each once"):
        parse_release_comment(text)


@given(
    st.integers(0, 10**12 - 1),
    st.text().filter(str.isprintable),
    st.text(min_size=1).filter(str.isprintable),
)
def test_a_release_comment_comes_back(timestamp: int, app: str, version: str) -> None:
    comment = ReleaseComment(timestamp, app, version)
    assert parse_release_comment(release_comment_text(comment)) == comment


@pytest.mark.parametrize(
    "app, version", [("a\tfile:b", "1"), ("a\nb", "1"), ("a", "1\tversion:2"), ("a", "")]
)
def test_a_release_comment_that_would_say_something_else_is_not_made(
    app: str, version: str
) -> None:
    with pytest.raises(SignatureError):
        release_comment_text(ReleaseComment(1, app, version))


# --- The real minisign


class Minisign:
    """The `minisign` command, with a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "message").write_bytes(MESSAGE)

    def __call__(self, *arguments: str, typed: str = "") -> str:
        done = subprocess.run(
            ["minisign", *arguments],
            input=typed.encode(),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout.decode()

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")


@pytest.fixture
def command(tmp_path: Path) -> Minisign:
    need_tool("minisign")
    return Minisign(tmp_path)


@pytest.mark.parametrize("prehashed", [True, False], ids=["ED", "Ed"])
def test_minisign_verifies_what_we_sign(command: Minisign, prehashed: bool) -> None:
    command.write("our.pub", public_key_text(PUBLIC))
    command.write("message.minisig", sign(SECRET, MESSAGE, COMMENT, prehashed))
    assert f"Trusted comment: {COMMENT}" in command("-V", "-p", "our.pub", "-m", "message")
    assert "verified" in command(
        "-V", "-P", str(PUBLIC), "-m", "message", *(["-H"] if prehashed else [])
    )


def test_minisign_verifies_the_first_of_several(command: Minisign) -> None:
    command.write("our.pub", public_key_text(PUBLIC))
    command.write("message.minisig", TEXT + sign(NEWER, MESSAGE, "x"))
    assert f"Trusted comment: {COMMENT}" in command("-V", "-p", "our.pub", "-m", "message")


@pytest.mark.parametrize("legacy", [[], ["-l"]], ids=["ED", "Ed"])
@pytest.mark.parametrize("password", ["", "pw"], ids=["plain", "with password"])
def test_we_verify_what_minisign_signs_with_our_key_file(
    command: Minisign, password: str, legacy: List[str]
) -> None:
    command.write("our.key", secret_key_text(SECRET, password, bytes(range(32)), **FAST))
    command("-S", *legacy, "-s", "our.key", "-m", "message", "-t", COMMENT, typed=password + "\n")
    signature = command.read("message.minisig")
    assert verify([PUBLIC], MESSAGE, signature) == (PUBLIC, COMMENT)
    assert parse_signature(signature).algorithm == (b"Ed" if legacy else b"ED")
    assert signature == sign(SECRET, MESSAGE, COMMENT, prehashed=not legacy)  # byte for byte


@pytest.mark.parametrize("prehashed", [True, False], ids=["ED", "Ed"])
def test_we_sign_with_a_key_file_that_minisign_made(command: Minisign, prehashed: bool) -> None:
    command("-G", "-W", "-p", "its.pub", "-s", "its.key")
    secret = parse_secret_key(command.read("its.key"))
    assert public_key(secret) == parse_public_key(command.read("its.pub"))
    command.write("message.minisig", sign(secret, MESSAGE, COMMENT, prehashed))
    assert COMMENT in command("-V", "-p", "its.pub", "-m", "message")
    command("-S", "-s", "its.key", "-m", "message", "-x", "its.minisig")
    assert verify(
        [parse_public_key(command.read("its.pub"))], MESSAGE, command.read("its.minisig")
    ).key == public_key(secret)


@pytest.mark.slow
def test_a_key_file_that_minisign_made_with_a_password(command: Minisign) -> None:
    command("-G", "-p", "its.pub", "-s", "its.key", typed="pw\npw\n")
    assert public_key(parse_secret_key(command.read("its.key"), "pw")) == parse_public_key(
        command.read("its.pub")
    )


@pytest.mark.slow
def test_minisign_opens_our_key_file_at_full_strength(command: Minisign) -> None:
    command.write("our.key", secret_key_text(SECRET, "pw", os.urandom(32)))
    command("-S", "-s", "our.key", "-m", "message", typed="pw\n")
    assert verify([PUBLIC], MESSAGE, command.read("message.minisig")).key == PUBLIC


@pytest.mark.parametrize("comment", ["a\0b", "\x1b[2J", "a\rb", "9" * 8193], ids=repr)
def test_a_malformed_comment_is_refused_even_when_it_is_properly_signed(comment: str) -> None:
    secret = SecretKey(b"8 bytes!", bytes(range(32)))
    message = b"x"
    signature = ed25519_sign(secret.seed, signed_bytes(b"ED", message))
    whole = ed25519_sign(secret.seed, signature + comment.encode())
    text = (
        f"untrusted comment: x\n{to_base64(b'ED' + secret.key_id + signature)}\n"
        f"trusted comment: {comment}\n{to_base64(whole)}\n"
    )
    with pytest.raises(SignatureError, match="control characters"):
        verify([public_key(secret)], message, text)
