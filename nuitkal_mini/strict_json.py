"""JSON from outside: an object of bounded size with one meaning, or one sentence.

Any depth, any number of digits and any number of values end in a `JsonError`, never in a crash or
in gigabytes of memory. What two parsers could read in two ways (a key that stands twice, NaN) is
refused.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Tuple

from .problem import Problem

# Commas bound the number of values: 64 MiB of `[],[],...` would take 1.5 GB.
MAX_COMMAS = 2_000_000
_MAX_DIGITS = 20  # int() takes quadratic time in the number of digits before Python 3.11


class JsonError(Problem):
    """Bytes that are not the JSON they should be."""


def json_object(data: bytes, max_commas: int = MAX_COMMAS) -> Dict[str, Any]:
    """The JSON object in `data`.

    Raises:
        JsonError: it is none, or not UTF-8, or too large, or ambiguous.
    """
    if data.count(b",") > max_commas:
        raise JsonError("this JSON has too many values")
    try:
        document = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_int=_integer,
            parse_float=_fraction,
            parse_constant=_constant,
        )
    except JsonError:
        raise
    except (ValueError, RecursionError) as error:
        raise JsonError("this is not JSON in UTF-8") from error
    if not isinstance(document, dict):
        raise JsonError("this is not a JSON object")
    return document


def brief(value: object) -> object:
    """A JSON value as a sentence may show it: str() of a deeply nested one overflows the stack."""
    if isinstance(value, str):
        return value[:100]
    return value if value is None or isinstance(value, (int, float)) else type(value).__name__


def _unique_keys(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise JsonError("this JSON has the key {key!r} twice", key=name[:100])
        found[name] = value
    return found


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError("a number of too many digits")
    return int(digits)


def _fraction(digits: str) -> float:
    number = float(digits) if len(digits) <= 2 * _MAX_DIGITS else float("inf")
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number of too many digits")
    return number


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
