"""Secret keys and signatures: the half of minisign and Ed25519 that only a publisher needs.

The formats are those of https://jedisct1.github.io/minisign/; what is written here the `minisign`
command reads, and the other way round. A secret key stands in its file with or without an scrypt
password.

Nothing here runs in constant time: Python's integers and the table look-ups of `ed25519` depend on
their operands, and whoever can time many signatures closely could learn the key. So sign as
`publish` does, on the developer's own machine, one file per command, never as a service.
"""

from __future__ import annotations

from hashlib import blake2b, sha512
from typing import NamedTuple, Optional, Tuple, Union

from .ed25519 import IDENTITY, ORDER, encode_point, hash_scalar, multiply_add
from .minisign import (
    TRUSTED_PREFIX,
    UNTRUSTED_PREFIX,
    PublicKey,
    ReleaseComment,
    SignatureError,
    base64_payload,
    check_trusted_text,
    key_name,
    parse_release_comment,
    signed_bytes,
    text_lines,
    to_base64,
)

# libsodium's "sensitive" limits, which minisign takes: some 4 s
SCRYPT_OPERATIONS, SCRYPT_MEMORY = 2**25, 2**30


class WrongPassword(SignatureError):
    """The secret key needs a password, and not this one."""


class SecretKey(NamedTuple):
    """What signs; its repr does not show the seed."""

    key_id: bytes
    seed: bytes

    def __repr__(self) -> str:
        return f"SecretKey({key_name(self.key_id)})"


def sign(secret: SecretKey, message: bytes, trusted_comment: str, prehashed: bool = True) -> str:
    """The .minisig file for `message`; without `prehashed` in minisign's legacy form."""
    check_trusted_text(trusted_comment)
    algorithm = b"ED" if prehashed else b"Ed"
    signature = ed25519_sign(secret.seed, signed_bytes(algorithm, message))
    global_signature = ed25519_sign(secret.seed, signature + trusted_comment.encode())
    return (
        f"{UNTRUSTED_PREFIX}signature from minisign secret key\n"
        f"{to_base64(algorithm + secret.key_id + signature)}\n"
        f"{TRUSTED_PREFIX}{trusted_comment}\n{to_base64(global_signature)}\n"
    )


def public_key(secret: SecretKey) -> PublicKey:
    """The public half of `secret`."""
    return PublicKey(secret.key_id, ed25519_public_key(secret.seed))


def public_key_text(key: PublicKey) -> str:
    """The .pub file of `key`."""
    return f"{UNTRUSTED_PREFIX}minisign public key {key_name(key.key_id)}\n{key}\n"


def parse_secret_key(text: Union[str, bytes], password: Optional[str] = None) -> SecretKey:
    """The key in a secret key file.

    Raises:
        WrongPassword: the file is encrypted and `password` is None or another.
        SignatureError: not a secret key, or a damaged one.
    """
    try:
        _, line = text_lines(text)
        raw = base64_payload(line, (b"EdSc", b"Ed\0\0"), 158)
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
    """The secret key file: encrypted under `password`, or plain when that is empty.

    `salt` are 32 random bytes.
    """
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
    kind = "encrypted secret key" if password else "secret key"
    return f"{UNTRUSTED_PREFIX}minisign {kind}\n{to_base64(raw)}\n"


def _key_checksum(body: bytes) -> bytes:
    return blake2b(b"Ed" + body, digest_size=32).digest()


def _scrypt_mask(body: bytes, password: str, salt: bytes, operations: int, memory: int) -> bytes:
    """XOR with a key stream from the password: encrypts and decrypts."""
    try:
        from hashlib import scrypt
    except ImportError as error:
        raise SignatureError(
            "this Python has no scrypt, which a key with a password needs; "
            "use one built with OpenSSL 1.1 or newer"
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
            "scrypt needs {mebibytes} MiB of memory for the secret key's password "
            "and did not get them",
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


def release_comment_text(comment: ReleaseComment) -> str:
    """The trusted comment; SignatureError when it could not be read back."""
    text = "\t".join(f"{name}:{value}" for name, value in zip(comment._fields, comment))
    if parse_release_comment(text) != comment:
        raise SignatureError("{comment!r} does not fit into a trusted comment", comment=text[:200])
    return text


def ed25519_public_key(seed: bytes) -> bytes:
    """The 32-byte public key of a 32-byte seed."""
    return _public_half(_secret_scalar(seed)[0])


def ed25519_sign(secret: bytes, message: bytes) -> bytes:
    """The signature by a seed (32 bytes), or by libsodium's seed and public key (64 bytes).

    The public half is always computed anew: signing with a wrong one would give the secret away.
    """
    if len(secret) not in (32, 64):
        raise ValueError(f"an Ed25519 secret key has 32 or 64 bytes, not {len(secret)}")
    scalar, prefix = _secret_scalar(secret[:32])
    nonce = hash_scalar(prefix, b"", message)
    commitment = _public_half(nonce)
    challenge = hash_scalar(commitment, _public_half(scalar), message)
    return commitment + ((nonce + challenge * scalar) % ORDER).to_bytes(32, "little")


def _secret_scalar(seed: bytes) -> Tuple[int, bytes]:
    digest = sha512(seed).digest()
    return int.from_bytes(digest[:32], "little") & (2**254 - 8) | 2**254, digest[32:]


def _public_half(scalar: int) -> bytes:
    return encode_point(multiply_add(scalar, 0, IDENTITY))
