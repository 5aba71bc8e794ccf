"""Node processes that know each other by a list of addresses, without a Redis."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from cachenode.cli.child import Child
from cachenode.cli.ports import free_ports

__all__ = ["static_nodes"]


@contextlib.asynccontextmanager
async def static_nodes(directory: Path, count: int, **settings: str) -> AsyncIterator[tuple[list[Child], list[str]]]:
    """Run nodes that know each other by a list, all started at the same moment.

    Settings, named as in the environment (``CLUSTER__DISCOVERY``), let them meet elsewhere.
    """
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CACHENODE_")}
    environ |= {f"CACHENODE_{name}": value for name, value in settings.items()}
    children = [Child(f"node-{n}", directory / f"node-{n}.log", environ) for n in range(count)]
    flags = ["--http-listen", ""]
    if not settings:
        flags += ["--discovery", "static"]
        for address in addresses:
            flags += ["--seed", address]
    try:
        await asyncio.gather(
            *(
                child.start([*flags, "--id", child.id, "--listen", address], timeout_s=20)
                for child, address in zip(children, addresses, strict=True)
            )
        )
        yield children, addresses
    finally:
        await asyncio.gather(*(child.stop(8) for child in children))
