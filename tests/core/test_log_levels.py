from __future__ import annotations

import pytest

from cachenode.core.log_levels import LEVELS, LogLevels, Said

DEBUG, INFO, WARNING = LEVELS["debug"], LEVELS["info"], LEVELS["warning"]


def test_configured_level() -> None:
    """Of loggers of which nothing is said, lines from that level on are written."""
    levels = LogLevels("warning")
    assert not levels.writes("cachenode.node.drain", INFO, 0)
    assert levels.writes("cachenode.node.drain", WARNING, 0)
    levels.configure("info")
    assert levels.writes("cachenode.node.drain", INFO, 0)


def test_what_is_nearest_counts() -> None:
    """What is said of a module counts more than what is said of its package, and nothing for its neighbours."""
    levels = LogLevels()
    levels.set("cachenode.node", "error")
    levels.set("cachenode.node.drain", "debug")
    assert levels.writes("cachenode.node.drain", DEBUG, 0)
    assert not levels.writes("cachenode.node.drainage", WARNING, 0)
    assert levels.writes("cachenode.rpc.gate", INFO, 0)
    levels.reset("cachenode.node.drain")
    assert not levels.writes("cachenode.node.drain", WARNING, 0)


def test_it_is_over_by_itself() -> None:
    """What is said for a time falls back to what was said before of the package, then of all."""
    levels = LogLevels()
    levels.set("cachenode", "debug", 100.0)
    levels.set("cachenode.node", "error", 50.0)
    assert not levels.writes("cachenode.node.x", WARNING, 49.9)
    assert levels.said(49.9) == {"cachenode": Said("debug", 100.0), "cachenode.node": Said("error", 50.0)}
    assert levels.writes("cachenode.node.x", DEBUG, 50.0)
    assert not levels.writes("cachenode.node.x", DEBUG, 100.0)
    assert levels.said(100.0) == {}


def test_unknown_level() -> None:
    """A level that there is not changes nothing."""
    levels = LogLevels()
    with pytest.raises(KeyError):
        levels.set("cachenode", "loud")
    assert levels.said(0) == {}
