"""Settings that change while a node runs: what may, what is said of the rest, and where a value comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachenode.config import load_config
from cachenode.config.live import FIXED, LIVE, live_policy, settings, why_fixed
from cachenode.config.model import NodeConfig
from cachenode.config.namespaces import NamespaceConfig
from cachenode.core.live_policy import LivePolicy
from cachenode.errors import ConfigError

FILE = """
[limits]
max_value_bytes = "512KiB"
[namespaces.default]
ttl_s = 60
[namespaces.users]
stale_s = 5
"""


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    file = tmp_path / "node.toml"
    file.write_text(FILE)
    return load_config(flags={}, environ={}, file=file)


def test_every_listed_setting_exists() -> None:
    """Nothing is both; what is neither waits for a start."""
    fields = set(NamespaceConfig.model_fields)
    assert fields >= LIVE
    assert fields >= set(FIXED)
    assert not LIVE & set(FIXED)
    assert all(bool(why_fixed(field)) == (field not in LIVE) for field in fields)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("ttl_s", "10m", 600.0),
        ("ttl_s", "90", 90.0),
        ("ttl_s", '"never"', float("inf")),
        ("stale_s", "500ms", 0.5),
        ("ttl_jitter", "0.1", 0.1),
        ("max_value_bytes", "64KiB", 65_536),
        ("adaptive_ttl", "true", True),
        ("adaptive_steps", ">10: 1h, 5m", (">10: 1h", "5m")),
        ("share", "3", 3.0),
    ],
)
def test_texts_are_those_of_the_file(config: NodeConfig, field: str, text: str, value: object) -> None:
    """A text is taken as in the file or the environment; seconds also with a unit."""
    assert getattr(live_policy(config, "users", {"users": LivePolicy(1, {field: text})}), field) == value


def test_every_problem_is_told(config: NodeConfig) -> None:
    """Bad values, settings that cannot change live, that there are none of, or that do not go together."""
    fields = {"ttl_s": "-1", "l2": "false", "tll_s": "3", "max_value_bytes": "1x", "demand_window_s": "5"}
    with pytest.raises(ConfigError) as refused:
        live_policy(config, "users", {"users": LivePolicy(1, fields)})
    problems = refused.value.problems
    assert [problem.partition(":")[0] for problem in problems] == [
        "l2",
        "tll_s",
        "demand_window_s",
        "ttl_s",
        "max_value_bytes",
    ]
    assert "cannot change live: while some nodes" in problems[0]
    assert "did you mean ttl_s?" in problems[1]
    together = {"max_value_bytes": "1MiB", "adaptive_min_s": "2d", "origin": "db"}
    with pytest.raises(ConfigError) as refused:
        live_policy(config, "users", {"users": LivePolicy(1, together)})
    assert [problem.partition(":")[0] for problem in refused.value.problems] == [
        "origin",
        "max_value_bytes",
        "adaptive_min_s",
    ]


def test_value_and_where_it_comes_from(config: NodeConfig) -> None:
    """A change goes before the file, the file before the default."""
    found = {each.name: each for each in settings(config, "users", {"users": LivePolicy(1, {"ttl_s": "never"})})}
    assert (found["ttl_s"].value, found["ttl_s"].source) == ('"never"', "live")
    assert (found["stale_s"].value, found["stale_s"].source) == ("5.0", "file")
    assert (found["share"].value, found["share"].source) == ("1.0", "default")
    assert (found["max_value_bytes"].value, found["max_value_bytes"].fixed) == ("", "")
    assert set(found) == set(NamespaceConfig.model_fields)


def test_namespace_without_a_table_follows_default(config: NodeConfig) -> None:
    """Also its changes, and its own go before those; one with a table does not."""
    live = {"default": LivePolicy(1, {"ttl_s": "5", "stale_s": "7"}), "carts": LivePolicy(1, {"stale_s": "9"})}
    carts, users = live_policy(config, "carts", live), live_policy(config, "users", live)
    assert (carts.name, carts.ttl_s, carts.stale_s) == ("carts", 5.0, 9.0)
    assert (users.ttl_s, users.stale_s) == (3_600.0, 5.0)
