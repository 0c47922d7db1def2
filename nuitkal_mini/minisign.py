"""Ed25519 (RFC 8032) and minisign's files: verify, sign, keys. Bytes and text in, values out; no I/O, no randomness.

The files are those of https://jedisct1.github.io/minisign/: a public key (one base64 line, or that line below an
untrusted comment), a secret key with or without an scrypt password, a signature of the message (`Ed`) or of its
BLAKE2b-512 (`ED`), and the global signature over signature and trusted comment, which is mandatory here.

`ed25519_verify` accepts what libsodium 1.0.18 accepts, the library below the `minisign` command (the tests ask it):
the *cofactorless* equation, encode([S]B - [k]A) == R byte for byte, with S < L, A canonical, neither A nor R of small
order. RFC 8032 5.1.7 allows this form beside the cofactored one. It is the stricter: whatever passes here passes
there too, it leaves no second encoding of R, and it needs no square root for R. A mixed A (a torsion component beside
the large-order one) counts as it stands: [k] is applied to A itself, not to a multiple of it.

Nothing here runs in constant time: Python's integers and the table look-ups below depend on their operands. That
does not matter to verifying, where all is public. It does to signing: who can time thousands of signatures closely
could learn about the key. So sign as `publish` does, on the developer's own machine, one file per command, never
as a service for others.
"""
from __future__ import annotations

import base64
import re
from functools import lru_cache
from hashlib import blake2b, sha512
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

from .problem import Problem

_PRIME = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493  # of the base point; RFC 8032 calls it L
_CURVE_D = -121665 * pow(121666, -1, _PRIME) % _PRIME
_SQRT_OF_MINUS_1 = pow(2, (_PRIME - 1) // 4, _PRIME)

MAX_TEXT = 16 * 1024  # minisign's own limits are 1 KiB for the untrusted and 8 KiB for the trusted comment
SCRYPT_OPERATIONS, SCRYPT_MEMORY = 2**25, 2**30  # libsodium's "sensitive" limits, which minisign takes: some 4 s
_UNTRUSTED, _TRUSTED = "untrusted comment: ", "trusted comment: "
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
_TIMESTAMP = re.compile("0|[1-9][0-9]{0,11}")

Point = Tuple[int, int, int, int]  # extended coordinates (X, Y, Z, T): x = X/Z, y = Y/Z, xy = T/Z


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


def verify(public_keys: Sequence[PublicKey], message: bytes, signature_text: Union[str, bytes]) -> Verified:
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
        raise UnknownKey("signed with the key {key}, which is not among the trusted keys ({trusted})", key=name, trusted=trusted)
    signed = _signed_bytes(signature.algorithm, message)
    for key in keys:
        if ed25519_verify(key.key, signed, signature.signature):
            break
    else:
        raise SignatureError("the signature by the key {key} is wrong: these are not the bytes that were signed", key=name)
    if not ed25519_verify(key.key, signature.signature + signature.trusted_comment.encode(), signature.global_signature):
        raise SignatureError("the signature by the key {key} is right, the one of its trusted comment is wrong", key=name)
    return Verified(key, signature.trusted_comment)


def sign(secret: SecretKey, message: bytes, trusted_comment: str, prehashed: bool = True) -> str:
    """The .minisig file for `message`; not `prehashed` is minisign's legacy form, of the whole message."""
    _check_comment(trusted_comment)
    algorithm = b"ED" if prehashed else b"Ed"
    signature = ed25519_sign(secret.seed, _signed_bytes(algorithm, message))
    global_signature = ed25519_sign(secret.seed, signature + trusted_comment.encode())
    return (f"{_UNTRUSTED}signature from minisign secret key\n{_base64(algorithm + secret.key_id + signature)}\n"
            f"{_TRUSTED}{trusted_comment}\n{_base64(global_signature)}\n")


def _signed_bytes(algorithm: bytes, message: bytes) -> bytes:
    return blake2b(message).digest() if algorithm == b"ED" else message


def key_name(key_id: bytes) -> str:
    """How minisign shows a key id: 16 hex digits of the little-endian number."""
    return f"{int.from_bytes(key_id, 'little'):016X}"


def public_key(secret: SecretKey) -> PublicKey:
    """The public half of `secret`."""
    return PublicKey(secret.key_id, _public_half(_secret_scalar(secret.seed)[0]))


# --- Files. CRLF ends lines as well as LF: minisign writes it on Windows. Nothing may follow the last line.


def parse_public_key(text: Union[str, bytes]) -> PublicKey:
    """The key in a .pub file, or in its second line alone."""
    try:
        *comments, line = _lines(text)
        if len(comments) > 1 or not all(comment.startswith(_UNTRUSTED) for comment in comments):
            raise ValueError("more than a comment before the key")
        raw = _payload(line.strip(), b"Ed", 42)
    except ValueError as error:
        raise SignatureError("this is not a minisign public key: 56 characters that begin with RW, or the .pub file") from error
    return PublicKey(raw[2:10], raw[10:])


def public_key_text(key: PublicKey) -> str:
    """The .pub file of `key`."""
    return f"{_UNTRUSTED}minisign public key {key_name(key.key_id)}\n{key}\n"


def parse_signature(text: Union[str, bytes]) -> Signature:
    """The four lines of a .minisig file; whether it is right is `verify`'s question."""
    try:
        untrusted, first, trusted, second = _lines(text)
        if not (untrusted.startswith(_UNTRUSTED) and trusted.startswith(_TRUSTED)):
            raise ValueError("a comment without its prefix")
        raw = _payload(first, (b"Ed", b"ED"), 74)
        global_signature = _payload(second, b"", 64)
    except ValueError as error:
        raise SignatureError("this is not a minisign signature: two comments, each with a line of base64 below") from error
    comment = trusted[len(_TRUSTED):]
    _check_comment(comment)
    return Signature(raw[:2], raw[2:10], raw[10:], comment, global_signature)


def _check_comment(comment: str) -> None:
    """C programs end a string at a NUL, terminals obey escapes: neither stands in a comment that people rely on."""
    if _CONTROL.search(comment) or len(comment) > MAX_TEXT // 2:
        raise SignatureError("the trusted comment is longer than 8,192 characters or has control characters")


def parse_secret_key(text: Union[str, bytes], password: Optional[str] = None) -> SecretKey:
    """The key in a secret key file.

    Raises:
        WrongPassword: the file is encrypted and `password` is None or another.
        SignatureError: not a secret key, or a damaged one.
    """
    try:
        _, line = _lines(text)
        raw = _payload(line, (b"EdSc", b"Ed\0\0"), 158)
        if raw[4:6] != b"B2":
            raise ValueError("a checksum other than BLAKE2b")
    except ValueError as error:
        raise SignatureError("this is not a minisign secret key file") from error
    body = raw[54:]
    if raw[2:4] == b"Sc":
        if password is None:
            raise WrongPassword("the secret key has a password")
        body = _mask(body, password, raw[6:38], int.from_bytes(raw[38:46], "little"), int.from_bytes(raw[46:54], "little"))
        if body[72:] != _checksum(body[:72]):
            raise WrongPassword("this is not the secret key's password")
    secret = SecretKey(body[:8], body[8:40])
    if public_key(secret).key != body[40:72]:  # the only check of a file without password: minisign leaves its checksum 0
        raise SignatureError("the secret key file is damaged: its two halves do not belong together")
    return secret


def secret_key_text(secret: SecretKey, password: str, salt: bytes,
                    operations: int = SCRYPT_OPERATIONS, memory: int = SCRYPT_MEMORY) -> str:
    """The secret key file: encrypted under `password` with 32 random bytes of `salt`, or plain when the password is empty."""
    body = secret.key_id + secret.seed + public_key(secret).key
    if password:
        limits = operations.to_bytes(8, "little") + memory.to_bytes(8, "little")
        raw = b"EdScB2" + salt + limits + _mask(body + _checksum(body), password, salt, operations, memory)
    else:
        raw = b"Ed\0\0B2" + bytes(48) + body + bytes(32)
    return f"{_UNTRUSTED}minisign {'encrypted ' if password else ''}secret key\n{_base64(raw)}\n"


def _checksum(body: bytes) -> bytes:
    return blake2b(b"Ed" + body, digest_size=32).digest()


def _mask(body: bytes, password: str, salt: bytes, operations: int, memory: int) -> bytes:
    """XOR with a key stream from the password: encrypts and decrypts."""
    try:
        from hashlib import scrypt
    except ImportError as error:
        raise SignatureError("this Python has no scrypt, which a key with a password needs; use one built with OpenSSL 1.1 or newer") from error
    cost, parallel = _scrypt_parameters(operations, memory)
    try:
        stream = scrypt(password.encode("utf-8", "surrogateescape"), salt=salt, n=cost, r=8, p=parallel, maxmem=SCRYPT_MEMORY + 2**22, dklen=len(body))
    except (ValueError, MemoryError) as error:
        raise SignatureError("scrypt needs {mebibytes} MiB of memory for the secret key's password and did not get them", mebibytes=cost >> 10) from error
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


def _lines(text: Union[str, bytes]) -> List[str]:
    """The lines of a key or signature file, or ValueError. `splitlines` would split at ten other characters too."""
    if len(text) > MAX_TEXT:
        raise ValueError("too long")
    raw = text.encode("utf-8") if isinstance(text, str) else text  # refuses the lone surrogates that JSON can bring
    lines = raw.decode("utf-8").replace("\r\n", "\n").split("\n")
    return lines[:-1] if not lines[-1] else lines


def _payload(line: str, start: Union[bytes, Tuple[bytes, ...]], size: int) -> bytes:
    """The bytes of a base64 line, or ValueError; one spelling only, where b64decode skips what it does not know."""
    raw = base64.b64decode(line)
    if len(raw) != size or not raw.startswith(start) or _base64(raw) != line:
        raise ValueError("not the base64 of what belongs here")
    return raw


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


# --- The trusted comment of a manifest.


def parse_release_comment(text: str) -> ReleaseComment:
    """The `timestamp:N`, `app:A` and `version:V` between tabs, in any order, each exactly once.

    Further fields are tolerated: the signature covers them, minisign itself writes `file:` and `hashed`, and a later
    publisher must be able to add one that today's clients pass over.
    """
    fields = [field.partition(":")[::2] for field in text.split("\t")]
    values = dict(fields)
    names = [name for name, _ in fields]
    if all(names.count(name) == 1 for name in ReleaseComment._fields) and text.replace("\t", "").isprintable():
        timestamp, app, version = (values[name] for name in ReleaseComment._fields)
        if _TIMESTAMP.fullmatch(timestamp) and version:
            return ReleaseComment(int(timestamp), app, version)
    raise SignatureError("the trusted comment {comment!r} does not hold timestamp:N, app:A and version:V, each once, between tabs", comment=text[:200])


def release_comment_text(comment: ReleaseComment) -> str:
    """The trusted comment; SignatureError when `app` or `version` could not be read back from it."""
    text = "\t".join(f"{name}:{value}" for name, value in zip(comment._fields, comment))
    if parse_release_comment(text) != comment:
        raise SignatureError("{comment!r} does not fit into a trusted comment", comment=text[:200])
    return text


# --- Ed25519.


def ed25519_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) is that of `message` by `public_key` (32 bytes); see the module's docstring."""
    if len(public_key) != 32 or len(signature) != 64:
        return False
    scalar = int.from_bytes(signature[32:], "little")
    point = _decode(public_key)
    if scalar >= _ORDER or point is None or _is_small(point):
        return False
    x, y, z, t = point
    challenge = _hash_scalar(signature[:32], public_key, message)
    result = _multiply_add(scalar, challenge, (_PRIME - x, y, z, _PRIME - t))
    return _encode(result) == signature[:32] and not _is_small(result)


def ed25519_sign(secret: bytes, message: bytes) -> bytes:
    """The signature by a 32-byte seed, or by minisign's and libsodium's 64 bytes of seed and public key.

    The public half is always computed anew: signing with a wrong one would give the secret away.
    """
    if len(secret) not in (32, 64):
        raise ValueError(f"an Ed25519 secret key has 32 or 64 bytes, not {len(secret)}")
    scalar, prefix = _secret_scalar(secret[:32])
    nonce = _hash_scalar(prefix, b"", message)
    commitment = _public_half(nonce)
    challenge = _hash_scalar(commitment, _public_half(scalar), message)
    return commitment + ((nonce + challenge * scalar) % _ORDER).to_bytes(32, "little")


def _secret_scalar(seed: bytes) -> Tuple[int, bytes]:
    digest = sha512(seed).digest()
    return int.from_bytes(digest[:32], "little") & (2**254 - 8) | 2**254, digest[32:]


def _public_half(scalar: int) -> bytes:
    return _encode(_multiply_add(scalar, 0, _IDENTITY))


def _hash_scalar(first: bytes, second: bytes, message: bytes) -> int:
    digest = sha512(first + second)
    digest.update(message)  # apart: a manifest can have megabytes, and need not be copied
    return int.from_bytes(digest.digest(), "little") % _ORDER


_IDENTITY: Point = (0, 1, 1, 0)


def _decode(encoded: bytes) -> Optional[Point]:
    """RFC 8032 5.1.3: the point, or None when there is none or it is spelt otherwise."""
    number = int.from_bytes(encoded, "little")
    y, sign = number & (2**255 - 1), number >> 255
    if y >= _PRIME:
        return None
    u, v = y * y - 1, _CURVE_D * y * y + 1
    x = u * v**3 * pow(u * v**7, (_PRIME - 5) // 8, _PRIME) % _PRIME
    if (v * x * x - u) % _PRIME:
        x = x * _SQRT_OF_MINUS_1 % _PRIME
        if (v * x * x - u) % _PRIME:
            return None
    if not x and sign:
        return None
    if x & 1 != sign:
        x = _PRIME - x
    return x, y, 1, x * y % _PRIME


def _encode(point: Point) -> bytes:
    inverse = pow(point[2], -1, _PRIME)
    x, y = point[0] * inverse % _PRIME, point[1] * inverse % _PRIME
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _double(point: Point) -> Point:
    """https://hyperelliptic.org/EFD/g1p/auto-twisted-extended-1.html, dbl-2008-hwcd for a = -1, signs turned."""
    x, y, z, _ = point
    xx, yy = x * x, y * y
    h = xx + yy
    e = (h - (x + y) ** 2) % _PRIME
    g = (xx - yy) % _PRIME
    f = (2 * z * z + g) % _PRIME
    h %= _PRIME
    return e * f % _PRIME, g * h % _PRIME, f * g % _PRIME, e * h % _PRIME


def _add(point: Point, other: Point) -> Point:
    """add-2008-hwcd-3 of the same page: complete on this curve, so equal points and the identity need no case."""
    x1, y1, z1, t1 = point
    x2, y2, z2, t2 = other
    a, b = (y1 - x1) * (y2 - x2) % _PRIME, (y1 + x1) * (y2 + x2) % _PRIME
    c, d = 2 * t1 * t2 * _CURVE_D % _PRIME, 2 * z1 * z2
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _PRIME, g * h % _PRIME, f * g % _PRIME, e * h % _PRIME


def _is_small(point: Point) -> bool:
    """Whether the order is 1, 2, 4 or 8: then eight times the point is the identity."""
    return _double(_double(_double(point)))[0] == 0


def _odd_multiples(point: Point, count: int) -> List[Point]:
    """P, 3P, 5P …, then their negatives from the end, so that index -1 is -P."""
    twice, points = _double(point), [point]
    while len(points) < count:
        points.append(_add(points[-1], twice))
    return points + [(_PRIME - x, y, z, _PRIME - t) for x, y, z, t in reversed(points)]


@lru_cache(maxsize=None)
def _base_multiples() -> List[Point]:
    base = _decode(b"\x58" + 31 * b"\x66")  # y = 4/5, x even
    assert base is not None
    return _odd_multiples(base, 16)


def _digits(scalar: int, width: int) -> List[int]:
    """The width-w non-adjacent form, lowest digit first: odd digits below 2^(w-1) with w-1 or more zeros between."""
    digits = []
    while scalar:
        digit = 0
        if scalar & 1:
            digit = scalar & (2**width - 1)
            if digit >> (width - 1):
                digit -= 2**width
            scalar -= digit
        digits.append(digit)
        scalar >>= 1
    return digits


def _multiply_add(base_scalar: int, scalar: int, point: Point) -> Point:
    """[base_scalar]B + [scalar]P by Straus: both share the doublings."""
    base_digits, digits = _digits(base_scalar, 6), _digits(scalar, 5)
    base_points, points = _base_multiples(), _odd_multiples(point, 8) if scalar else []
    result = _IDENTITY
    for place in range(max(len(base_digits), len(digits)) - 1, -1, -1):
        result = _double(result)
        digit = base_digits[place] if place < len(base_digits) else 0
        if digit:
            result = _add(result, base_points[digit >> 1])
        digit = digits[place] if place < len(digits) else 0
        if digit:
            result = _add(result, points[digit >> 1])
    return result
