"""A delta from anybody: the right file or DeltaError, in bounded time and memory."""

from __future__ import annotations

import io
import random
import time

import pytest

from nuitkal_mini.delta.apply import DeltaReader
from nuitkal_mini.delta.decode import decode_file
from nuitkal_mini.delta.encode import encode_file
from nuitkal_mini.delta.format import (
    DELTA_MAGIC,
    CodedFile,
    DeltaError,
    Streams,
    VarintReader,
    append_varint,
    varints,
)
from nuitkal_mini.delta.lzma2 import unpack, unpack_block
from nuitkal_mini.delta.lzma2_encoder import pack
from tests.delta.mutations import damaged, damaged_bytes
from tests.delta.programs import library, program
from tests.delta.releases import apply_all, release_pair, written

EMPTY = Streams(*[b""] * len(Streams._fields))


def elf() -> tuple[bytes, bytes]:
    return library("old"), library("new")


def pe() -> tuple[bytes, bytes]:
    return program(60), program(60, (10, 30), 64)


@pytest.mark.parametrize("pair", [elf, pe], ids=["ELF", "PE"])
def test_a_damaged_stream_gives_some_file_of_the_size_or_an_error(pair: type[elf]) -> None:
    old, new = pair()
    coded = encode_file(old, new)
    assert coded is not None
    source = random.Random(1)
    outcomes = {"file": 0, "error": 0}
    for _ in range(60):
        started = time.process_time()
        try:
            result = decode_file(damaged(coded, source), bytearray(old), len(new))
            assert len(result) == len(new)
            outcomes["file"] += 1
        except DeltaError:
            outcomes["error"] += 1
        assert time.process_time() - started < 5
    assert min(outcomes.values()) > 0, outcomes


def test_a_damaged_delta_gives_the_right_files_or_an_error() -> None:
    old, new = release_pair()
    delta = written(old, new)
    source = random.Random(2)
    errors = 0
    for _ in range(60):
        try:
            for path, content in apply_all(damaged_bytes(delta, source), old).items():
                assert content == new.contents[path]
        except DeltaError:
            errors += 1
    assert errors > 30


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 19, 21, 60, 300, -1])
def test_a_delta_that_ends_early_is_an_error(cut: int) -> None:
    old, new = release_pair()
    with pytest.raises(DeltaError):
        apply_all(written(old, new)[:cut], old)


def test_a_delta_that_goes_on_is_an_error() -> None:
    old, new = release_pair()
    with pytest.raises(DeltaError, match="behind its end"):
        apply_all(written(old, new) + b"\0", old)


def test_a_later_version_of_the_format_is_refused_by_name() -> None:
    reader = DeltaReader(io.BytesIO(DELTA_MAGIC[:-1] + b"\x02" + bytes(100)).read)
    with pytest.raises(DeltaError, match="newer format"):
        reader.manifest(b"")


def test_a_delta_of_another_release_is_refused() -> None:
    old, new = release_pair()
    reader = DeltaReader(io.BytesIO(written(old, new)).read)
    with pytest.raises(DeltaError, match="another release"):
        reader.manifest(new.manifest)


def numbers(*values: int) -> bytes:
    out = bytearray()
    for value in values:
        append_varint(out, value)
    return bytes(out)


def plain(**streams: bytes) -> CodedFile:
    return CodedFile(False, EMPTY._replace(**streams))


@pytest.mark.parametrize(
    "coded",
    [
        pytest.param(plain(head=numbers(10**6)), id="too many matches"),
        pytest.param(plain(head=numbers(2**70)), id="a number of 70 bits"),
        pytest.param(plain(head=b""), id="no head"),
        pytest.param(plain(head=numbers(1)), id="fewer matches than it says"),
        pytest.param(
            plain(head=numbers(1), skip=b"\0", length=numbers(200), source=b"\0"),
            id="a match longer than the old file",
        ),
        pytest.param(
            plain(head=numbers(1), skip=numbers(90), length=numbers(20), source=b"\0"),
            id="a match beyond the new file",
        ),
        pytest.param(
            plain(head=numbers(1), skip=b"\0", length=numbers(10), source=numbers(1)),
            id="a match before the old file",
        ),
        pytest.param(
            plain(head=numbers(1), skip=b"\0", length=b"\0", source=b"\0"), id="an empty match"
        ),
        pytest.param(plain(head=b"\0", literal=bytes(99)), id="a literal too few"),
        pytest.param(plain(head=b"\0", literal=bytes(101)), id="a literal too many"),
        pytest.param(
            plain(head=b"\0", literal=bytes(100), gap=b"\0", difference=b"\1"),
            id="a difference outside every match",
        ),
        pytest.param(CodedFile(True, EMPTY._replace(head=bytes(4))), id="no executable"),
    ],
)
def test_what_does_not_fit_is_an_error(coded: CodedFile) -> None:
    with pytest.raises(DeltaError):
        decode_file(coded, bytearray(100), 100)


def test_compressed_data_never_becomes_more_than_it_says() -> None:
    bomb = pack(bytes(10**7))
    with pytest.raises(DeltaError):
        unpack(bomb[:50], 10**7)
    assert unpack(bomb, 1000) == bytes(1000)  # and takes no more memory than that
    with pytest.raises(DeltaError):
        unpack(b"nonsense", 10)
    with pytest.raises(DeltaError):
        unpack_block(lambda: bytes(5000), b"\1" + numbers(10**6, 0) + bomb, 1000)
    with pytest.raises(DeltaError):
        unpack_block(lambda: bytes(5000), b"\1" + numbers(100, 2 * 200) + bomb, 1000)


def test_numbers_end_where_they_should() -> None:
    assert list(varints(numbers(0, 127, 128, 2**40))) == [0, 127, 128, 2**40]
    for data in (b"\x80", b"\xff" * 11 + b"\0"):
        with pytest.raises(DeltaError):
            list(varints(data))
        with pytest.raises(DeltaError):
            VarintReader(data).unsigned()
    reader = VarintReader(b"abc")
    with pytest.raises(DeltaError):
        reader.take(4)


@pytest.mark.slow
def test_damaged_deltas_never_raise_anything_else() -> None:
    pairs = [elf(), pe()]
    coded = [encode_file(old, new) for old, new in pairs]
    source = random.Random()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        number = source.randrange(2)
        old, new = pairs[number]
        delta = coded[number]
        assert delta is not None
        try:
            decode_file(damaged(delta, source), bytearray(old), len(new))
        except DeltaError:
            pass
