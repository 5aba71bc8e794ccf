"""What the package offers is what its documentation and the typing test use."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import cachenode_client
from cachenode_client import blocking
from tests.support.syntax import parse

TOP = Path(__file__).parents[2]
README = (TOP / "client" / "README.md").read_text(encoding="utf-8")
OTHERS = {
    "ABSENT",
    "Absent",
    "CacheClient",
    "EventInvalidation",
    "Invalidated",
    "Loaded",
    "Lookup",
    "Parent",
    "Published",
    "Reset",
    "Serializer",
    "Tls",
    "Versioned",
    "WarmStep",
}
METHODS = [
    "add",
    "after_commit",
    "contains",
    "decr",
    "delete",
    "get",
    "get_and_touch",
    "get_many",
    "incr",
    "invalidate",
    "lookup",
    "publish",
    "replace",
    "set",
    "set_many",
    "stats",
    "touch",
    "ttl",
    "versioned",
    "view",
    "warm",
    "watch",
]
LOADING = ["get_or_load", "get_or_load_many", "cached"]


def imported(code: str, module: str) -> set[str]:
    """Return the names that code imports from a module."""
    nodes = [node for node in ast.walk(parse(code)) if isinstance(node, ast.ImportFrom) and node.module == module]
    return {alias.name for node in nodes for alias in node.names}


def test_everything_public_is_offered() -> None:
    """All errors, the client, lookups, the protocol of serializers and what loaders return, sorted; nothing else."""
    errors = {
        name
        for name, value in vars(cachenode_client.errors).items()
        if inspect.isclass(value) and issubclass(value, cachenode_client.CacheError)
    }
    assert sorted(errors | OTHERS) == cachenode_client.__all__
    assert blocking.__all__ == ["CacheClient"]


@pytest.mark.parametrize("path", ["README.md", "client/README.md"])
def test_readme_imports_what_is_offered(path: str) -> None:
    """Code in the documentation imports only names that are offered."""
    blocks = re.findall(r"```python\n(.*?)```", (TOP / path).read_text(encoding="utf-8"), re.DOTALL)
    code = [f"async def example():\n{'    '.join(('    ' + block).splitlines(keepends=True))}" for block in blocks]
    names = {name for block in code for name in imported(block, "cachenode_client")}
    assert names
    assert names <= set(cachenode_client.__all__)


def test_typing_test_imports_what_is_offered() -> None:
    """The typing test, which is the users' view, needs nothing but offered names."""
    names = imported((TOP / "tests" / "typing" / "api.py").read_text(encoding="utf-8"), "cachenode_client")
    assert names
    assert names <= set(cachenode_client.__all__)


def test_readme_names_every_error() -> None:
    """Whoever reads about errors learns of each class."""
    section = README.partition("## Errors")[2]
    errors = [name for name in cachenode_client.__all__ if name not in OTHERS]
    named = set(re.findall(r"`(\w+)`", section))
    # InvalidArgument is the common base of those that the section calls "all ValueError".
    assert [name for name in errors if name not in named] == ["InvalidArgument"]


def test_clients_offer_the_same_methods() -> None:
    """Both clients have the methods of the documentation, with the same parameters in the same order."""
    for name in METHODS:
        one, other = getattr(cachenode_client.CacheClient, name), getattr(blocking.CacheClient, name)
        assert inspect.signature(one).parameters == inspect.signature(other).parameters
        assert inspect.iscoroutinefunction(one) == (name not in {"after_commit", "stats", "versioned", "warm", "watch"})
        assert not inspect.iscoroutinefunction(other)
        assert f"`{name}(" in README
    for name in LOADING:  # whose loaders differ in type
        one, other = getattr(cachenode_client.CacheClient, name), getattr(blocking.CacheClient, name)
        assert list(inspect.signature(one).parameters) == list(inspect.signature(other).parameters)
        assert f"`{name}(" in README or f"`@cache.{name}(" in README
    init = inspect.signature(cachenode_client.CacheClient.__init__)
    assert init == inspect.signature(blocking.CacheClient.__init__)


def test_public_methods_are_all_known() -> None:
    """A method more needs a line in the documentation, and a place in the list above."""
    known = {*METHODS, *LOADING, "encoded", "after_fork"}
    for kind, close in ((cachenode_client.CacheClient, "aclose"), (blocking.CacheClient, "close")):
        public = {name for name, value in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
        assert public == known | {close}
