"""The SDK as users get it: its wheel alone in an empty environment."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
ALLOWED = {"cachenode-client", "grpcio", "protobuf", "typing-extensions", "uhashring"}
PROBE = """
import importlib.metadata, importlib.util, json
import cachenode_client, cachenode_client.blocking, cachenode_api.ring
from cachenode_api.v1 import session_pb2_grpc
print(json.dumps({
    "server": importlib.util.find_spec("cachenode") is not None,
    "version": importlib.metadata.version("cachenode-client"),
    "files": [cachenode_client.__file__, cachenode_api.ring.__file__],
}))
"""


def run(*command: str | Path, cwd: Path = TOP) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SDK's wheel, built from its source distribution as an index would get it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, TOP / "client")
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    interpreter = folder / "bin/python"
    constraints = TOP / "requirements/constraints.txt"
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    pip = [uv, "pip", "install"] if uv else [sys.executable, "-m", "pip", "install"]
    run(*pip, "--python", interpreter, "-q", "-c", constraints, wheel)
    return interpreter


def test_wheel_works_without_the_server(python: Path, tmp_path: Path) -> None:
    """Everything public can be imported, from the wheel and not from this tree, and the server is not there."""
    found = json.loads(run(python, "-I", "-c", PROBE, cwd=tmp_path))
    assert found["server"] is False
    assert found["version"]
    assert all(Path(file).is_relative_to(python.parents[1]) for file in found["files"])


def test_wheel_pulls_little_in(python: Path) -> None:
    """A bare install brings the transport, messages and the ring, and nothing else."""
    code = "import importlib.metadata as m, json; print(json.dumps([d.metadata['Name'] for d in m.distributions()]))"
    names = {name.lower().replace("_", "-") for name in json.loads(run(python, "-I", "-c", code))}
    assert names == ALLOWED


def test_wheel_holds_both_packages_and_their_types(wheel: Path) -> None:
    """The wheel has the SDK, the contract, the stubs with their types and the licence, and nothing beside them."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"cachenode_api", "cachenode_client"}
    assert {"cachenode_api/py.typed", "cachenode_client/py.typed", "cachenode_api/v1/cache_pb2.pyi"} <= set(names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert not any("__pycache__" in name for name in names)
