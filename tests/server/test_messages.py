"""Chinese and English: every sentence has both, and each client gets the right one."""

from __future__ import annotations

import ast
import string
from pathlib import Path
from typing import Iterator, Set

import pytest

from nuitkal_mini.problem import Problem
from nuitkal_mini.server import messages

PACKAGE = Path(messages.__file__).parent.parent
# DatabaseProblem and StoreProblem are not here, nor what __main__ says: an operator reads those in
# a shell
KINDS = {
    "Refused",
    "AuthProblem",
    "ManifestError",
    "UnsafePath",
    "BadVersion",
    "ArchiveError",
    "SignatureError",
    "JsonError",
    "UnknownKey",
}
# minisign's own for who has the secret key: the server never calls them for a client
PUBLISHERS = {
    "parse_public_key",
    "parse_secret_key",
    "_scrypt_mask",
    "_scrypt_parameters",
    "release_comment_text",
}


def spoken() -> Iterator[str]:
    """The template of each problem that the formats and the server can raise towards a person."""
    for path in [*PACKAGE.glob("*.py"), *(PACKAGE / "server").rglob("*.py")]:
        module = ast.parse(path.read_text("utf-8"))
        module.body = [node for node in module.body if getattr(node, "name", "") not in PUBLISHERS]
        for node in ast.walk(module):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in KINDS
            ):
                texts = [
                    arg.value
                    for arg in node.args
                    if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
                ]
                if texts and " " in texts[-1]:  # else its template comes from another problem
                    yield texts[-1]


@pytest.mark.parametrize(
    "template", sorted(set(spoken()) | {messages.UPLOADED, messages.ACTIVATED})
)
def test_every_sentence_has_a_chinese_text_with_the_same_parts(template: str) -> None:
    assert template in messages.TEXTS
    assert fields(messages.TEXTS[template]) == fields(template)


def fields(template: str) -> Set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def test_no_text_outlives_its_sentence() -> None:
    assert set(messages.TEXTS) == set(spoken()) | {messages.UPLOADED, messages.ACTIVATED}


@pytest.mark.parametrize(
    "header, language",
    [
        pytest.param("", "zh", id="nothing said"),
        pytest.param("en", "en", id="English"),
        pytest.param("en-GB,en;q=0.8", "en", id="a kind of English"),
        pytest.param("zh-CN,zh;q=0.9,en;q=0.8", "zh", id="Chinese first"),
        pytest.param("zh;q=0.3, en-US;q=0.7", "en", id="by weight, not by order"),
        pytest.param("fr, en;q=0.4", "en", id="another language first"),
        pytest.param("fr", "zh", id="neither"),
        pytest.param("en;q=0", "zh", id="English refused"),
        pytest.param("en,zh", "en", id="equal weights: the first"),
        pytest.param("zh,en", "zh", id="equal weights: the first again"),
        pytest.param("*;q=0.5,;;=,en;q=abc", "zh", id="nonsense"),
    ],
)
def test_the_language_is_the_one_that_the_client_prefers(header: str, language: str) -> None:
    assert messages.language_of({"HTTP_ACCEPT_LANGUAGE": header} if header else {}) == language


def test_a_sentence_without_a_chinese_text_is_said_in_english() -> None:
    assert messages.say_problem(Problem("{n} of a kind", n=3), "zh") == "3 of a kind"
