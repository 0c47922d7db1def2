"""minisign's files: verify and sign, public and secret keys. Text and bytes in, values out; no I/O, no randomness.

The formats are those of https://jedisct1.github.io/minisign/: a public key (one base64 line, or that line below an
untrusted comment), a secret key with or without an scrypt password, a signature of the message (`Ed`) or of its
BLAKE2b-512 (`ED`), and the global signature over signature and trusted comment, which is mandatory here. What the
`minisign` command writes is read here and the other way round. One spelling only: what follows the last line, loose
bits of base64 and control characters, which minisign lets pass, are refused.
"""

from __future__ import annotations

import base64
import re
from hashlib import blake2b
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

from .ed25519 import ed25519_public_key, ed25519_sign, ed25519_verify
from .problem import Problem

MAX_KEY_TEXT = (
    16 * 1024
)  # minisign's own limits are 1 KiB for the untrusted and 8 KiB for the trusted comment
SCRYPT_OPERATIONS, SCRYPT_MEMORY = (
    2**25,
    2**30,
)  # libsodium's "sensitive" limits, which minisign takes: some 4 s
_UNTRUSTED_PREFIX, _TRUSTED_PREFIX = "untrusted comment: ", "trusted comment: "
_COMMENT_CONTROL = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]"
)  # and half characters, as in undecodable file names
_TIMESTAMP = re.compile("0|[1-9][0-9]{0,11}")


class SignatureError(Problem):
    """A key, a signature or a trusted comment that is not what it must be."""


class UnknownKey(SignatureError):
    """Signed with a key that nobody here trusts; the signature itself was not looked at."""


class WrongPassword(SignatureError):
    """The secret key needs a password, and not this one."""


class PublicKey(NamedTuple):
    """What verifies. `str()` is the base64 line that minisign prints and reads."""

    key_id: bytes
    key: bytes

    def __str__(self) -> str:
        return _base64(b"Ed" + self.key_id + self.key)


class SecretKey(NamedTuple):
    """What signs; its repr does not show the seed."""

    key_id: bytes
    seed: bytes

    def __repr__(self) -> str:
        return f"SecretKey({key_name(self.key_id)})"


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

    Raises:
        UnknownKey: none of the keys has the signature's key id.
        SignatureError: not a signature, or a wrong one.
    """
    signature = parse_signature(signature_text)
    name = key_name(signature.key_id)
    keys = [key for key in public_keys if key.key_id == signature.key_id]
    if not keys:
        trusted = ", ".join(key_name(key.key_id) for key in public_keys) or "none"
        raise UnknownKey(
            "signed with the key {key}, which is not among the trusted keys ({trusted})",
            key=name,
            trusted=trusted,
        )
    signed = _signed_bytes(signature.algorithm, message)
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
    """The trusted comment, if one of the keys vouches for it; whatever message it came with is not looked at.

    Raises:
        SignatureError: not a signature.
    """
    signature = parse_signature(signature_text)
    said = signature.signature + signature.trusted_comment.encode()
    is_true = any(
        key.key_id == signature.key_id and ed25519_verify(key.key, said, signature.global_signature)
        for key in public_keys
    )
    return signature.trusted_comment if is_true else None


def sign(secret: SecretKey, message: bytes, trusted_comment: str, prehashed: bool = True) -> str:
    """The .minisig file for `message`; not `prehashed` is minisign's legacy form, of the whole message."""
    _check_comment(trusted_comment)
    algorithm = b"ED" if prehashed else b"Ed"
    signature = ed25519_sign(secret.seed, _signed_bytes(algorithm, message))
    global_signature = ed25519_sign(secret.seed, signature + trusted_comment.encode())
    return (
        f"{_UNTRUSTED_PREFIX}signature from minisign secret key\n{_base64(algorithm + secret.key_id + signature)}\n"
        f"{_TRUSTED_PREFIX}{trusted_comment}\n{_base64(global_signature)}\n"
    )


def _signed_bytes(algorithm: bytes, message: bytes) -> bytes:
    return blake2b(message).digest() if algorithm == b"ED" else message


def key_name(key_id: bytes) -> str:
    """The key id as people see it: 16 hex digits of the little-endian number (minisign 0.11 leaves leading zeros out)."""
    return f"{int.from_bytes(key_id, 'little'):016X}"


def public_key(secret: SecretKey) -> PublicKey:
    """The public half of `secret`."""
    return PublicKey(secret.key_id, ed25519_public_key(secret.seed))


# Files. CRLF ends lines as well as LF: minisign writes it on Windows. Nothing may follow the last line.


def parse_public_key(text: Union[str, bytes]) -> PublicKey:
    """The key in a .pub file, or in its second line alone."""
    try:
        *comments, line = _text_lines(text)
        if len(comments) > 1 or not all(
            comment.startswith(_UNTRUSTED_PREFIX) for comment in comments
        ):
            raise ValueError("more than a comment before the key")
        raw = _base64_payload(line.strip(), b"Ed", 42)
    except ValueError as error:
        raise SignatureError(
            "this is not a minisign public key: 56 characters that begin with RW, or the .pub file"
        ) from error
    return PublicKey(raw[2:10], raw[10:])


def public_key_text(key: PublicKey) -> str:
    """The .pub file of `key`."""
    return f"{_UNTRUSTED_PREFIX}minisign public key {key_name(key.key_id)}\n{key}\n"


def parse_signature(text: Union[str, bytes]) -> Signature:
    """The four lines of a .minisig file; whether it is right is `verify`'s question."""
    try:
        untrusted, first, trusted, second = _text_lines(text)
        if not (untrusted.startswith(_UNTRUSTED_PREFIX) and trusted.startswith(_TRUSTED_PREFIX)):
            raise ValueError("a comment without its prefix")
        raw = _base64_payload(first, (b"Ed", b"ED"), 74)
        global_signature = _base64_payload(second, b"", 64)
    except ValueError as error:
        raise SignatureError(
            "this is not a minisign signature: two comments, each with a line of base64 below"
        ) from error
    comment = trusted[len(_TRUSTED_PREFIX) :]
    _check_comment(comment)
    return Signature(raw[:2], raw[2:10], raw[10:], comment, global_signature)


def _check_comment(comment: str) -> None:
    """C programs end a string at a NUL, terminals obey escapes: neither stands in a comment that people rely on."""
    if _COMMENT_CONTROL.search(comment) or len(comment) > MAX_KEY_TEXT // 2:
        raise SignatureError(
            "the trusted comment is longer than 8,192 characters or has control characters in it"
        )


def parse_secret_key(text: Union[str, bytes], password: Optional[str] = None) -> SecretKey:
    """The key in a secret key file.

    Raises:
        WrongPassword: the file is encrypted and `password` is None or another.
        SignatureError: not a secret key, or a damaged one.
    """
    try:
        _, line = _text_lines(text)
        raw = _base64_payload(line, (b"EdSc", b"Ed\0\0"), 158)
        if raw[4:6] != b"B2":
            raise ValueError("a checksum other than BLAKE2b")
    except ValueError as error:
        raise SignatureError("this is not a minisign secret key file") from error
    body = raw[54:]
    if raw[2:4] == b"Sc":
        if password is None:
            raise WrongPassword("the secret key has a password")
        body = _scrypt_mask(
            body,
            password,
            raw[6:38],
            int.from_bytes(raw[38:46], "little"),
            int.from_bytes(raw[46:54], "little"),
        )
        if body[72:] != _key_checksum(body[:72]):
            raise WrongPassword("this is not the secret key's password")
    secret = SecretKey(body[:8], body[8:40])
    if (
        public_key(secret).key != body[40:72]
    ):  # the only check of a file without password: minisign leaves its checksum 0
        raise SignatureError(
            "the secret key file is damaged: its two halves do not belong together"
        )
    return secret


def secret_key_text(
    secret: SecretKey,
    password: str,
    salt: bytes,
    operations: int = SCRYPT_OPERATIONS,
    memory: int = SCRYPT_MEMORY,
) -> str:
    """The secret key file: encrypted under `password` with 32 random bytes of `salt`, or plain when the password is empty."""
    body = secret.key_id + secret.seed + public_key(secret).key
    if password:
        limits = operations.to_bytes(8, "little") + memory.to_bytes(8, "little")
        raw = (
            b"EdScB2"
            + salt
            + limits
            + _scrypt_mask(body + _key_checksum(body), password, salt, operations, memory)
        )
    else:
        raw = b"Ed\0\0B2" + bytes(48) + body + bytes(32)
    return f"{_UNTRUSTED_PREFIX}minisign {'encrypted ' if password else ''}secret key\n{_base64(raw)}\n"


def _key_checksum(body: bytes) -> bytes:
    return blake2b(b"Ed" + body, digest_size=32).digest()


def _scrypt_mask(body: bytes, password: str, salt: bytes, operations: int, memory: int) -> bytes:
    """XOR with a key stream from the password: encrypts and decrypts."""
    try:
        from hashlib import scrypt
    except ImportError as error:
        raise SignatureError(
            "this Python has no scrypt, which a key with a password needs; use one built with OpenSSL 1.1 or newer"
        ) from error
    cost, parallel = _scrypt_parameters(operations, memory)
    try:
        stream = scrypt(
            password.encode("utf-8", "surrogateescape"),
            salt=salt,
            n=cost,
            r=8,
            p=parallel,
            maxmem=SCRYPT_MEMORY + 2**22,
            dklen=len(body),
        )
    except (ValueError, MemoryError) as error:
        raise SignatureError(
            "scrypt needs {mebibytes} MiB of memory for the secret key's password and did not get them",
            mebibytes=cost >> 10,
        ) from error
    return bytes(a ^ b for a, b in zip(body, stream))


def _scrypt_parameters(operations: int, memory: int) -> Tuple[int, int]:
    """N and p (r is 8), as libsodium's crypto_pwhash_scryptsalsa208sha256 picks them."""
    if operations > SCRYPT_OPERATIONS or memory > SCRYPT_MEMORY:
        raise SignatureError("the secret key's password asks for more work than minisign ever does")
    operations = max(operations, 2**15)
    limited_by_time = operations < memory // 32
    most = operations // 32 if limited_by_time else memory // 1024
    log2 = next(log2 for log2 in range(1, 64) if 2**log2 > most // 2)
    return 2**log2, 1 if limited_by_time else max(1, operations // 4 // 2**log2 // 8)


def _text_lines(text: Union[str, bytes]) -> List[str]:
    """The lines of a key or signature file, or ValueError. `splitlines` would split at ten other characters too."""
    if len(text) > MAX_KEY_TEXT:
        raise ValueError("too long")
    raw = (
        text.encode("utf-8") if isinstance(text, str) else text
    )  # refuses the lone surrogates that JSON can bring
    lines = raw.decode("utf-8").replace("\r\n", "\n").split("\n")
    return lines[:-1] if not lines[-1] else lines


def _base64_payload(line: str, start: Union[bytes, Tuple[bytes, ...]], size: int) -> bytes:
    """The bytes of a base64 line, or ValueError; one spelling only, where b64decode skips what it does not know."""
    raw = base64.b64decode(line)
    if len(raw) != size or not raw.startswith(start) or _base64(raw) != line:
        raise ValueError("not the base64 of what belongs here")
    return raw


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def parse_release_comment(text: str) -> ReleaseComment:
    """The `timestamp:N`, `app:A` and `version:V` between tabs, in any order, each exactly once.

    Further fields are tolerated: the signature covers them, minisign itself writes `file:` and `hashed`, and a later
    publisher must be able to add one that today's clients pass over.
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
        "the trusted comment {comment!r} does not hold timestamp:N, app:A and version:V, each once, between tabs",
        comment=text[:200],
    )


def release_comment_text(comment: ReleaseComment) -> str:
    """The trusted comment; SignatureError when `app` or `version` could not be read back from it."""
    text = "\t".join(f"{name}:{value}" for name, value in zip(comment._fields, comment))
    if parse_release_comment(text) != comment:
        raise SignatureError("{comment!r} does not fit into a trusted comment", comment=text[:200])
    return text
