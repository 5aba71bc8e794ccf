"""The node's event loop."""

from __future__ import annotations

import asyncio
import sys

import pytest
import uvloop

from cachenode.adapters.event_loop import event_loop_factory
from cachenode.errors import ConfigError


@pytest.mark.parametrize(("name", "made_by"), [("auto", uvloop.Loop), ("uvloop", uvloop.Loop)])
def test_uvloop_is_taken_where_it_is_installed(name: str, made_by: type) -> None:
    """By default too."""
    with asyncio.Runner(loop_factory=event_loop_factory(name)) as runner:
        assert isinstance(runner.get_loop(), made_by)


def test_asyncios_own_loop_can_be_asked_for() -> None:
    """Whoever meets a defect of the other has a way out."""
    with asyncio.Runner(loop_factory=event_loop_factory("asyncio")) as runner:
        assert isinstance(runner.get_loop(), asyncio.SelectorEventLoop)


def test_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node runs without it, unless it is asked for by name: then it says what to do."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with asyncio.Runner(loop_factory=event_loop_factory("auto")) as runner:
        assert isinstance(runner.get_loop(), asyncio.SelectorEventLoop)
    with pytest.raises(ConfigError, match=r"node\.event_loop: uvloop is not installed"):
        event_loop_factory("uvloop")
