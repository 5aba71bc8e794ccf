"""No version that may be installed is known to be weak, as far as it was known on `KNOWN_ON`.

The public advisories cannot be asked from everywhere (`make audit` does where they can), so this list is by hand. Each
row is a package that reads what strangers send, the first release without the weaknesses, and what they are.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from google.protobuf.internal import api_implementation
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support.audit import verdict

TOP = Path(__file__).parents[2]
KNOWN_ON = "2026-11-27"
KNOWN_BAD = {
    "grpcio": ("1.65.4", "CVE-2023-1428, -32731, -33953 and -4785, CVE-2024-7246: crashes, memory, mixed-up headers"),
    "protobuf": ("6.31.1", "CVE-2025-4565: unbounded recursion in pure Python; CVE-2026-0994 see below"),
    "redis": ("4.5.4", "CVE-2023-28858 and -28859: a cancelled command leaves its answer to the next caller"),
    "aiohttp": ("3.13.3", "CVE-2024-23334, CVE-2025-53643, CVE-2025-69223: files, smuggled requests, zip bombs"),
    "cryptography": ("44.0.1", "CVE-2024-12797: a handshake with raw keys that is not ended"),
}


def floors() -> dict[str, Version]:
    """Return the oldest release of each dependency that users may have."""
    found = {}
    for file in ("pyproject.toml", "client/pyproject.toml"):
        for text in tomllib.loads((TOP / file).read_text())["project"]["dependencies"]:
            requirement = Requirement(text)
            versions = [Version(each.version) for each in requirement.specifier if each.operator in {">=", "=="}]
            found[requirement.name] = max(versions)
    return found


@pytest.mark.parametrize("name", KNOWN_BAD)
def test_floor_is_not_weak(name: str) -> None:
    """The floor is at least the first release that is not known to be weak, and so is what CI runs with."""
    good = Version(KNOWN_BAD[name][0])
    assert floors()[name] >= good, KNOWN_BAD[name][1]
    lines = (TOP / "requirements/constraints.txt").read_text().splitlines()
    [pinned] = [line.partition("==")[2].partition(" ")[0] for line in lines if line.startswith(f"{name}==")]
    assert Version(pinned) >= good


def test_messages_are_parsed_in_c() -> None:
    """The implementation in Python recurses as deep as a stranger says."""
    assert api_implementation.Type() == "upb"


def test_no_messages_in_json() -> None:
    """Messages are not read from JSON, whose reader in releases before 6.33.5 recurses without end (CVE-2026-0994)."""
    folders = ("cachenode", "client/cachenode_client", "client/cachenode_api")
    files = [file for folder in folders for file in (TOP / folder).rglob("*.py")]
    assert len(files) > 100
    assert [file for file in files if "json_format" in file.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize(
    ("report", "code", "said"),
    [
        ("", 0, "nothing was asked"),
        ('{"dependencies": [{"name": "a", "skip_reason": "not found"}]}', 0, "nothing was asked"),
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', 0, "1 asked about, 0 weak"),
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}]}]}', 1, "a 1: CVE-1"),
    ],
)
def test_verdict_of_an_audit(report: str, code: int, said: str) -> None:
    """Weak versions fail; advisories that cannot be reached are spoken of."""
    found = verdict(report)
    assert found[0] == code
    assert said in found[1]
