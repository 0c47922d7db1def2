"""The client's command line: what the shell hands over."""
from __future__ import annotations

from typing import List

import pytest

from nuitkal_mini.client.__main__ import _parse, _parser


@pytest.mark.parametrize("arguments, program", [
    (["run", "--dir", "d", "--url", "u"], []),
    (["run", "--dir", "d", "--url", "u", "--"], []),
    (["run", "--dir", "d", "--url", "u", "--", "one", "--dir", "two"], ["one", "--dir", "two"]),
    (["--dir", "d", "run", "--", "--", "-x"], ["--", "-x"]),
], ids=["none", "only the dashes", "after the options", "dashes of its own"])
def test_what_stands_after_two_dashes_is_the_programs(arguments: List[str], program: List[str]) -> None:
    options = _parse(_parser(), arguments)
    assert (options.verb, str(options.dir), options.args) == ("run", "d", program)


def test_an_argument_before_the_dashes_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        _parse(_parser(), ["run", "stray", "--dir", "d"])
    assert stopped.value.code == 2 and "stray" in capsys.readouterr().err
