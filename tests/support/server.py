"""A real node in the test's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cachenode.cli.ports import free_ports
from cachenode.config import load_config
from cachenode.server import Server

__all__ = ["free_port", "running_server"]

_JOIN_S = 20.0


@asynccontextmanager
async def running_server(**options: Any) -> AsyncIterator[Server]:
    """Run a node on free ports until the block ends; it is in a view from the start.

    Args:
        options: Configuration by path, with ``__`` for each dot: ``limits__max_value_bytes=100``; "file" names a file.
    """
    file: Path | None = options.pop("file", None)
    flags: dict[str, Any] = {
        "node.id": "node-0",
        "node.listen": "127.0.0.1:0",
        "node.http_listen": "127.0.0.1:0",
        "limits.stop_grace_s": 1.0,
    }
    flags |= {path.replace("__", "."): value for path, value in options.items()}
    server = Server(load_config(flags=flags, environ={}, file=file))
    await server.start()
    try:
        await asyncio.wait_for(server.joined.wait(), _JOIN_S)
        yield server
    finally:
        await server.stop()


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    [port] = free_ports(1)
    return port
