"""No code comes out of data: what would run it is used nowhere, but for the serializer that is asked for by name."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.syntax import parse

TOP = Path(__file__).parents[2]
FOLDERS = ("cachenode", "client/cachenode_client", "client/cachenode_api")
MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__"}
MAY = {("client/cachenode_client/serializers.py", "pickle")}


def found_in(code: str) -> set[str]:
    """Return what code uses of it."""
    found = set()
    for node in ast.walk(parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").partition(".")[0]} & MODULES
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found |= {node.func.id} & CALLS
    return found


def test_nothing_runs_data() -> None:
    """Neither nodes nor clients decode what others wrote with what could run it."""
    files = [file for folder in FOLDERS for file in (TOP / folder).rglob("*.py") if "v1" not in file.parts]
    used = {
        (file.relative_to(TOP).as_posix(), name)
        for file in files
        for name in found_in(file.read_text(encoding="utf-8"))
    }
    assert used == MAY


def test_it_would_be_noticed() -> None:
    """The search itself works."""
    assert found_in("import pickle\nfrom yaml import load\neval('1')") == {"pickle", "yaml", "eval"}
    assert found_in("re.compile('x'); model.eval()") == set()
