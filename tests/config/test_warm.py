"""Warming in the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachenode.config import describe, load_config
from cachenode.errors import ConfigError


def test_jobs_on_schedule(tmp_path: Path) -> None:
    """Tables [[warm]] become plans, and are shown as they were written; one with two sources is refused."""
    file = tmp_path / "node.toml"
    table = """
[origins.o]
loader = "m:f"
[namespaces.n]
origin = "o"
[[warm]]
namespace = "n"
cron = "*/15 * * * *"
top = 10
[[warm]]
namespace = "n"
cron = "6h"
enumerate = true
rate_per_s = 50
"""
    file.write_text(table)
    config = load_config(flags={}, environ={}, file=file)
    first, second = (each.plan() for each in config.warm)
    assert (first.schedule.cron, first.top, first.rate_per_s) == ("*/15 * * * *", 10, 500.0)
    assert (second.schedule.every_s, second.origin, second.rate_per_s) == (21_600.0, True, 50.0)
    shown = describe(config)
    file.write_text(shown.replace("options = {}", ""))
    assert load_config(flags={}, environ={}, file=file).warm == config.warm
    for bad, text in (
        (table + "top = 3\n", "warm: must have one of keys_file, enumerate and top"),
        (table.replace("6h", "soon"), "warm: must be an interval"),
        (table.replace('origin = "o"', ""), "warm: must name a namespace with an origin"),
        (table.replace("*/15 * * * *", "61 * * * *"), "warm: must be an interval"),
    ):
        file.write_text(bad)
        with pytest.raises(ConfigError, match=text):
            load_config(flags={}, environ={}, file=file)


def test_hot_keys_need_a_place(tmp_path: Path) -> None:
    """They are noted in L2."""
    file = tmp_path / "node.toml"
    file.write_text("[namespaces.n]\nwarm_top = 5\n")
    with pytest.raises(ConfigError, match=r"namespaces\.n\.warm_top: needs an L2"):
        load_config(flags={}, environ={}, file=file)
