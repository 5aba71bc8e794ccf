"""What holds for all tests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping

import pytest
import structlog
import uvloop
from hypothesis import settings

# What nodes within a test's process say belongs to neither stream of the commands that the test runs.
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))
# How long one example takes depends on what else the machine does.
settings.register_profile("cachenode", deadline=None)
settings.load_profile("cachenode")


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests on asyncio's own loop; those marked ``both_loops`` also on that which nodes have."""
    own: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    return own | {"uvloop": uvloop.new_event_loop} if item.get_closest_marker("both_loops") else own
