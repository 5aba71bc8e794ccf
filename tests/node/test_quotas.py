"""Quotas of a namespace on a node: what is evicted, what is refused, and what is not asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cachenode.adapters.l2_memory import MemoryL2
from cachenode.core.entries import Batch, Operation
from cachenode.core.policy import NamespacePolicy
from cachenode.node.namespaces import Namespace
from cachenode.node.service import Node
from cachenode_api.reasons import Reason
from cachenode_api.version import ABSENT_VERSION
from tests.support.clock import ManualClock
from tests.support.cluster import fetch, new_node, put, run


def new(*, l2: bool = False, **fields: Any) -> tuple[Node, Namespace]:
    clock = ManualClock()
    policy = NamespacePolicy("n", 60.0, 5_000, l2=l2, share=1, **fields)
    node = new_node("a", clock, policies=[policy], l2=MemoryL2(clock) if l2 else None)
    namespace = node.namespaces.get("n")
    assert namespace is not None
    return node, namespace


async def set_many(node: Node, *keys: bytes, size: int = 10) -> dict[int, Reason]:
    result = await run(node, Batch(Operation.SET, "n", list(keys), [bytes(size)] * len(keys)))
    return {at: failure.reason for at, failure in result.failures.items()}


async def test_entries_of_the_namespace_go_first() -> None:
    """Beyond its quota a namespace gives, whatever room there is, and no other namespace does."""
    node, namespace = new(max_keys=5)
    await put(node, b"other", b"v")
    assert await set_many(node, *(b"%d" % number for number in range(20))) == {}
    assert (len(namespace.store), await fetch(node, b"other")) == (5, b"v")
    assert namespace.quota is not None
    assert (namespace.quota.evictions, namespace.store.evictions) == (15, 15)


async def test_bytes() -> None:
    """The size counts as memory counts it, bookkeeping included."""
    node, namespace = new(max_bytes=64 << 10)
    for number in range(40):
        await set_many(node, b"%d" % number, size=4_000)
        assert namespace.store.used_bytes <= 64 << 10
    assert 10 < len(namespace.store) < 40


async def test_new_keys_are_refused() -> None:
    """Those that do not fit fail, one by one; what is there can be overwritten, counted and removed."""
    node, namespace = new(max_keys=2, quota="refuse")
    assert await set_many(node, b"a", b"b", b"c", b"a") == {2: Reason.QUOTA_EXCEEDED}
    assert await set_many(node, b"a", b"b") == {}
    batch = Batch(Operation.INCR, "n", [b"counter"], deltas=[1])
    assert (await run(node, batch)).failures[0].reason is Reason.QUOTA_EXCEEDED
    batch = Batch(Operation.SET, "n", [b"new"], [b"v"], if_versions=[ABSENT_VERSION])
    failure = (await run(node, batch)).failures[0]
    assert failure.reason is Reason.QUOTA_EXCEEDED
    assert failure.detail == "max_keys: 3 keys would exceed the namespace's quota of 2 a node"
    assert namespace.quota is not None
    assert (namespace.quota.refusals, namespace.quota.evictions, len(namespace.store)) == (3, 0, 2)
    await run(node, Batch(Operation.DELETE, "n", [b"a"]))
    assert await set_many(node, b"new") == {}
    assert node.failures[Reason.QUOTA_EXCEEDED] == 3


async def test_loaded_value_is_handed_out_and_not_kept() -> None:
    """Those who wait get it; the next one loads again."""
    node, _ = new(max_keys=1, quota="refuse")
    await set_many(node, b"a")
    lent = await run(node, Batch(Operation.LEASE, "n", [b"k"], lease_s=5.0))
    done = await run(node, Batch(Operation.FULFILL, "n", [b"k"], [b"v"], tokens=lent.tokens))
    assert (done.versions, done.failures) == ([0], {})
    assert await fetch(node, b"k", "n") is None
    assert await fetch(node, b"a", "n") is not None


async def test_what_comes_from_l2_pushes_out() -> None:
    """It has been accepted before: the quota is kept, and nobody is refused."""
    node, namespace = new(l2=True, max_keys=2, quota="refuse")
    await set_many(node, b"a", b"b")
    namespace.store.clear()
    await set_many(node, b"c", b"d")
    assert [await fetch(node, key, "n") for key in (b"a", b"b", b"c", b"d")] == [bytes(10)] * 4
    assert len(namespace.store) == 2


async def test_quota_changes_while_the_node_runs() -> None:
    """It holds from the next write on, its counters go on, and it may end."""
    node, namespace = new(max_keys=5)
    await set_many(node, *(b"%d" % number for number in range(6)))
    policy = namespace.policy
    node.namespaces.adopt(replace(policy, max_keys=2), 1, 0.0)
    await set_many(node, b"more")
    assert namespace.quota is not None
    assert (len(namespace.store), namespace.quota.evictions) == (2, 5)
    node.namespaces.adopt(replace(policy, max_keys=None), 2, 0.0)
    assert await set_many(node, *(b"%d" % number for number in range(9))) == {}
    assert namespace.quota is None
    assert len(namespace.store) >= 9
