from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cachenode.core.entries import Batch, BatchResult, Failure, Operation
from cachenode.core.failures import LATE, failed
from cachenode.core.policy import NamespacePolicy
from cachenode.node.service import Node, part_of
from cachenode_api.reasons import Reason
from cachenode_api.view import View
from tests.support.clock import ManualClock
from tests.support.cluster import SEED, DirectPeers, fetch, member, new_node, owned_by, put, run, view_of


class SlowPeers(DirectPeers):
    """Peers that do not answer until the test lets them."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def forward(self, owner: str, batch: Batch) -> BatchResult:
        await self.go.wait()
        return await super().forward(owner, batch)


def pair(peers: DirectPeers) -> tuple[Node, Node, View]:
    """Return two nodes of one view."""
    clock, view = ManualClock(), view_of(1, "a", "b")
    a = new_node("a", clock, peers=peers, view=view)
    b = new_node("b", clock, peers=peers, view=view)
    return a, b, view


async def test_hits_are_answered_at_once() -> None:
    """What is in memory is answered before `execute` returns, and nothing is left to await."""
    node = new_node("a", ManualClock())
    await put(node, b"k", b"v")
    parts: list[BatchResult] = []
    assert node.execute(Batch(Operation.GET, "default", [b"k"]), parts.append) is None
    assert len(parts) == 1


async def test_hits_do_not_wait_for_other_keys() -> None:
    """Of a batch with keys of a slow peer the own ones are answered at once, the others when they come."""
    peers = SlowPeers()
    a, b, view = pair(peers)
    (own,), (away,) = owned_by(view, "a"), owned_by(view, "b")
    await put(a, own, b"1")
    await put(b, away, b"2")
    parts: list[BatchResult] = []
    rest = a.execute(Batch(Operation.GET, "default", [away, own]), parts.append)
    assert rest is not None
    assert [list(part.indices or ()) for part in parts] == [[1]]
    peers.go.set()
    await rest
    assert [list(part.indices or ()) for part in parts] == [[1], [0]]
    assert a.forwarded == 1


async def test_operations_are_timed_until_they_are_answered() -> None:
    """What memory answers and what has to wait are told apart; a forwarded batch counts where the client is."""
    peers = SlowPeers()
    a, b, view = pair(peers)
    (own,), (away,) = owned_by(view, "a"), owned_by(view, "b")
    rest = a.execute(Batch(Operation.GET, "default", [away, own]), lambda _: None)
    assert rest is not None
    assert isinstance(a.clock, ManualClock)
    a.clock.advance(0.3)
    peers.go.set()
    await rest
    counted = {(each.operation, each.cache_layer): each for each in a.durations.counters()}
    assert counted["get", "l1"].within[0] == 1
    assert counted["get", "l2"].within[-3:] == (1, 1, 1)
    assert counted["get", "l2"].within[-4] == 0
    assert counted["get", "l2"].seconds == pytest.approx(0.3)
    assert b.durations.counters() == ()


@pytest.mark.parametrize("operation", list(Operation))
async def test_unknown_namespace_is_refused_per_key(operation: Operation) -> None:
    """A name that is no namespace's fails each key, and is counted."""
    node = new_node("a", ManualClock())
    values = [b"v"] * 2 if operation is Operation.SET else []
    result = await run(node, Batch(operation, "no such!", [b"a", b"b"], values))
    assert [failure.reason for failure in result.failures.values()] == [Reason.UNKNOWN_NAMESPACE] * 2
    assert node.failures[Reason.UNKNOWN_NAMESPACE] == 2


async def test_node_outside_its_view_is_not_ready() -> None:
    """A node that is not in the view answers nothing, for clients and peers alike."""
    node = new_node("a", ManualClock(), view=View(1, SEED, (member("b"),)))
    assert await fetch(node, b"k") is Reason.NOT_READY
    result = await run(node, Batch(Operation.GET, "default", [b"k"]), from_peer=True)
    assert result.failures[0].reason is Reason.NOT_READY
    assert node.failures[Reason.NOT_READY] == 2


async def test_late_part_is_answered_with_the_reason() -> None:
    """A peer that does not answer within the caller's time costs only its own keys."""
    peers = SlowPeers()
    a, _, view = pair(peers)
    (own,), away = owned_by(view, "a"), owned_by(view, "b", 2)
    result = await run(a, Batch(Operation.GET, "default", [own, *away], timeout_s=0.02))
    assert {at: failure.reason for at, failure in result.failures.items()} == dict.fromkeys(
        (1, 2), Reason.DEADLINE_EXCEEDED
    )
    assert a.failures[Reason.DEADLINE_EXCEEDED] == 2


async def test_own_limit_holds_for_callers_without_one() -> None:
    """A caller that names no time limit, or a longer one, waits no longer than the node's own."""
    peers = SlowPeers()
    a, _, view = pair(peers)
    a._call_timeout_s = 0.02
    (away,) = owned_by(view, "b")
    for timeout_s in (0.0, 3_600.0):
        result = await asyncio.wait_for(run(a, Batch(Operation.GET, "default", [away], timeout_s=timeout_s)), 10)
        assert result.failures[0] == LATE


async def test_peers_batch_is_not_forwarded() -> None:
    """A peer's batch for a third member's key fails with NOT_OWNER."""
    peers = DirectPeers()
    a, _, view = pair(peers)
    (away,) = owned_by(view, "b")
    result = await run(a, Batch(Operation.GET, "default", [away]), from_peer=True)
    assert result.failures[0].reason is Reason.NOT_OWNER
    assert peers.forwards == []


async def test_namespaces_without_l2() -> None:
    """A namespace that does not use the shared store has none."""
    from cachenode.adapters.l2_memory import MemoryL2

    clock = ManualClock()
    policy = NamespacePolicy(name="local", ttl_s=60.0, max_value_bytes=1_000, l2=False, share=1.0)
    node = new_node("a", clock, l2=MemoryL2(clock), policies=[policy])
    local, default = node.namespaces.get("local"), node.namespaces.get("default")
    assert local is not None
    assert default is not None
    assert node.l2_for(local) is None
    assert node.l2_for(default) is node.tier


def test_keys_are_split_by_owner() -> None:
    """Each key goes to its owner, in the order of the batch; a node alone keeps all."""
    a, _, view = pair(DirectPeers())
    own, away = owned_by(view, "a", 2), owned_by(view, "b", 2)
    keys = [away[0], own[0], away[1], own[1]]
    assert a.split(keys, range(4)) == ([1, 3], {"b": [0, 2]})
    assert a.split(keys, [0, 1]) == ([1], {"b": [0]})
    alone = new_node("c", ManualClock())
    assert alone.split(keys, range(4)) == ([0, 1, 2, 3], {})


@pytest.mark.parametrize(
    ("ttls_ms", "expected"), [([10, 20, 30], [10, 30]), ([10], [10]), ([], [])], ids=["each", "one for all", "none"]
)
def test_part_of_a_batch_keeps_its_columns(ttls_ms: list[int], expected: list[int]) -> None:
    """A part has the columns of its keys; one TTL for all stays one for all."""
    whole = Batch(Operation.SET, "users", [b"a", b"b", b"c"], [b"1", b"2", b"3"], [1, 2, 3], ttls_ms, 0.5)
    part = part_of(whole, [0, 2])
    assert part == Batch(Operation.SET, "users", [b"a", b"c"], [b"1", b"3"], [1, 3], expected or (), 0.5)
    assert part_of(Batch(Operation.GET, "users", [b"a", b"b"]), [1]).values == ()


def test_part_of_a_single_key_batch() -> None:
    """A batch of one key with one TTL keeps it."""
    part = part_of(Batch(Operation.TOUCH, "users", [b"a"], ttls_ms=[7]), [0])
    assert part.ttls_ms == [7]


def test_failed_fits_the_operation() -> None:
    """A failure of reads has empty records, one of writes has no versions; each key has its reason."""
    late: Any = Failure(Reason.DEADLINE_EXCEEDED)
    read = failed(Batch(Operation.GET, "n", [b"a", b"b"]), {1: late})
    assert (read.indices, read.records, read.versions, read.failures) == ([1], [b""], (), {0: late})
    write = failed(Batch(Operation.DELETE, "n", [b"a"]), {0: late})
    assert (write.records, write.versions) == ((), [0])


async def test_repr_names_no_keys() -> None:
    """What a log shows of a node is its id, epoch and size."""
    node = new_node("a", ManualClock())
    await put(node, b"secret", b"v")
    assert repr(node).startswith("<Node a epoch=1 used=")
    assert "secret" not in repr(node)
