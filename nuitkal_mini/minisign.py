"""minisign's public keys and signatures: parse and verify. Text and bytes in, values out.

The formats are those of https://jedisct1.github.io/minisign/: a public key (one base64 line, or
that line below an untrusted comment), a secret key with or without an scrypt password, a signature
of the message (`Ed`) or of its BLAKE2b-512 (`ED`), and the global signature over signature and
trusted comment, which is mandatory here. What the `minisign` command writes is read here and the
other way round. One spelling only: what follows the last line, loose bits of base64 and control
characters, which minisign lets pass, are refused.
"""

from __future__ import annotations

import base64
import re
from hashlib import blake2b
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

from .ed25519 import ed25519_verify
from .problem import Problem

MAX_KEY_TEXT = (
    16 * 1024
)  # minisign's own limits are 1 KiB for the untrusted and 8 KiB for the trusted comment
UNTRUSTED_PREFIX, TRUSTED_PREFIX = "untrusted comment: ", "trusted comment: "
_COMMENT_CONTROL = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]"
)  # and half characters, as in undecodable file names
_TIMESTAMP = re.compile("0|[1-9][0-9]{0,11}")


class SignatureError(Problem):
    """A key, a signature or a trusted comment that is not what it must be."""


class UnknownKey(SignatureError):
    """Signed with a key that nobody here trusts; the signature itself was not looked at."""


class PublicKey(NamedTuple):
    """What verifies. `str()` is the base64 line that minisign prints and reads."""

    key_id: bytes
    key: bytes

    def __str__(self) -> str:
        return to_base64(b"Ed" + self.key_id + self.key)


class Signature(NamedTuple):
    """A .minisig file: `algorithm` is b"Ed" (of the message) or b"ED" (of its BLAKE2b-512)."""

    algorithm: bytes
    key_id: bytes
    signature: bytes
    trusted_comment: str
    global_signature: bytes


class Verified(NamedTuple):
    """The key whose signature it was, and the comment that it vouches for."""

    key: PublicKey
    trusted_comment: str


class ReleaseComment(NamedTuple):
    """The trusted comment of a manifest; `timestamp` is in seconds since 1970."""

    timestamp: int
    app: str
    version: str


def verify(
    public_keys: Sequence[PublicKey], message: bytes, signature_text: Union[str, bytes]
) -> Verified:
    """Which of the keys signed `message`, and with what trusted comment.

    The first signature by one of the keys decides; those by other keys are passed over.

    Raises:
        UnknownKey: none of the keys has the key id of a signature.
        SignatureError: not a signature file, or the signature that decides is wrong.
    """
    signature = _deciding_signature(public_keys, signature_text)
    name = key_name(signature.key_id)
    keys = [key for key in public_keys if key.key_id == signature.key_id]
    signed = signed_bytes(signature.algorithm, message)
    for key in keys:
        if ed25519_verify(key.key, signed, signature.signature):
            break
    else:
        raise SignatureError(
            "the signature by the key {key} is wrong: these are not the bytes that were signed",
            key=name,
        )
    if not ed25519_verify(
        key.key,
        signature.signature + signature.trusted_comment.encode(),
        signature.global_signature,
    ):
        raise SignatureError(
            "the signature by the key {key} is right, the one of its trusted comment is wrong",
            key=name,
        )
    return Verified(key, signature.trusted_comment)


def verify_comment(
    public_keys: Sequence[PublicKey], signature_text: Union[str, bytes]
) -> Optional[str]:
    """The trusted comment, if one of the keys vouches for it, whatever the message was.

    Raises:
        SignatureError: not a signature file.
    """
    try:
        signature = _deciding_signature(public_keys, signature_text)
    except UnknownKey:
        return None
    said = signature.signature + signature.trusted_comment.encode()
    is_true = any(
        key.key_id == signature.key_id and ed25519_verify(key.key, said, signature.global_signature)
        for key in public_keys
    )
    return signature.trusted_comment if is_true else None


def _deciding_signature(
    public_keys: Sequence[PublicKey], signature_text: Union[str, bytes]
) -> Signature:
    signatures = parse_signatures(signature_text)
    known = {key.key_id for key in public_keys}
    for signature in signatures:
        if signature.key_id in known:
            return signature
    raise UnknownKey(
        "signed with the key {key}, which is not among the trusted keys ({trusted})",
        key=", ".join(key_name(signature.key_id) for signature in signatures[:10]),
        trusted=", ".join(key_name(key.key_id) for key in public_keys) or "none",
    )


def signed_bytes(algorithm: bytes, message: bytes) -> bytes:
    return blake2b(message).digest() if algorithm == b"ED" else message


def key_name(key_id: bytes) -> str:
    """The key id as people see it: 16 hex digits of the little-endian number.

    minisign 0.11 leaves leading zeros out.
    """
    return f"{int.from_bytes(key_id, 'little'):016X}"


# Files. CRLF ends lines as well as LF: minisign writes it on Windows. Nothing may follow the last
# line.


def parse_public_key(text: Union[str, bytes]) -> PublicKey:
    """The key in a .pub file, or in its second line alone."""
    try:
        *comments, line = text_lines(text)
        if len(comments) > 1 or not all(
            comment.startswith(UNTRUSTED_PREFIX) for comment in comments
        ):
            raise ValueError("more than a comment before the key")
        raw = base64_payload(line.strip(), b"Ed", 42)
    except ValueError as error:
        raise SignatureError(
            "this is not a minisign public key: 56 characters that begin with RW, or the .pub file"
        ) from error
    return PublicKey(raw[2:10], raw[10:])


def parse_signature(text: Union[str, bytes]) -> Signature:
    """The first signature of a .minisig file: the one that the minisign command verifies."""
    return parse_signatures(text)[0]


def parse_signatures(text: Union[str, bytes]) -> Tuple[Signature, ...]:
    """The signatures in a .minisig file, four lines each; whether they are right, `verify` says.

    Raises:
        SignatureError: it holds none, or something else as well.
    """
    try:
        lines = text_lines(text)
        if not lines or len(lines) % 4:
            raise ValueError("not four lines each")
        return tuple(_signature(*lines[at : at + 4]) for at in range(0, len(lines), 4))
    except ValueError as error:
        if isinstance(error, SignatureError):
            raise
        raise SignatureError(
            "this is not a minisign signature: two comments, each with a line of base64 below"
        ) from error


def _signature(untrusted: str, first: str, trusted: str, second: str) -> Signature:
    if not (untrusted.startswith(UNTRUSTED_PREFIX) and trusted.startswith(TRUSTED_PREFIX)):
        raise ValueError("a comment without its prefix")
    raw = base64_payload(first, (b"Ed", b"ED"), 74)
    comment = trusted[len(TRUSTED_PREFIX) :]
    check_trusted_text(comment)
    return Signature(raw[:2], raw[2:10], raw[10:], comment, base64_payload(second, b"", 64))


def check_trusted_text(comment: str) -> None:
    """Refuse a trusted comment that is long or has control characters.

    C programs end a string at a NUL and terminals obey escapes; people rely on this comment.
    """
    if _COMMENT_CONTROL.search(comment) or len(comment) > MAX_KEY_TEXT // 2:
        raise SignatureError(
            "the trusted comment is longer than 8,192 characters or has control characters in it"
        )


def text_lines(text: Union[str, bytes]) -> List[str]:
    """The lines of a key or signature file, or ValueError.

    `splitlines` splits at ten other characters too.
    """
    if len(text) > MAX_KEY_TEXT:
        raise ValueError("too long")
    raw = (
        text.encode("utf-8") if isinstance(text, str) else text
    )  # refuses the lone surrogates that JSON can bring
    lines = raw.decode("utf-8").replace("\r\n", "\n").split("\n")
    return lines[:-1] if not lines[-1] else lines


def base64_payload(line: str, start: Union[bytes, Tuple[bytes, ...]], size: int) -> bytes:
    """The bytes of a base64 line, or ValueError.

    There is one spelling only: b64decode alone skips characters that it does not know.
    """
    raw = base64.b64decode(line)
    if len(raw) != size or not raw.startswith(start) or to_base64(raw) != line:
        raise ValueError("not the base64 of what belongs here")
    return raw


def to_base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def parse_release_comment(text: str) -> ReleaseComment:
    """The `timestamp:N`, `app:A` and `version:V` between tabs, in any order, each exactly once.

    Further fields are tolerated: the signature covers them, minisign itself writes `file:` and
    `hashed`, and a later publisher must be able to add one that today's clients pass over.
    """
    fields = [field.partition(":")[::2] for field in text.split("\t")]
    values = dict(fields)
    names = [name for name, _ in fields]
    if (
        all(names.count(name) == 1 for name in ReleaseComment._fields)
        and text.replace("\t", "").isprintable()
    ):
        timestamp, app, version = (values[name] for name in ReleaseComment._fields)
        if _TIMESTAMP.fullmatch(timestamp) and version:
            return ReleaseComment(int(timestamp), app, version)
    raise SignatureError(
        "the trusted comment {comment!r} does not hold timestamp:N, app:A and version:V, "
        "each once, between tabs",
        comment=text[:200],
    )
