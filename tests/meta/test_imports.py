"""What an import loads. The linter sees arrows between modules; these see the interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
LIBRARIES = {"aiohttp", "google", "grpc", "prometheus_client", "pydantic", "redis", "rich", "structlog", "typer"}
CONTRACT = sorted(path.stem for path in (TOP / "client/cachenode_api").glob("*.py") if path.stem != "__init__")


def loaded_by(*modules: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after importing some."""
    code = f"import sys, json; before = set(sys.modules)\nimport {', '.join(modules)}\n"
    code += "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    paths = [str(TOP), str(TOP / "client")]
    code = f"import sys; sys.path[:0] = {paths!r}\n{code}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout))


def test_core_loads_no_io() -> None:
    """The whole core can be used without an event loop, a network library or a configuration library."""
    files = (path for path in (TOP / "cachenode/core").glob("*.py") if path.stem != "__init__")
    loaded = loaded_by("cachenode.errors", *(f"cachenode.core.{path.stem}" for path in files))
    assert "cachenode" in loaded
    assert loaded.isdisjoint(LIBRARIES | {"asyncio", "threading", "logging"})


def test_server_package_loads_nothing() -> None:
    """Importing cachenode loads no other module."""
    assert loaded_by("cachenode") <= {"cachenode", "__future__"}


@pytest.mark.parametrize("name", CONTRACT)
def test_contract_loads_no_grpc(name: str) -> None:
    """Each hand-written module of the contract works without gRPC, protobuf and the generated stubs."""
    loaded = loaded_by(f"cachenode_api.{name}")
    assert loaded.isdisjoint(LIBRARIES | {"asyncio"})


def test_sdk_does_not_load_the_server() -> None:
    """The SDK needs the contract and gRPC, and nothing of the node or of what only the node needs."""
    loaded = loaded_by("cachenode_client", "cachenode_client.blocking")
    assert loaded.isdisjoint(LIBRARIES - {"google", "grpc"} | {"cachenode"})


def test_configuration_loads_no_server() -> None:
    """The configuration can be checked without gRPC, Redis or HTTP libraries, so the command line stays quick."""
    loaded = loaded_by("cachenode.config")
    assert loaded.isdisjoint(LIBRARIES - {"pydantic"})
