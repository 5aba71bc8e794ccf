from __future__ import annotations

import math

import pytest

from cachenode.cli.errors import CliError
from cachenode.cli.options import examples, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("2h", 7_200), ("1d", 86_400), ("500ms", 0.5), ("45", 45), ("1.5m", 90), (" 2 s", 2)],
)
def test_durations_have_units(text: str, seconds: float) -> None:
    """A duration is a number with a unit; without one it means seconds."""
    assert parse_duration(text) == seconds


def test_never_is_no_end() -> None:
    """An entry may be stored without an end."""
    assert parse_duration("never") == math.inf


@pytest.mark.parametrize("text", ["", "0", "0s", "-5s", "5x", "m", "1e3", "inf", "nan", "5 m s", "١s"])
def test_other_durations_are_refused(text: str) -> None:
    """What is not a positive duration is wrong usage, and the text shows how to write one."""
    with pytest.raises(CliError, match="30s, 5m") as refused:
        parse_duration(text)
    assert refused.value.code == 2


def test_brackets_of_examples_are_not_markup() -> None:
    """An example may hold what rich would take for a style."""
    assert "\\[red]" in examples("jq '.nodes[red]'")
