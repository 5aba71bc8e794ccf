"""The keys that are read most on a node, and the largest values in its memory."""

from __future__ import annotations

import random

import pytest

from cachenode.core.entries import Batch, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.node.key_sizes import BigKey, biggest_keys
from cachenode.node.service import Node
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, fetch, new_node, owned_by, put, run, view_of


def policy(name: str, **fields: float) -> NamespacePolicy:
    return NamespacePolicy(name, 60.0, 1 << 20, l2=False, share=1, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("space", ["n", "adaptive"])
async def test_hot_key_is_found(space: str) -> None:
    """Also where each read is looked at anyway, over single reads and batches, hits and misses."""
    random.seed(7)
    clock = ManualClock()
    policies = [policy("n"), policy("adaptive", adaptive_ttl=True)]
    node = new_node("a", clock, policies=policies)
    await put(node, b"hot", b"v", namespace=space)
    for number in range(6_000):
        clock.advance(0.01)
        await fetch(node, b"hot", space)
        await run(node, Batch(Operation.GET, space, [b"cold-%d" % (number * 3 + at) for at in range(3)]))
    hottest, reads_per_s = node.hottest(3)
    assert hottest[0].key == (space, b"hot")
    assert reads_per_s == pytest.approx(400, rel=0.15)
    assert hottest[0].per_s == pytest.approx(100, rel=0.35)
    assert node.hottest(5, "default")[0] == []
    assert len(node.hottest(2, space)[0]) == 2


async def test_short_way_is_taken_but_for_samples() -> None:
    """A single read leaves its short way once in a while, and comes back to it."""
    node = new_node("a", ManualClock())
    await put(node, b"k", b"v")
    short = 0
    for _ in range(2_000):
        found = bool(node.hit("default", b"k")[0])
        short += found
        if not found:
            assert await fetch(node, b"k") == b"v"
    assert 1_950 < short < 2_000
    assert node.hottest(1)[0][0].key == ("default", b"k")


async def test_other_nodes_keys_are_their_owners_to_count() -> None:
    """A node that only passes reads on does not list their keys; their owner does."""
    clock, peers, view = ManualClock(), DirectPeers(), view_of(1, "a", "b")
    node, owner = (new_node(name, clock, peers=peers, view=view) for name in ("a", "b"))
    (key,) = owned_by(view, "b")
    for _ in range(500):
        await fetch(node, key)
    assert node.hottest(5)[0] == []
    assert [each.key for each in owner.hottest(5)[0]] == [("default", key)]


async def test_policy_that_ends_leaves_samples_alone() -> None:
    """When no policy looks at each read any more, one in a hundred or so is looked at."""
    clock = ManualClock()
    node = new_node("a", clock, policies=[policy("n", adaptive_ttl=True)])
    node.namespaces.adopt(policy("n"), 1, clock.now())
    await put(node, b"k", b"v", namespace="n")
    for _ in range(300):
        await fetch(node, b"k", "n")
    namespace = node.namespaces.get("n")
    assert namespace is not None
    assert namespace.look_at == namespace.sample_at > namespace.l1_hits - 300


async def filled(node: Node) -> None:
    for number in range(2_500):
        await put(node, b"%d" % number, bytes(number), namespace="n")
    await put(node, b"other", bytes(2_499), ttl_ms=5_000)


async def test_biggest_values() -> None:
    """Of all namespaces or one, the largest first, however many entries there are; what has expired is none."""
    clock = ManualClock()
    node = new_node("a", clock, policies=[policy("n")])
    assert await biggest_keys(node, 5) == []
    await filled(node)
    found = await biggest_keys(node, 3)
    assert found == [
        BigKey(2_499, "n", b"2499", 60.0),
        BigKey(2_499, "default", b"other", 5.0),
        BigKey(2_498, "n", b"2498", 60.0),
    ]
    assert [each.key for each in await biggest_keys(node, 2, "default")] == [b"other"]
    clock.advance(6)
    assert [each.key for each in await biggest_keys(node, 2)] == [b"2499", b"2498"]
