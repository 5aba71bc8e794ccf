"""The image is built and run as the manifests run it: no root, nothing written, no rights of the kernel's.

Needs docker or podman and the base of the Dockerfile, and takes a minute or two: `make image-check`, not part of CI.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually

TOP = Path(__file__).parents[2]
DOCKERFILE = TOP / "deploy/Dockerfile"
READY = "from urllib.request import urlopen; urlopen('http://127.0.0.1:7402/readyz', timeout=2)"
NO_ROOT = 65532


def call(*command: str, seconds: float = 60, strict: bool = True) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "DOCKER_BUILDKIT": "1"}
    ended = subprocess.run(command, cwd=TOP, env=environ, capture_output=True, text=True, timeout=seconds, check=False)
    if strict:
        assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}"
    return ended


@pytest.fixture(scope="module")
def engine() -> str:
    """The program that builds and runs, or a skip that says what is missing."""
    tried = []
    for name in ("docker", "podman"):
        if shutil.which(name) is None:
            tried.append(f"{name} is not installed")
        elif call(name, "info", strict=False).returncode:
            tried.append(f"{name} does not reach its engine")
        else:
            return name
    pytest.skip("no image can be built here: " + ", ".join(tried))


@pytest.fixture(scope="module")
def image(engine: str) -> Iterator[str]:
    """An image of this tree."""
    for base in sorted(set(re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE))):
        there = call(engine, "image", "inspect", base, strict=False).returncode == 0
        if not there and call(engine, "pull", base, seconds=300, strict=False).returncode:
            pytest.skip(f"the base {base} is not here and cannot be fetched")
    name = f"cachenode:check-{uuid.uuid4().hex[:8]}"
    call(engine, "build", "-f", str(DOCKERFILE), "-t", name, ".", seconds=900)
    yield name
    call(engine, "rmi", "-f", name, strict=False)


@pytest.fixture
def box(engine: str, image: str) -> Iterator[str]:
    """A node in a container with no more than the manifests give it."""
    rights = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    found = call(engine, "run", "-d", *rights, image).stdout.strip()
    yield found
    call(engine, "rm", "-f", found, strict=False)


async def test_node_serves_and_stops_in_good_order(engine: str, box: str) -> None:
    """It becomes ready, its commands reach it, and SIGTERM to process 1 ends it with 0 after it has left."""

    def ready() -> bool:
        return call(engine, "exec", box, "python", "-c", READY, strict=False).returncode == 0

    await eventually(ready, within_s=60)
    call(engine, "exec", box, "cachenode", "set", "greeting", "hello", "--ttl", "5m")
    assert call(engine, "exec", box, "cachenode", "get", "greeting").stdout.strip() == "hello"
    call(engine, "exec", box, "cachenode", "doctor")
    call(engine, "exec", box, "cachenode", "drain", "--flush", "5s")

    call(engine, "stop", "-t", "30", box)
    assert call(engine, "inspect", "--format", "{{.State.ExitCode}}", box).stdout.strip() == "0"
    told = call(engine, "logs", box)
    assert '"event": "left"' in told.stdout + told.stderr


async def test_node_has_no_more_rights_than_it_needs(engine: str, box: str) -> None:
    """Nobody's user, no file that it could write, and nothing that installs packages."""
    assert call(engine, "exec", box, "id", "-u").stdout.strip() == str(NO_ROOT)
    assert call(engine, "exec", box, "touch", "/tmp/x", strict=False).returncode != 0
    assert call(engine, "exec", box, "python", "-m", "pip", "--version", strict=False).returncode != 0


def test_commands_and_the_kubernetes_client_are_in_it(engine: str, image: str) -> None:
    """What the manifests need is installed, and the packages fit each other."""
    assert "Usage: cachenode" in call(engine, "run", "--rm", "--read-only", image, "--help").stdout
    call(engine, "run", "--rm", "--read-only", "--entrypoint", "python", image, "-c", "import kubernetes.aio.client")
