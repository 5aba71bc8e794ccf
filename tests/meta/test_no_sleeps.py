"""No test waits for time to pass, except those with real processes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.syntax import parse

TESTS = Path(__file__).parents[1]
REAL_TIME = {"integration", "bench", "chaos"}
FILES = sorted(
    path.relative_to(TESTS).as_posix()
    for path in TESTS.rglob("*.py")
    if path.relative_to(TESTS).parts[0] not in REAL_TIME and path != Path(__file__)
)


def sleeps(code: str) -> list[int]:
    """Return the lines that sleep for a fixed time; asyncio.sleep(0) only yields."""
    lines = []
    for node in ast.walk(parse(code)):
        if not isinstance(node, ast.Call):
            continue
        fixed = [part.value for part in node.args if isinstance(part, ast.Constant)]
        called = ast.unparse(node.func)
        if called == "time.sleep" or (called == "asyncio.sleep" and fixed and fixed[0] != 0):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("file", FILES)
def test_file_does_not_sleep(file: str) -> None:
    """Schedules are forced with events or virtual time; a sleep is either too short or too long."""
    assert sleeps((TESTS / file).read_text(encoding="utf-8")) == []


def test_sleeps_are_found() -> None:
    """The search itself works: it sees sleeps, and lets a bare yield to the loop pass."""
    code = "import time, asyncio\ntime.sleep(x)\nasyncio.sleep(0.1)\nasyncio.sleep(0)\nloop.sleep(3)\n"
    assert sleeps(code) == [2, 3]
