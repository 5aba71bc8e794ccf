"""A real node and a client of it, and a node that does as the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cachenode.server import Server
from cachenode_client import CacheClient
from tests.support.scripted_node import ScriptedNode, scripted_node
from tests.support.server import running_server


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A node of its own, joined."""
    async with running_server() as started:
        yield started


@pytest.fixture
async def cache(server: Server) -> AsyncIterator[CacheClient]:
    """A client of that node, with time to spare."""
    async with CacheClient(server.address, timeout_s=10) as client:
        yield client


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedNode]:
    """A node that answers only what the test says."""
    async with scripted_node() as node:
        yield node
