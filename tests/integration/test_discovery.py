"""Nodes that find each other without a registry: as real processes, and with a name server that the test makes."""

from __future__ import annotations

import contextlib
import signal
from functools import partial
from pathlib import Path

import pytest
from grpc import aio

from cachenode import assembly
from cachenode.adapters.seeds import DnsSeeds
from cachenode.cli.ports import free_ports
from cachenode_api.v1 import admin_pb2, admin_pb2_grpc
from cachenode_client import CacheClient
from tests.integration.load import until
from tests.support.server import running_server
from tests.support.static_nodes import static_nodes


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


async def test_newcomer_joins_though_dns_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of which DNS does not tell the others yet is a member of all within 5 s, and finds what they have.

    Scenario 32. It has an old answer too: one of the two nodes that are there, and an address where nobody is.
    """
    ports = free_ports(4)
    addresses = [f"127.0.0.1:{port}" for port in ports]

    def node(number: int, *known: str) -> contextlib.AbstractAsyncContextManager[object]:
        async def look_up(_host: str, _port: int) -> list[str]:
            return list(known)

        monkeypatch.setattr(assembly, "DnsSeeds", partial(DnsSeeds, look_up=look_up))
        return running_server(
            node__id=f"node-{number}",
            node__listen=addresses[number],
            cluster__discovery="dns",
            cluster__dns_name="cache.example:7401",
        )

    async with contextlib.AsyncExitStack() as stack:
        for number in range(2):
            await stack.enter_async_context(node(number, *addresses[:2]))
        client = await stack.enter_async_context(CacheClient(addresses[0], timeout_s=10))
        await client.view()
        await until(lambda: client.stats()["nodes_connected"] == 2, 10, "two nodes in one view")
        names = {f"k{n}": n for n in range(300)}
        await client.set_many(names)
        await stack.enter_async_context(node(2, addresses[1], addresses[3]))

        async def together() -> bool:
            return {members for _, members in await views(addresses[:3])} == {("node-0", "node-1", "node-2")}

        assert await until(together, 5.0, "the newcomer is a member of all") < 5.0
        await client.set_many(dict.fromkeys(names, -1))
        async with CacheClient(addresses[2], timeout_s=10) as late:
            await late.view()
            await until(lambda: late.stats()["nodes_connected"] == 3, 10, "the newcomer's client knows all nodes")
            assert await late.get_many(names) == dict.fromkeys(names, -1)
