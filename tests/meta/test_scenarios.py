"""Every failure scenario of the reliability list has a test, or a reason why there is none.

The list has four parts: races of coherence (1 to 20), of membership (21 to 32), faults of Redis and of origins (33 to
50), and what the transport, clocks and strangers do (51 to 68). A test says which of them it proves with "Scenario 7."
or "Scenarios 7 and 9." in its docstring; a module's docstring counts as well. What a scenario asks for can be read in
the tests that name it.

A schedule that a test forces is as good as ten thousand trials of which one meets it, so most tests try it once; where
the order of events is left to chance, as in ``tests/sim`` and ``tests/integration/coherence``, there are many trials.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.syntax import parse

TESTS = Path(__file__).parents[1]
LIST = {*range(1, 69)}
NOT_COVERED = {
    35: "A master cut off with clients on its side takes a network namespace, which takes root. What it rests on is"
    " tested: with durability replicated a write that no replica has is refused; failovers are scenario 34.",
    52: "Half an hour is run by hand: make soak-coherence ARGS='--faults 2000'. What streams that churn leave behind is"
    " looked for in short in test_leaving.py, and by scenario 51.",
    66: "Dropping packets takes nftables and root, and over TCP loss is lateness: tests/sim has both.",
}
"""Scenarios of which something is missing in cachenode itself."""
_NAMED = re.compile(r"\bScenarios? (\d+(?:(?:, | and |, and | to |-)\d+)*)")


def numbers(text: str) -> set[int]:
    """Return the scenarios that a docstring names; "5-8" and "5 to 8" are four."""
    found: set[int] = set()
    for match in _NAMED.finditer(" ".join(text.split())):
        for first, last in re.findall(r"(\d+)(?:(?: to |-)(\d+))?", match[1]):
            found.update(range(int(first), int(last or first) + 1))
    return found


def docstrings(code: str) -> Iterator[tuple[str, str]]:
    """Yield the names and docstrings of a module, whose name is empty, and of its tests."""
    tree = parse(code)
    yield "", ast.get_docstring(tree) or ""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.name, ast.get_docstring(node) or ""


def covered() -> dict[int, list[str]]:
    """Return which tests name each scenario."""
    found: dict[int, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        if path == Path(__file__):
            continue
        for name, text in docstrings(path.read_text(encoding="utf-8")):
            for number in numbers(text):
                found.setdefault(number, []).append(f"{path.relative_to(TESTS).as_posix()}::{name}")
    return found


def test_each_scenario_has_a_test_or_a_reason() -> None:
    """A scenario is named by some test, or it is said why there is none; never both."""
    named = covered()
    assert sorted(LIST - named.keys() - NOT_COVERED.keys()) == [], "no test names them, and no reason is given"
    assert {number: named[number] for number in NOT_COVERED if number in named} == {}, "they are covered by now"


def test_numbers_are_of_the_list() -> None:
    """No test names, and no reason is given for, what is not on the list."""
    named = covered()
    assert {number: named[number] for number in named if number not in LIST} == {}
    assert NOT_COVERED.keys() <= LIST
    assert [number for number, reason in NOT_COVERED.items() if len(reason) < 20] == []


def test_numbers_are_found() -> None:
    """The search itself works: one number, several, a range, and a name that goes over a line's end."""
    assert numbers("It holds. Scenario 7.") == {7}
    assert numbers("Scenarios 1, 5-8 and\n    10 of the list.") == {1, 5, 6, 7, 8, 10}
    assert numbers("Scenarios 1 to 3, and 9 and more.") == {1, 2, 3, 9}
    assert numbers("This scenario 7 times. Scenario: 3.") == set()
    code = '"""Scenario 1."""\ndef test_a():\n    """Scenario 2."""\ndef helper():\n    """Scenario 3."""\n'
    assert list(docstrings(code)) == [("", "Scenario 1."), ("test_a", "Scenario 2.")]
