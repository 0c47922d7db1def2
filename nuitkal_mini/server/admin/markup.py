"""HTML templates: `fill(template, language, **values)` escapes every value that is not `Html`.

Templates are constants of this package. `{name}` in them is a value; `[[text]]` is translated, and
may be wrapped like any text. Text from outside is never a template.
"""

from __future__ import annotations

import html
import re
from functools import lru_cache
from typing import Iterable

from ..messages import CHINESE
from .texts import CHINESE_TEXTS

_TEXT = re.compile(r"\[\[(.+?)\]\]", re.DOTALL)


class Html(str):
    """Text that is markup already."""


def escape(value: object) -> Html:
    """A value as markup that shows it; None shows as nothing."""
    if isinstance(value, Html):
        return value
    return Html(html.escape("" if value is None else str(value)))


def fill(template: str, language: str, **values: object) -> Html:
    """The template in a language, with its values."""
    return Html(
        _localized(template, language).format(
            **{name: escape(value) for name, value in values.items()}
        )
    )


def join(pieces: Iterable[Html]) -> Html:
    """Pieces of markup, one after the other."""
    return Html("".join(map(escape, pieces)))


def text(english: str, language: str) -> str:
    """A text of the site in a language."""
    return CHINESE_TEXTS[english] if language == CHINESE else english


@lru_cache(maxsize=None)  # as many as the site has templates, twice
def _localized(template: str, language: str) -> str:
    return _TEXT.sub(
        lambda match: html.escape(text(" ".join(match[1].split()), language)), template
    )
