"""Whole nodes in one loop without gRPC: peers call each other directly, and every wait can be held by the test."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence

from cachenode.core.breaker import Breaker
from cachenode.core.entries import Batch, BatchResult, L2Entry, L2Write, Operation
from cachenode.core.memory import Memory
from cachenode.core.policy import NamespacePolicy
from cachenode.core.store import Store
from cachenode.core.versions import VersionSource
from cachenode.errors import PeerUnavailable
from cachenode.node.l2_tier import L2Tier
from cachenode.node.namespaces import Namespaces
from cachenode.node.origins import Origin
from cachenode.node.placement import Placement
from cachenode.node.service import Node
from cachenode.ports import Clock, L2Store
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER, HEADER_BYTES
from cachenode_api.selectors import Selector
from cachenode_api.view import Member, View

SEED = b"0123456789abcdef"


def member(name: str, incarnation: str = "1") -> Member:
    """Return a member with an address made from its name."""
    return Member(name, incarnation, f"{name}:7401")


def view_of(epoch: int, *names: str) -> View:
    """Return a view of the named members."""
    return View(epoch, SEED, tuple(member(name) for name in names))


class HeldL2:
    """An L2 whose calls wait at a gate: close `gate` to hold them, open it to let them go on.

    A held read has already taken its result when it is let go, like a reply that is late on the wire; a held write
    has not been done.
    """

    def __init__(self, inner: L2Store) -> None:
        self.inner = inner
        self.gate = asyncio.Event()
        self.gate.set()
        self.held = asyncio.Event()

    @property
    def history(self) -> int:
        return self.inner.history

    async def _wait(self) -> None:
        if not self.gate.is_set():
            self.held.set()
            await self.gate.wait()

    async def read(self, namespace: str, keys: Sequence[bytes]) -> list[L2Entry | None]:
        found = await self.inner.read(namespace, keys)
        await self._wait()
        return found

    async def write(self, namespace: str, writes: Sequence[L2Write]) -> list[bool]:
        await self._wait()
        return await self.inner.write(namespace, writes)

    async def prolong(self, namespace: str, lives: Sequence[tuple[bytes, int, float]]) -> list[bool]:
        await self._wait()
        return await self.inner.prolong(namespace, lives)

    async def drop(self, namespace: str, drops: Sequence[tuple[bytes, int]]) -> list[bool]:
        await self._wait()
        return await self.inner.drop(namespace, drops)

    async def note_barriers(self, namespace: str, barriers: Sequence[tuple[int, Selector]]) -> None:
        await self._wait()
        await self.inner.note_barriers(namespace, barriers)

    async def barriers(self) -> list[tuple[str, int, Selector]]:
        return await self.inner.barriers()

    async def lock(self, namespace: str, key: bytes, token: bytes, ttl_s: float) -> bool:
        await self._wait()
        return await self.inner.lock(namespace, key, token, ttl_s)

    async def unlock(self, namespace: str, key: bytes, token: bytes) -> bool:
        return await self.inner.unlock(namespace, key, token)

    async def keys(self, namespace: str, cursor: int = 0) -> tuple[list[bytes], int]:
        return await self.inner.keys(namespace, cursor)

    async def ping(self) -> None:
        await self.inner.ping()

    async def close(self) -> None:
        await self.inner.close()


class DirectPeers:
    """Peers in the same loop: `cut` are out of reach, `lost` fail after the request was sent.

    Attributes:
        settles: True if whoever gains keys under a view may serve them at once, as if all others had said that nothing
            is left; False if the nodes' own words go round.
    """

    def __init__(self, *, settles: bool = True) -> None:
        self.settles = settles
        self.nodes: dict[str, Node] = {}
        self.cut: set[str] = set()
        self.lost: set[str] = set()
        self.forwards: list[tuple[str, int]] = []

    def join(self, node: Node) -> None:
        """Let a node hear what the others say, and the others what it says."""
        placement = node.placement
        self.nodes[placement.me.id] = node

        def changed(former: View | None, view: View) -> None:
            for each in {*view.members, *(former.members if former else ())} if self.settles else ():
                placement.peer_settled(each.id, each.incarnation, view.epoch)

        def settled(epoch: int) -> None:
            for name, other in self.nodes.items():
                if other is not node and not self.cut & {name, placement.me.id}:
                    other.placement.peer_settled(placement.me.id, placement.me.incarnation, epoch)

        placement.listeners.insert(0, changed)
        placement.release_listeners.append(settled)

    async def forward(self, owner: str, batch: Batch) -> BatchResult:
        if owner in self.cut or owner not in self.nodes:
            raise PeerUnavailable("cut", sent=False)
        self.forwards.append((owner, len(batch.keys)))
        outcome = await run(self.nodes[owner], batch, from_peer=True)
        if owner in self.lost:
            raise PeerUnavailable("lost", sent=True)
        return outcome


def new_node(
    name: str,
    clock: Clock,
    *,
    incarnation: str = "1",
    l2: L2Store | None = None,
    peers: DirectPeers | None = None,
    policies: Sequence[NamespacePolicy] = (),
    max_bytes: int = 1 << 24,
    view: View | None = None,
    journal_limit: int = 100_000,
    hot_reads_per_s: int = 0,
    handover_bytes: int = 1 << 20,
    origins: Mapping[str, Origin] | None = None,
) -> Node:
    """Return a node of its own or of a cluster of direct peers."""
    peers = peers or DirectPeers()
    versions = VersionSource()
    tier = None
    if l2 is not None:
        breaker = Breaker(failures=3, retry_s=1.0)
        tier = L2Tier(l2, breaker, clock, journal_limit=journal_limit)
    default = NamespacePolicy(name="default", ttl_s=math.inf, max_value_bytes=1 << 20, l2=l2 is not None, share=1.0)
    placement = Placement(member(name, incarnation))
    node = Node(
        placement=placement,
        namespaces=Namespaces([default, *policies], Memory(max_bytes), new_store=Store, origins=origins),
        peers=peers,
        tier=tier,
        clock=clock,
        versions=versions,
        hot_reads_per_s=hot_reads_per_s,
        handover_bytes=handover_bytes,
    )
    node.stand_ins.gather_s = 0.0
    peers.join(node)
    placement.apply(view or View(1, SEED, (placement.me,)))
    if tier is not None:
        tier.must_adopt = False  # nothing was ordered before
    return node


async def run(node: Node, batch: Batch, *, from_peer: bool = False, holder: object = None) -> BatchResult:
    """Execute a batch and return the results of all its keys, in order."""
    count = len(batch.keys)
    is_get = batch.operation.gives_records
    records, versions, layers, tokens = [b""] * count, [0] * count, [0] * count, [0] * count
    failures = {}
    answered: list[int] = []
    now_s = 0.0
    hot = False

    def reply(part: BatchResult) -> None:
        nonlocal now_s, hot
        hot = part.hot
        now_s = part.now_s or now_s
        for at, index in enumerate(range(count) if part.indices is None else part.indices):
            answered.append(index)
            if is_get:
                records[index] = part.records[at]
                layers[index] = part.layers[at] if part.layers else 1
                tokens[index] = part.tokens[at] if part.tokens else 0
            else:
                versions[index] = part.versions[at]
            if at in part.failures:
                failures[index] = part.failures[at]

    rest = node.execute(batch, reply, from_peer=from_peer, holder=holder)
    if rest is not None:
        await rest
    assert sorted(answered) == list(range(count)), "each key is answered exactly once"
    return BatchResult(
        records=records if is_get else (),
        versions=() if is_get else versions,
        failures=failures,
        layers=layers if is_get else None,
        now_s=now_s,
        tokens=tokens if any(tokens) else (),
        hot=hot,
    )


async def put(node: Node, key: bytes, value: bytes, *, ttl_ms: int = 0, namespace: str = "default") -> BatchResult:
    """Set one key."""
    return await run(node, Batch(Operation.SET, namespace, [key], [value], [0], [ttl_ms]))


async def fetch(node: Node, key: bytes, namespace: str = "default") -> bytes | Reason | None:
    """Return one key's value, None if absent, the reason if it failed."""
    result = await run(node, Batch(Operation.GET, namespace, [key]))
    if result.failures:
        return result.failures[0].reason
    return result.records[0][HEADER_BYTES:] if result.records[0] else None


async def drop(node: Node, key: bytes) -> BatchResult:
    """Delete one key."""
    return await run(node, Batch(Operation.DELETE, "default", [key]))


async def touch(node: Node, key: bytes, ttl_ms: int) -> BatchResult:
    """Touch one key."""
    return await run(node, Batch(Operation.TOUCH, "default", [key], ttls_ms=[ttl_ms]))


def version_of(record: bytes) -> int:
    """Return a record's version."""
    version: int = HEADER.unpack_from(record)[2]
    return version


def owned_by(view: View, name: str, count: int = 1, prefix: str = "k") -> list[bytes]:
    """Return keys that a member owns under a view."""
    from cachenode_api.ring import Ring

    ring = Ring(view)
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        key = f"{prefix}{number}".encode()
        if ring.owner(key) == name:
            found.append(key)
        number += 1
    return found
