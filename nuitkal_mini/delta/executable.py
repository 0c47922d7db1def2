"""An executable as the codec sees it: its image, its references, and its stripped bytes."""

from __future__ import annotations

import struct
from typing import List, NamedTuple, Optional, Tuple

from .elf import elf_references, parse_elf
from .format import Bytes, DeltaError, max_references
from .image import ELF, MAX_CODE_SECTIONS, Image, Section
from .pe import parse_pe, pe_references
from .rebuild import strip
from .references import (
    ReferenceList,
    Relocated,
    code_references,
    jump_tables,
    merge_references,
)


class Executable(NamedTuple):
    """A parsed file. `data` is stripped."""

    image: Image
    data: bytearray
    relocated: Relocated
    references: ReferenceList


def parse_image(data: Bytes) -> Optional[Image]:
    """The image of an executable that the format knows and that has code; None of others."""
    try:
        image = parse_elf(data) or parse_pe(data)
    except (struct.error, IndexError, ValueError):
        return None
    return image if image and 0 < len(image.code) <= MAX_CODE_SECTIONS else None


def analyse(data: bytearray, image: Image) -> Executable:
    """Strip `data` in place and find its references. Raises DeltaError for a file of too many."""
    try:
        relocated = strip(data, image)
        code: List[Tuple[Section, ReferenceList]] = [
            (section, code_references(data, image, section)) for section in image.code
        ]
        other = ReferenceList(max_references(len(data)))
        (elf_references if image.kind == ELF else pe_references)(data, image, relocated, other)
        jump_tables(data, image, code, other)
        references = merge_references(len(data), code, other)
    except (struct.error, IndexError, OverflowError) as error:
        raise DeltaError("the executable's tables are damaged") from error
    return Executable(image, data, relocated, references)
