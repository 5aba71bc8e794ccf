"""What the two distributions say about themselves fits what is in them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

TOP = Path(__file__).parents[2]
STUBS = sorted((TOP / "client/cachenode_api/v1").glob("*_pb2*.py"))


def project(path: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((TOP / path).read_text(encoding="utf-8"))["project"]
    return table


def floor(name: str) -> Version:
    (requirement,) = [
        found for text in project("client/pyproject.toml")["dependencies"] if (found := Requirement(text)).name == name
    ]
    (lowest,) = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
    return lowest


def stamps(pattern: str) -> set[str]:
    return {match[1] for stub in STUBS if (match := re.search(pattern, stub.read_text(encoding="utf-8"), re.MULTILINE))}


def test_protobuf_floor_is_the_generators() -> None:
    """The generated code refuses an older protobuf than it was made for, so the SDK asks for exactly that or newer."""
    (stamp,) = stamps(r"^# Protobuf Python Version: (\S+)$")
    assert floor("protobuf") == Version(stamp)


def test_protobuf_ceiling_is_one_major_version_on() -> None:
    """Protobuf promises to run generated code of its own and the former major version, so the one after is excluded."""
    (text,) = [text for text in project("client/pyproject.toml")["dependencies"] if text.startswith("protobuf")]
    assert Requirement(text).specifier.contains(f"{floor('protobuf').major + 1}.99")
    assert not Requirement(text).specifier.contains(f"{floor('protobuf').major + 2}.0")


def test_grpcio_floor_is_the_generators() -> None:
    """The generated stubs refuse an older grpcio than they were made for."""
    (stamp,) = stamps(r"^GRPC_GENERATED_VERSION = '(\S+)'$")
    assert floor("grpcio") == Version(stamp)


def test_the_generator_is_the_pinned_one() -> None:
    """requirements/proto.txt names the generator that made the committed stubs."""
    (stamp,) = stamps(r"^GRPC_GENERATED_VERSION = '(\S+)'$")
    assert f"grpcio-tools=={stamp}\n" in (TOP / "requirements/proto.txt").read_text(encoding="utf-8")


def test_server_and_sdk_are_released_together() -> None:
    """The server asks for the SDK of its own version, because that holds the contract and the stubs."""
    version = project("pyproject.toml")["version"]
    assert version == project("client/pyproject.toml")["version"]
    assert f"cachenode-client=={version}" in project("pyproject.toml")["dependencies"]


def test_both_distributions_carry_the_same_licence() -> None:
    """A source distribution cannot reach above its folder, so the SDK has a copy, and the copy is one."""
    assert (TOP / "LICENSE").read_bytes() == (TOP / "client/LICENSE").read_bytes()


@pytest.mark.parametrize("name", ["constraints.txt", "proto.txt"])
def test_pins_name_versions_only(name: str) -> None:
    """Pinned versions are usable anywhere: no addresses, no local paths, nothing editable."""
    for line in (TOP / "requirements" / name).read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.match(r"[A-Za-z0-9._-]+==(\d+!)?[A-Za-z0-9._+]+( ; .+)?\Z", line), line
