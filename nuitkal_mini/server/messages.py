"""What the server says, in Chinese and English.

The English template is the key, as gettext's message ids are; a test finds every template that can reach a person
through the server and asserts that it stands here.
"""
from __future__ import annotations

import re
from typing import Any, Dict

from ..problem import Problem

ENGLISH, CHINESE = "en", "zh"
UPLOADED = "version uploaded"
ACTIVATED = "version {version} is now active"

_CHOICE = re.compile(r"\s*([A-Za-z]+)[A-Za-z0-9-]*\s*(?:;\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*)?")


def language_of(environ: Dict[str, Any]) -> str:
    """English when Accept-Language prefers it to Chinese, else Chinese."""
    best = {ENGLISH: 0.0, CHINESE: 0.0}
    for choice in environ.get("HTTP_ACCEPT_LANGUAGE", "").lower().split(","):
        match = _CHOICE.fullmatch(choice)
        if match and match[1] in best:
            # listed earlier wins between equals: each further one counts a hair less
            weight = float(match[2] or 1) - 1e-6 * sum(value > 0 for value in best.values())
            best[match[1]] = max(best[match[1]], weight)
    return ENGLISH if best[ENGLISH] > best[CHINESE] else CHINESE


def say(template: str, language: str, **values: object) -> str:
    """The sentence of a template; without a Chinese text for it the English one."""
    return (TEXTS.get(template, template) if language == CHINESE else template).format(**values)


def say_problem(problem: Problem, language: str) -> str:
    """A problem's sentence."""
    return say(problem.template, language, **problem.values)


TEXTS = {
    UPLOADED: "版本上传成功",
    ACTIVATED: "版本 {version} 已设为激活版本",
}
