"""Every module says what it offers."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from tests.support.syntax import parse

TOP = Path(__file__).parents[2]
PACKAGES = ("cachenode", "client/cachenode_api", "client/cachenode_client")
MODULES = sorted(
    path.relative_to(TOP).as_posix()
    for package in PACKAGES
    for path in (TOP / package).rglob("*.py")
    if "_pb2" not in path.name and path.name != "__main__.py"
)


def names_in(tree: ast.Module) -> tuple[set[str], set[str], list[str] | None]:
    """Return the classes and functions that a module defines, every name that it binds, and its __all__."""
    defined: set[str] = set()
    bound: set[str] = set()
    exported: list[str] | None = None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            bound |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            bound |= names
            if "__all__" in names and node.value is not None:
                exported = ast.literal_eval(node.value)
    return defined, bound | defined, exported


@pytest.mark.parametrize("module", MODULES)
def test_exports_are_true(module: str) -> None:
    """A module with public classes or functions has an __all__; it names nothing that is missing, nothing twice."""
    defined, bound, exported = names_in(parse((TOP / module).read_text(encoding="utf-8")))
    assert exported is not None or all(name.startswith("_") for name in defined)
    names = exported or []
    assert len(set(names)) == len(names)
    assert "__getattr__" in defined or set(names) <= bound


@pytest.mark.parametrize("package", ["cachenode", "cachenode.config", "cachenode_client"])
def test_facades_deliver_what_they_name(package: str) -> None:
    """Every name of a facade is there at run time, also where it is looked up late."""
    module = importlib.import_module(package)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
