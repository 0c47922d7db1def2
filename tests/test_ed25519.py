"""Ed25519 against published vectors, and against libsodium itself where both might differ."""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import json
import time
from pathlib import Path
from typing import Any, List

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuitkal_mini import ed25519, signing
from nuitkal_mini.ed25519 import ed25519_verify
from nuitkal_mini.signing import ed25519_public_key, ed25519_sign

VECTORS = Path(__file__).parent / "vectors"
SEED = bytes(range(32))
PUBLIC = ed25519_public_key(SEED)
MESSAGE = b'{"format": 1}'
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493


def vectors(name: str) -> List[Any]:
    loaded: List[Any] = json.loads((VECTORS / name).read_text())["vectors"]
    return loaded


@pytest.mark.parametrize("line, seed, public, message, signature", vectors("ed25519_sign.json"))
def test_signatures_are_those_of_rfc_8032(
    line: int, seed: str, public: str, message: str, signature: str
) -> None:
    assert ed25519_public_key(bytes.fromhex(seed)).hex() == public
    assert ed25519_sign(bytes.fromhex(seed), bytes.fromhex(message)).hex() == signature
    assert ed25519_verify(bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature))


def test_the_test_sha_abc_of_rfc_8032() -> None:
    seed = bytes.fromhex("833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42")
    assert ed25519_sign(seed, hashlib.sha512(b"abc").digest()).hex() == (
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
        "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704"
    )


@pytest.mark.parametrize(
    "number, result, flag, public, message, signature", vectors("ed25519_wycheproof.json")
)
def test_wycheproof(
    number: int, result: str, flag: str, public: str, message: str, signature: str
) -> None:
    accepted = result == "valid" or (result == "acceptable" and flag == "MixedOrderPublicKey")
    assert (
        ed25519_verify(bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature))
        == accepted
    )


@pytest.mark.parametrize(
    "case, accepted, public, message, signature", vectors("ed25519_speccheck.json")
)
def test_edge_cases_are_decided_as_by_libsodium(
    case: int, accepted: bool, public: str, message: str, signature: str
) -> None:
    assert (
        ed25519_verify(bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature))
        == accepted
    )


def test_no_signature_with_a_flipped_bit_is_accepted() -> None:
    signature = ed25519_sign(SEED, MESSAGE)
    assert ed25519_verify(PUBLIC, MESSAGE, signature)
    assert not any(ed25519_verify(PUBLIC, MESSAGE, flip(signature, bit)) for bit in range(512))


@pytest.mark.parametrize(
    "number", [P, P + 1, P + 3, P + 3 + 2**255, P + 18, 1 + 2**255, P - 1 + 2**255, 2]
)
def test_a_point_has_one_encoding(number: int) -> None:
    """No signature can ask this: nobody knows a secret key for P + 3, and 2 is no point."""
    assert ed25519._decode_point((3).to_bytes(32, "little")) and ed25519._decode_point(
        (1).to_bytes(32, "little")
    )
    assert ed25519._decode_point(number.to_bytes(32, "little")) is None


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize(
    "key_length, signature_length", [(31, 64), (33, 64), (0, 64), (32, 63), (32, 65), (32, 0)]
)
def test_other_lengths_are_no_signature(key_length: int, signature_length: int) -> None:
    signature = ed25519_sign(SEED, MESSAGE) + b"\0"
    assert not ed25519_verify((PUBLIC + b"\0")[:key_length], MESSAGE, signature[:signature_length])


def test_the_public_half_beside_a_seed_is_not_believed() -> None:
    assert ed25519_sign(SEED + bytes(32), MESSAGE) == ed25519_sign(SEED, MESSAGE)
    with pytest.raises(ValueError, match="32 or 64 bytes, not 33"):
        ed25519_sign(SEED + b"\0", MESSAGE)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_what_is_signed_verifies(seed: bytes, message: bytes) -> None:
    public = ed25519_public_key(seed)
    assert ed25519_verify(public, message, ed25519_sign(seed, message))
    assert not ed25519_verify(public, message + b"\0", ed25519_sign(seed, message))


def sodium() -> Any:
    name = ctypes.util.find_library("sodium")
    library = ctypes.CDLL(name) if name else None
    if library is None:
        pytest.skip("libsodium is not installed (Debian: libsodium23, comes with minisign)")
    library.sodium_version_string.restype = ctypes.c_char_p
    if library.sodium_version_string() != b"1.0.18":
        pytest.skip("the docstring speaks of libsodium 1.0.18; this is another")
    library.sodium_init()
    return library


def sodium_verify(library: Any, public: bytes, message: bytes, signature: bytes) -> bool:
    return bool(
        library.crypto_sign_verify_detached(
            signature, message, ctypes.c_ulonglong(len(message)), public
        )
        == 0
    )


def test_torsion_in_the_key_and_in_r_is_judged_as_by_libsodium() -> None:
    """For A and R with each torsion component, signed so that the cofactored equation holds."""
    library = sodium()
    eighth = ed25519._decode_point(
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa")
    )
    assert eighth is not None
    torsion = [ed25519.IDENTITY]
    while len(torsion) < 8:
        torsion.append(ed25519._add_points(torsion[-1], eighth))
    scalar = signing._secret_scalar(SEED)[0]
    verdicts = []
    for key_scalar, nonce in [(scalar, 12345), (0, 12345), (scalar, 0), (0, 0)]:
        for i, in_key in enumerate(torsion):
            for j, in_r in enumerate(torsion):
                public = ed25519.encode_point(
                    ed25519._add_points(
                        ed25519.multiply_add(key_scalar, 0, ed25519.IDENTITY), in_key
                    )
                )
                r = ed25519.encode_point(
                    ed25519._add_points(ed25519.multiply_add(nonce, 0, ed25519.IDENTITY), in_r)
                )
                s = (nonce + ed25519.hash_scalar(r, public, MESSAGE) * key_scalar) % ed25519.ORDER
                signature = r + s.to_bytes(32, "little")
                verdicts.append(ed25519_verify(public, MESSAGE, signature))
                assert verdicts[-1] == sodium_verify(library, public, MESSAGE, signature), (
                    key_scalar,
                    nonce,
                    i,
                    j,
                )
    assert 1 < sum(verdicts) < 64


ODD_NUMBERS = st.one_of(
    st.integers(0, 2**256 - 1),
    st.integers(-20, 20).map(lambda n: n % 2**256),
    st.integers(P - 20, P + 20),
    st.integers(L - 3, L + 3),
    st.integers(P - 20, P + 20).map(lambda n: n | 2**255),
    st.integers(0, 15).map(lambda n: n * L % 2**256),
)


@settings(max_examples=200)
@given(ODD_NUMBERS, ODD_NUMBERS, ODD_NUMBERS, st.sampled_from(["key", "r", "s", "s + L", "all"]))
def test_odd_encodings_are_judged_as_by_libsodium(key: int, r: int, s: int, what: str) -> None:
    public, signature = PUBLIC, ed25519_sign(SEED, MESSAGE)
    if what in ("key", "all"):
        public = key.to_bytes(32, "little")
    if what in ("r", "all"):
        signature = r.to_bytes(32, "little") + signature[32:]
    if what in ("s", "all"):
        signature = signature[:32] + s.to_bytes(32, "little")
    if what == "s + L":
        signature = (
            signature[:32]
            + (int.from_bytes(signature[32:], "little") + L * (s % 16) % 2**256).to_bytes(
                33, "little"
            )[:32]
        )
    assert ed25519_verify(public, MESSAGE, signature) == sodium_verify(
        sodium(), public, MESSAGE, signature
    )


def test_a_verification_takes_at_most_six_milliseconds() -> None:
    signature = ed25519_sign(SEED, MESSAGE)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        assert ed25519_verify(PUBLIC, MESSAGE, signature)
        seconds.append(time.perf_counter() - start)
    assert (
        min(seconds) < 0.006
    )  # measured: 1.4 ms; the minimum, for other processes use this machine too
