"""The codec for one file: whatever the two are, the delta gives the new one or there is none."""

from __future__ import annotations

import random
from lzma import FILTER_LZMA2, FORMAT_RAW, compress
from typing import List, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuitkal_mini.delta.decode import decode_file
from nuitkal_mini.delta.encode import _encode_executable, encode_file, packed_size
from nuitkal_mini.delta.executable import analyse, parse_image
from nuitkal_mini.delta.format import CodedFile
from nuitkal_mini.delta.lzma2 import unpack, unpack_block, unpack_pieces
from nuitkal_mini.delta.lzma2_encoder import pack_block
from nuitkal_mini.delta.matching import common_prefix, common_suffix
from tests.delta.mutations import changed
from tests.delta.programs import Numbers, library, program

PAIRS = [
    pytest.param(library("old"), library("new"), 1400, id="an ELF library with a new function"),
    pytest.param(library("new"), library("old"), 1400, id="an ELF library that loses a function"),
    pytest.param(
        program(60), program(60, (10, 30), 64), 450, id="a PE program with two new functions"
    ),
    pytest.param(program(60, (10, 30)), program(60), 300, id="a PE program that loses two"),
]


def decoded(coded: CodedFile, old: bytes, size: int) -> bytes:
    return bytes(decode_file(coded, bytearray(old), size))


@pytest.mark.parametrize("old, new, limit", PAIRS)
def test_an_executable_is_coded_by_its_addresses(old: bytes, new: bytes, limit: int) -> None:
    coded = encode_file(old, new)
    assert coded is not None and coded.executable
    assert decoded(coded, old, len(new)) == new
    assert packed_size(coded) <= limit


def test_equal_files_cost_next_to_nothing() -> None:
    coded = encode_file(library("old"), library("old"))
    assert coded is not None and packed_size(coded) < 100


def test_an_executable_and_a_text_are_coded_as_plain_bytes() -> None:
    text = library("old")[2000:30000]
    coded = encode_file(library("old"), text)
    assert coded is not None and not coded.executable
    assert decoded(coded, library("old"), len(text)) == text


def test_a_file_that_has_nothing_of_the_old_one_gets_no_delta() -> None:
    assert encode_file(Numbers(1).bytes(50_000), Numbers(2).bytes(50_000)) is None
    assert encode_file(b"", b"anything") is None


def test_what_is_rebuilt_is_removed_and_comes_back() -> None:
    elf, pe = library("old"), program(60)
    for data in (elf, pe):
        image = parse_image(data)
        assert image is not None
        relocated = analyse(bytearray(data), image).relocated
        if data is elf:
            assert relocated.frame_table and relocated.hash_table and relocated.relocations
        else:
            assert relocated.base_relocations and len(relocated.pointers) == 112


@pytest.mark.parametrize("seed", range(40))
def test_a_changed_executable_comes_out_right(seed: int) -> None:
    source = random.Random(seed)
    base = source.choice((library("old"), program(60)))
    old, new = (base, changed(base, source)) if seed % 4 else (changed(base, source), base)
    coded = encode_file(old, new)
    assert coded is None or decoded(coded, old, len(new)) == new


@pytest.mark.parametrize("where", ["program headers", "section headers"])
def test_overlapping_parts_are_coded_as_plain_bytes(where: str) -> None:
    data = bytearray(library("old"))
    assert parse_image(data) is not None
    if where == "program headers":
        data[64 + 56 + 8 : 64 + 56 + 16] = data[64 + 8 : 64 + 16]  # the second begins as the first
    else:
        table = int.from_bytes(data[40:48], "little")
        for number in (5, 6):
            data[table + 64 * number + 24 : table + 64 * number + 32] = (0x300).to_bytes(
                8, "little"
            )
    assert parse_image(data) is None
    assert _encode_executable(library("old"), bytes(data)) is None


blobs = st.binary(max_size=400)


@settings(max_examples=60, deadline=None)
@given(st.lists(blobs, max_size=6), st.lists(st.integers(0, 5), max_size=10), blobs)
def test_any_two_files_come_out_right(parts: List[bytes], order: List[int], new: bytes) -> None:
    old = b"".join(part * 3 for part in parts)
    target = b"".join(parts[number % len(parts)] * 2 for number in order if parts) + new
    coded = encode_file(old, target)
    assert coded is None or decoded(coded, old, len(target)) == target


@settings(max_examples=60, deadline=None)
@given(blobs, blobs, st.integers(0, 50), st.integers(0, 50))
def test_common_parts_are_counted_right(a: bytes, b: bytes, i: int, j: int) -> None:
    shared = a[:100]
    a, b = shared + a, shared + b
    i, j = min(i, len(a)), min(j, len(b))

    def count(pairs: Tuple[bytes, bytes]) -> int:
        length = 0
        for x, y in zip(*pairs):
            if x != y:
                break
            length += 1
        return length

    limit = min(len(a) - i, len(b) - j)
    assert common_prefix(a, i, b, j, limit) == count((a[i:], b[j:]))
    limit = min(i, j)
    assert common_suffix(a, i, b, j, limit) == count((a[:i][::-1], b[:j][::-1]))


# --- LZMA2 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2000, 70_000, 300_000])
@pytest.mark.parametrize("dictionary_size", [0, 5000, 200_000])
def test_a_block_comes_out_whatever_its_dictionary(size: int, dictionary_size: int) -> None:
    text = b"".join(b"line %d of the text\n" % Numbers(n).below(5000) for n in range(20_000))
    dictionary, literals = text[:dictionary_size], text[1000 : 1000 + size]
    block = pack_block(dictionary, literals)
    assert unpack_block(lambda: dictionary, block, len(literals)) == literals


def test_a_dictionary_saves_what_it_knows() -> None:
    literals = Numbers(5).bytes(5000)
    dictionary = Numbers(4).bytes(3000) + literals + Numbers(6).bytes(3000)
    block = pack_block(dictionary, literals)
    assert block[0] == 1 and len(block) < 200
    assert pack_block(b"", literals)[0] == 0


def test_a_stream_in_pieces_is_the_stream() -> None:
    content = b"".join(b"%d " % number for number in range(250_000))
    packed = compress(content, FORMAT_RAW, filters=[{"id": FILTER_LZMA2, "preset": 0}])
    pieces = iter([packed[at : at + 1000] for at in range(0, len(packed), 1000)])
    unpacked = list(unpack_pieces(pieces, len(content)))
    assert b"".join(unpacked) == content == unpack(packed, len(content))
    assert max(map(len, unpacked)) <= 2**20
