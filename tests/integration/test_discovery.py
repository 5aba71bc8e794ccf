"""Nodes that find each other without a registry, as real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from grpc import aio

from cachenode.cli.child import Child
from cachenode.cli.ports import free_ports
from cachenode_api.v1 import admin_pb2, admin_pb2_grpc
from cachenode_client import CacheClient
from tests.integration.load import until


@contextlib.asynccontextmanager
async def static_nodes(directory: Path, count: int) -> AsyncIterator[tuple[list[Child], list[str]]]:
    """Run nodes that know each other by a list, all started at the same moment."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CACHENODE_")}
    children = [Child(f"node-{n}", directory / f"node-{n}.log", environ) for n in range(count)]
    flags = ["--discovery", "static", "--http-listen", ""]
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


async def views(addresses: list[str]) -> list[tuple[int, tuple[str, ...]]]:
    """Return each node's epoch and members."""
    found = []
    for address in addresses:
        async with aio.insecure_channel(address) as channel:
            answer = await admin_pb2_grpc.AdminServiceStub(channel).GetView(admin_pb2.GetViewRequest(), timeout=2)
            found.append((answer.view.epoch, tuple(member.id for member in answer.view.members)))
    return found


async def test_static_nodes_that_start_together_end_in_one_view(tmp_path: Path) -> None:
    """Three nodes that know each other by address have one view, lose a dead member within 6 s, and take it back."""
    everybody = ("node-0", "node-1", "node-2")
    async with static_nodes(tmp_path, 3) as (children, addresses):

        async def together() -> bool:
            found = await views(addresses)
            return len(set(found)) == 1 and found[0][1] == everybody

        await until(together, 10, "one view of all")
        async with CacheClient(addresses[0]) as client:
            names = {f"k{n}": n for n in range(300)}
            await client.set_many(names)
            assert await client.get_many(names) == names
            assert len((await client.view()).members) == 3
        children[0].send(signal.SIGKILL)  # the coordinator

        async def without() -> bool:
            found = await views(addresses[1:])
            return len(set(found)) == 1 and found[0][1] == everybody[1:]

        assert await until(without, 6.0, "the dead coordinator leaves the view") < 6.0
        await children[0].stop(1)
        flags = ["--discovery", "static", "--http-listen", ""]
        for address in addresses:
            flags += ["--seed", address]
        await children[0].start([*flags, "--id", "node-0", "--listen", addresses[0]], timeout_s=20)
        await until(together, 10, "the member is back")
