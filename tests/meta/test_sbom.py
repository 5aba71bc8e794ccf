"""The bill of materials names every extra that its users may ask for, and nothing of the machine it was made on."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from tests.support.sbom import DISTRIBUTIONS, without_places

ROOT = Path(__file__).parents[2]
NOT_LISTED = {"demo"}
"""It brings data to look at, and no code."""


def test_every_extra_is_installed() -> None:
    """An extra that is new is listed from its first day."""
    for folder, asked in DISTRIBUTIONS.values():
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        listed = set(re.findall(r"\w+", asked.partition("[")[2]))
        assert listed == set(project["optional-dependencies"]) - NOT_LISTED


def test_where_it_came_from_is_left_out() -> None:
    """No folder and no index; what says where a project lives stays."""
    place = {"type": "distribution", "url": "file:///somewhere/wheel"}
    home = {"type": "website", "url": "https://example.org"}
    component = {"name": "a", "purl": "pkg:pypi/a@1?file_name=somewhere", "externalReferences": [place, home]}
    bill = {"metadata": {"component": {"name": "m", "externalReferences": [place]}}, "components": [component]}
    found = without_places(bill)
    assert "somewhere" not in json.dumps(found)
    assert found["components"][0]["externalReferences"] == [home]
    assert found["components"][0]["purl"] == "pkg:pypi/a@1"
