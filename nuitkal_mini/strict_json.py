"""JSON from outside: an object of bounded size, or one sentence.

Any depth, any number of digits and any number of values end in a `JsonError`, never in a crash or in
gigabytes of memory.
"""

from __future__ import annotations

import json
from typing import Any, Dict

from .problem import Problem

# They bound the values: 64 MiB of `[],[],...` would take 1.5 GB.
MAX_COMMAS = 2_000_000


class JsonError(Problem):
    """Bytes that are not the JSON they should be."""


def json_object(data: bytes, max_commas: int = MAX_COMMAS) -> Dict[str, Any]:
    """The JSON object in `data`, from whoever: any depth and any number of digits ends in a JsonError."""
    if data.count(b",") > max_commas:
        raise JsonError("this JSON has too many values")
    try:
        document = json.loads(data.decode("utf-8"), parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise JsonError("this is not JSON in UTF-8") from error
    if not isinstance(document, dict):
        raise JsonError("this is not a JSON object")
    return document


def _integer(digits: str) -> int:
    if len(digits) > 20:  # int() takes quadratic time in the number of digits before Python 3.11
        raise ValueError("a number of too many digits")
    return int(digits)


def brief(value: object) -> object:
    """A JSON value as a sentence may show it: str() of a deeply nested one would overflow the stack."""
    return (
        value[:100]
        if isinstance(value, str)
        else value
        if value is None or isinstance(value, (int, float))
        else type(value).__name__
    )
