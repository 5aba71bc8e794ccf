"""A rolling restart, and L2 that fails over soon after: whole nodes in virtual time, each step at its moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import pytest

from cachenode.core.l2_journal import RECENT_S
from cachenode.node.l2_tier import L2Tier
from cachenode_client import CacheClient
from tests.sim.loop import HOST
from tests.sim.mutants.frame import swap
from tests.sim.world import World, simulated

_LONG_S = RECENT_S * 1.2
"""Longer than the span of a journal on any node's clock."""
_KEYS = [f"k{number}" for number in range(30)]


def play(scene: Callable[[World, Any], Awaitable[None]], stack: ExitStack) -> World:
    """Play a scene with three nodes that have been together for long, and a client."""
    world = World(1)
    stack.enter_context(simulated(world, 1))

    async def main() -> None:
        for machine in world.machines:
            await world.start_node(machine)
        assert await world.joined(world.machines)
        await world.pause(_LONG_S)
        await world.loop.spawn(world.host("client"), client())

    async def client() -> None:
        async with CacheClient(world.address) as cache:
            await scene(world, cache)

    world.run(main)
    assert not world.defects
    return world


async def roll(world: World) -> None:
    """Restart one node after the other, each in good order, as `kubectl rollout restart` does."""
    for machine in world.machines:
        await world.stop_node(machine)
        await world.start_node(machine)
        assert await world.joined(world.machines)
        await world.pause(2.0)


async def fail_over(world: World, lost: int) -> None:
    """Let L2 lose its last writes, and the nodes all that they have in memory; wait until it is trusted again."""
    world.redis["l2"].fail_over(lost)
    for node in world.nodes.values():
        for namespace in node.server.node.namespaces:
            namespace.store.clear()
    await world.pause(5.0)


def floors(world: World) -> list[int]:
    return [node.server.node.tier.floor for node in world.nodes.values() if node.server.node.tier is not None]


def test_older_content_outlives_a_rolling_restart_and_a_failover() -> None:
    """Nobody has to be feared who has left in good order: what L2 has had for long is found there."""
    found: dict[str, object] = {}

    async def scene(world: World, cache: Any) -> None:
        await cache.set_many(dict.fromkeys(_KEYS, "older"))
        await world.pause(_LONG_S)
        await by_nobody(roll(world))
        await fail_over(world, 0)
        found.update(await cache.get_many(_KEYS))

    with ExitStack() as stack:
        world = play(scene, stack)
        assert found == dict.fromkeys(_KEYS, "older")
        assert floors(world) == [0, 0, 0]


@pytest.mark.parametrize("inherited", [True, False])
def test_what_a_leaver_wrote_last_does_not_come_back(inherited: bool) -> None:
    """Its heirs have its journal. If they only said so, L2 would be believed about what it has forgotten."""
    found: dict[str, object] = {}

    async def scene(world: World, cache: Any) -> None:
        await cache.set_many(dict.fromkeys(_KEYS, "older"))
        await world.pause(_LONG_S)
        await cache.set_many(dict.fromkeys(_KEYS, "newer"))
        await by_nobody(world.stop_node("n1"))
        await fail_over(world, len(_KEYS))
        found.update(await cache.get_many(_KEYS))

    with ExitStack() as stack:
        if not inherited:
            swap(stack, L2Tier, "inherit", lambda *_: True)
        world = play(scene, stack)
        assert ("older" in found.values()) is not inherited
        assert floors(world) == [0, 0]


async def by_nobody(step: Awaitable[None]) -> None:
    """Take a step that is nobody's: no process does it."""
    token = HOST.set(None)
    try:
        await step
    finally:
        HOST.reset(token)
