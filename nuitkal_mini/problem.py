"""One sentence that says what is wrong, kept with its parts.

The formats raise a `Problem` with an English template and the values in it; `str()` is the finished
sentence. The server looks the template up in its Chinese table, as gettext would do with a message
id.
"""

from __future__ import annotations


class Problem(ValueError):
    """An error about something from outside; `str(problem)` is a sentence for people."""

    def __init__(self, template: str, **values: object) -> None:
        super().__init__(template, values)
        self.template = template
        self.values = values

    def __str__(self) -> str:
        return self.template.format(**self.values)
