"""Loads of keys whose owner is silent but still a member, with real nodes and real client processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from grpc import aio

from cachenode.cli.local_cluster import LocalCluster
from cachenode_api.ring import Ring
from cachenode_api.v1 import admin_pb2, admin_pb2_grpc
from cachenode_api.view import View
from cachenode_client import CacheClient
from tests.integration.load import until
from tests.support.eventually import assert_within
from tests.support.loading_clients import answers, go, loads, processes
from tests.support.static_nodes import static_nodes

PROCESSES, CALLERS = 4, 25
LOAD_S = 0.2
AT_ONCE_S = 3.5
"""A silent node is noticed within 2.5 s, by clients and nodes at the same time; then comes the load."""
MOST_LOADS = 4


async def members(address: str) -> set[str]:
    """Return the members that a node knows."""
    async with aio.insecure_channel(address) as channel:
        answer = await admin_pb2_grpc.AdminServiceStub(channel).GetView(admin_pb2.GetViewRequest(), timeout=2)
        return {member.id for member in answer.view.members}


async def view_of(addresses: list[str]) -> View:
    """Return the view of all once they have it."""

    async def together() -> bool:
        return all([len(await members(address)) == len(addresses) for address in addresses])

    await until(together, 10, "one view of all")
    async with CacheClient(addresses[0]) as client:
        return await client.view()


async def load_from_silent(addresses: list[str], view: View, freeze: Callable[[str], None], log: Path) -> None:
    """Freeze the owner of an absent key and let many callers ask for it: they have it long before the view changes."""
    ring = Ring(view)
    first = min(view.by_id)  # with a list of addresses, it makes the views
    key = next(key for number in range(100) if ring.owner((key := f"k{number}").encode()) != first)
    owner = ring.owner(key.encode()) or ""
    survivors = [member.address for member in view.members if member.id != owner]
    async with processes(PROCESSES, ",".join(addresses), key, CALLERS, LOAD_S, log) as callers:
        freeze(owner)
        began = time.monotonic()
        for process in callers:
            go(process)
        found = [result for process in callers for result in await answers(process)]
        took = time.monotonic() - began
        assert owner in await members(survivors[0]), "it was a member all the time"
    assert len(found) == PROCESSES * CALLERS
    assert set(found) <= set(loads(log)), "every caller got a loaded value"
    assert_within(took, AT_ONCE_S, "the loads of a silent owner's key")
    assert len(loads(log)) <= MOST_LOADS


async def test_keys_of_a_silent_owner_are_loaded_at_once(tmp_path: Path) -> None:
    """100 callers in 4 processes have an absent key's value while its frozen owner is still a member; few load it."""
    async with LocalCluster(nodes=3, directory=tmp_path / "c") as cluster:
        addresses = [node.address for node in cluster.nodes]
        await load_from_silent(addresses, await view_of(addresses), cluster.pause, tmp_path / "loads")


async def test_keys_of_a_silent_owner_are_loaded_at_once_without_l2(tmp_path: Path) -> None:
    """The same with no Redis at all: the next node on the ring coordinates."""
    async with static_nodes(tmp_path, 3) as (children, addresses):
        view = await view_of(addresses)
        by_id = {child.id: child for child in children}
        try:
            await load_from_silent(addresses, view, lambda name: by_id[name].send(signal.SIGSTOP), tmp_path / "loads")
        finally:
            for child in children:
                child.send(signal.SIGCONT)
