"""Every test says which behaviour it is about."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.syntax import parse

TESTS = Path(__file__).parents[1]
FILES = sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py"))


@pytest.mark.parametrize("file", FILES)
def test_tests_name_their_behaviour(file: str) -> None:
    """Each test function has a docstring."""
    tree = parse((TESTS / file).read_text(encoding="utf-8"))
    tests = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    assert [test.name for test in tests if test.name.startswith("test_") and not ast.get_docstring(test)] == []
