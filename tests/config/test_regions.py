"""The settings of regions."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachenode.config import NodeConfig, load_config
from cachenode.config.show import describe
from cachenode.errors import ConfigError

L2 = '[l2]\nurl = "redis://127.0.0.1/0"\n'
WEST = '[[regions.peers]]\nname = "west"\naddresses = ["127.0.0.1:1"]\n'

EAST = L2 + '[regions]\nname = "east"\n' + WEST + "[namespaces.users]\nregions = true\n"


def load(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> NodeConfig:
    file = tmp_path / "node.toml"
    file.write_text(text, encoding="utf-8")
    return load_config(flags={}, environ=environ or {}, file=file)


def test_peers_are_tables_or_a_text(tmp_path: Path) -> None:
    """As a text they are what an environment variable can hold; either way they are shown as tables."""
    config = load(tmp_path, L2 + '[regions]\nname = "east"\n' + WEST)
    variable = {"CACHENODE_REGIONS__PEERS": "west=127.0.0.1:1; south = 127.0.0.1:2,127.0.0.1:3"}
    other = load(tmp_path, L2 + '[regions]\nname = "east"\n', variable)
    assert other.regions.peers[0] == config.regions.peers[0]
    assert other.regions.peers[1].addresses == ("127.0.0.1:2", "127.0.0.1:3")
    assert load(tmp_path, describe(other)) == other


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (L2 + WEST, "regions.name: must be the name of this region"),
        ('[regions]\nname = "east"\n' + WEST, "regions.url: needs a Redis"),
        (L2 + '[regions]\nname = "west"\n' + WEST, "regions.peers: must not name this region itself"),
        (L2 + '[regions]\nname = "east"\n' + WEST + WEST, "regions.peers: must name each region once"),
        (L2 + '[regions]\nname = "east"\n[[regions.peers]]\nname = "w"\n', "regions.peers: number 1: addresses"),
        (L2 + "[namespaces.users]\nregions = true\n", "namespaces.users.regions: needs regions.name"),
        (L2 + "[namespaces.users]\nregion_holdoff_s = 2\n", "says nothing where regions is false"),
        (L2 + '[regions]\nname = "e"\n[namespaces.default]\nregions = true\n', "strict_namespaces: must be true"),
        (L2 + "[namespaces.users]\nremote_marker_s = 2\n", "remote_marker_s: says nothing where regions is false"),
        (
            L2 + "[namespaces.users]\nregion_value_bytes = 9\n",
            "region_value_bytes: says nothing where regions is false",
        ),
        (EAST + "remote_marker_s = 2\n", "namespaces.users.remote_marker_s: needs an origin"),
        (EAST + 'primary_region = "west"\n', "primary_region: says nothing where remote_marker_s is 0"),
        (EAST + 'remote_marker_s = 2\nprimary_region = "north"\n', "primary_region: must be regions.name or the name"),
        (
            L2 + '[regions]\nname = "e"\n' + WEST.replace("127.0.0.1:1", "west.example:1"),
            "regions.peers: must have tls = true for west",
        ),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, text: str, problem: str) -> None:
    """With the field to change first."""
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text)
    assert problem in str(refused.value)


def test_text_that_names_no_region(tmp_path: Path) -> None:
    """How it should look is said."""
    with pytest.raises(ConfigError, match="name=host:port"):
        load(tmp_path, L2 + '[regions]\nname = "e"\n', {"CACHENODE_REGIONS__PEERS": "127.0.0.1:1"})


def test_primary_region_itself_marks_nothing(tmp_path: Path) -> None:
    """One table for all regions: where the database is written every change is known at once."""
    table = '[origins.db]\nloader = "tests.support.loaders:load"\n'
    marked = 'origin = "db"\nremote_marker_s = 2\nprimary_region = '
    found = {}
    for primary in ("east", "west"):
        config = load(tmp_path, EAST + f'{marked}"{primary}"\n' + table)
        [policy] = [each for each in config.policies() if each.name == "users"]
        found[primary] = (policy.primary_region, policy.remote_marker_s)
    assert found == {"east": ("", 0.0), "west": ("west", 2.0)}
