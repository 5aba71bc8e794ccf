"""What a node needs from the world, as protocols, whose forms (real, memory, chaos) pass one contract suite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from cachenode.core.entries import Batch, BatchResult, L2Entry, L2Write, Loaded, QueuedWrite, SinkWrite
from cachenode.core.live_policy import LivePolicy
from cachenode.core.queued import DeadLetter, Fetched, Put, QueueStatus
from cachenode.core.regions import Cursor, Outgoing, RegionEntry, Shipment
from cachenode.errors import OriginError
from cachenode_api.selectors import Selector
from cachenode_api.view import Member, View

__all__ = [
    "LOST_HISTORY_STRIDE",
    "Clock",
    "Copies",
    "L2Store",
    "Loader",
    "PeerEvents",
    "Peers",
    "PolicyStore",
    "RegionLink",
    "RegionStore",
    "Registry",
    "Renewal",
    "Sink",
    "WriteQueue",
]


class Clock(Protocol):
    """Time that only moves forward, also while the machine is suspended (CLOCK_BOOTTIME)."""

    def now(self) -> float:
        """Return seconds since an arbitrary point."""


class L2Store(Protocol):
    """The store shared by all nodes.

    `history` rises when the store may have forgotten what it had acknowledged: another server answers, or the same one
    began anew. A result that came with a change of it is not to be believed.

    Every method raises `L2Unavailable` if the store does not answer within the adapter's own time limit, and nothing
    else. Calls of one turn of the event loop share a round trip.
    """

    @property
    def history(self) -> int:
        """How often this process has seen the store's history end."""

    async def read(self, namespace: str, keys: Sequence[bytes]) -> list[L2Entry | None]:
        """Return the live entry of each key, None where there is none."""

    async def write(self, namespace: str, writes: Sequence[L2Write]) -> list[bool]:
        """Store each value whose version is higher than the stored one's (a tombstone's counts too).

        Returns:
            For each write, False if a version as high or higher was there, so nothing changed.
        """

    async def prolong(self, namespace: str, lives: Sequence[tuple[bytes, int, float]]) -> list[bool]:
        """Let values live longer: each (key, version, seconds from now on) that is still there in that version.

        Returns:
            For each, True if its end is later now. None becomes earlier.
        """

    async def drop(self, namespace: str, drops: Sequence[tuple[bytes, int]]) -> list[bool]:
        """Remove each (key, version) whatever version it has, leaving a tombstone that refuses older writes a while.

        The tombstone carries the higher of the given and the stored version.

        Returns:
            For each key, True if a live value was removed.
        """

    async def note_barriers(self, namespace: str, barriers: Sequence[tuple[int, Selector]]) -> None:
        """Keep barriers, each with its position, until a newer one of the same selector takes its place."""

    async def barriers(self) -> list[tuple[str, int, Selector]]:
        """Return all barriers that are kept: namespace, position, selector. Old ones may have become wider."""

    async def lock(self, namespace: str, key: bytes, token: bytes, ttl_s: float) -> bool:
        """Take the lock of a key, or prolong it, so that it ends in `ttl_s` unless it is prolonged again.

        A lock is no value, and no value is a lock: the key itself may have one, or none.

        Args:
            namespace: Of the key.
            key: Whose lock.
            token: Says who has it; nobody else uses the same.
            ttl_s: Its life.

        Returns:
            True if `token` has the lock now, False if another has it.
        """

    async def unlock(self, namespace: str, key: bytes, token: bytes) -> bool:
        """Give the lock of a key back, if `token` still has it. Return True if it had."""

    async def keys(self, namespace: str, cursor: int = 0) -> tuple[list[bytes], int]:
        """Return some keys of a namespace, and the cursor to go on with: 0 at the end.

        Keys that have a value during the whole walk are returned at least once. Others may be among them.
        """

    async def ping(self) -> None:
        """Return if the store answers."""

    async def close(self) -> None:
        """Give back connections. Safe to call twice."""


LOST_HISTORY_STRIDE = 100
"""By so much a registry that has lost its history raises the epoch that a member knows."""


class Renewal(NamedTuple):
    """What a registry says to a member that renews its lease.

    Attributes:
        view: The view in force.
        replaced: True if another incarnation of the member had a lease that is not over, or may have had: the answer
            to an earlier call was lost.
    """

    view: View
    replaced: bool = False


class Registry(Protocol):
    """Where members meet. Every method raises `RegistryError` if the registry cannot be reached."""

    async def renew(self, member: Member, known: View | None) -> Renewal:
        """Join, or renew the member's lease, and return the view in force.

        Expired members leave at this moment. The epoch rises when the member set (ids, incarnations,
        addresses, weights) changes or history was lost, and is always above that of `known` if the set differs from
        it; a registry that has lost its history takes the members of `known` over with fresh leases rather than
        starting a cluster of one.

        Raises:
            RegistryError: It cannot be reached, or a live member with the same id and another incarnation exists at
                another address (a twin).
        """

    async def leave(self, member: Member) -> View | None:
        """End the member's lease now. Does nothing if it has none or another incarnation took its place.

        Returns:
            The view without it, None if that is not known.
        """

    async def close(self) -> None:
        """Give back connections. Safe to call twice."""


class Peers(Protocol):
    """The links to the other nodes."""

    async def forward(self, owner: str, batch: Batch) -> BatchResult:
        """Let the owner execute a batch and return its results for all keys, in order.

        Raises:
            PeerUnavailable: There is no link to the owner, it was lost, or the batch's time limit passed.
        """


class Loader(Protocol):
    """Reads an origin. Which keys to ask for, when and how often is not its business (`cachenode.node.origins`)."""

    @property
    def most_keys(self) -> int:
        """How many keys one call may ask for."""

    async def load(self, keys: Sequence[bytes]) -> Sequence[Loaded | OriginError | None]:
        """Return for each key what the origin has, None where it has nothing, or why that cannot be told.

        Raises:
            OriginError: None of them can be told.
        """

    @property
    def enumerates(self) -> bool:
        """True if it can list the keys of the origin."""

    def enumerate(self) -> AsyncIterator[bytes]:
        """Yield the key of everything that the origin has, each at least once, in any order.

        What comes or goes meanwhile may be missed, or yielded all the same.

        Raises:
            OriginError: The keys cannot be listed, or no more of them; or it `enumerates` none.
        """

    async def close(self) -> None:
        """Give back connections. Safe to call twice."""


class Sink(Protocol):
    """Writes an origin. Which writes it gets, when and how often is not its business.

    It may get the same write twice, so it must not add up; and of one key it gets one write at a time, in order.
    """

    @property
    def most_writes(self) -> int:
        """How many writes one call may bring, of as many keys."""

    async def write(self, writes: Sequence[SinkWrite]) -> Sequence[OriginError | None]:
        """Write, and return for each None once the origin has it, or why it has not.

        Raises:
            OriginError: The same for all of them; its `maybe_done` says whether some may have been done.
        """

    async def close(self) -> None:
        """Give back connections. Safe to call twice."""


class PolicyStore(Protocol):
    """Keeps the settings that were changed while the cluster runs, for nodes that come later.

    Every method raises `RegistryError` if the store cannot be reached or holds something else.
    """

    async def read(self) -> Mapping[str, LivePolicy]:
        """Return all that is kept, by namespace."""

    async def put(self, namespace: str, policy: LivePolicy) -> LivePolicy:
        """Keep a change, unless a newer one is kept. Return the one that is kept now."""

    async def close(self) -> None:
        """Give back connections. Safe to call twice."""


class WriteQueue(Protocol):
    """Where acknowledged writes wait for their origin (`cachenode.core.queued`).

    A shard has one *consumer* at a time, under a lease: what another one says about it is refused. A lease is no
    promise that a former consumer has stopped (it may be frozen in the middle of a call), so an origin should look at
    versions.

    Every method but `put` raises `L2Unavailable` if the queue does not answer in time, and nothing else.
    """

    @property
    def carries_values(self) -> bool:
        """Whether `put` brings values to the shared store too, in the same step: both are on one server."""

    async def put(self, namespace: str, writes: Sequence[QueuedWrite], most: int) -> list[Put]:
        """Queue writes, each if it is newer than what is queued of its key (and stored, if `carries_values`).

        Args:
            namespace: Of the keys.
            writes: Of different keys.
            most: Keys that may wait. Another write of a key that waits already is always taken.

        Returns:
            For each what became of it. One that counts as queued is as safe as the durability asked for says.
        """

    async def newest(self, namespace: str, keys: Sequence[bytes], most_bytes: int = 0) -> list[QueuedWrite | None]:
        """Return the queued write of each key, None where there is none.

        Args:
            namespace: Of the keys.
            keys: Which.
            most_bytes: Return fewer than asked for, but one, rather than more bytes than this; 0: all.
        """

    async def fetch(
        self, namespace: str, shard: int, consumer: str, *, lease_s: float, most: int, claim: bytes = b""
    ) -> Fetched:
        """Take a shard, or prolong its lease, and return entries that were not delivered before.

        Args:
            namespace: Of the shard.
            shard: Its number.
            consumer: Who asks; no other has the same name.
            lease_s: How long it then has the shard, counted from before the call.
            most: Entries that it takes; 0: none.
            claim: A cursor, at first ``0-0``: return what was delivered to whomever and is not done, instead.
        """

    async def done(
        self, namespace: str, shard: int, consumer: str, applied: Sequence[tuple[bytes, bytes, int]]
    ) -> list[bool] | None:
        """Take keys out of the queue whose write of a version the origin has: id of the entry, key and version of each.

        Returns:
            For each True if a newer write is queued, so that the key still waits under its entry; None if the shard is
            another consumer's, so that nothing was done.
        """

    async def bury(
        self, namespace: str, shard: int, consumer: str, dead: Sequence[tuple[bytes, bytes, int, int, str]]
    ) -> list[bool] | None:
        """As `done`, for writes that become dead letters: id, key, version, attempts and reason of each."""

    async def release(self, namespace: str, shard: int, consumer: str) -> None:
        """Give a shard back, if the consumer has it."""

    async def status(self, namespace: str) -> QueueStatus:
        """Return how much waits."""

    async def dead_letters(self, namespace: str, after: bytes, most: int) -> list[DeadLetter]:
        """Return dead letters in the order of their ids, those after an id (empty: from the first)."""

    async def replay(self, namespace: str, letters: Sequence[DeadLetter]) -> list[bool]:
        """Queue dead letters again, each unless a newer write of its key is queued. Either way it is one no more.

        Returns:
            For each True if it was queued.
        """

    async def discard(self, namespace: str, letters: Sequence[DeadLetter]) -> int:
        """Remove dead letters for ever. Return how many there were."""

    async def problems(self) -> list[str]:
        """Return why this queue cannot keep what it promises, for people; empty if it can."""

    async def close(self) -> None:
        """Give back connections. Safe to call twice."""


class RegionStore(Protocol):
    """What a region keeps of its links to others: its own outbox, and how far it has acted on those of others.

    The outbox is bounded: beyond that its oldest entries go, and who has not been told of them learns that they are
    missing. When the store has lost the outbox, or may have lost its end, the next one has another id.

    Every method raises `L2Unavailable` if the store does not answer in time, and nothing else.
    """

    async def append(self, entries: Sequence[RegionEntry]) -> None:
        """Add entries at the end of the outbox. If it raises, they may have been added all the same."""

    async def fetch(
        self, remote: str, sender: str, *, lease_s: float, after: Cursor | None, most: int
    ) -> Outgoing | None:
        """Take the link to another region, or prolong its lease, and return what is to be told there.

        Args:
            remote: Name of the other region.
            sender: Who asks; no other has the same name.
            lease_s: How long it then has the link.
            after: Up to where the other region has acted: what all regions have acted on is removed. None: not known.
            most: Entries to return, at least 1.

        Returns:
            What there is; None if another sender has the link.
        """

    async def release(self, remote: str, sender: str) -> None:
        """Give the link back, if the sender has it."""

    async def pause(self, remote: str, *, paused: bool) -> None:
        """Have nothing sent to a region any more, or again."""

    async def cursor(self, origin: str) -> Cursor | None:
        """Return up to where this region has acted on another's outbox, None if that is not known."""

    async def advance(self, origin: str, known: Cursor | None, to: Cursor) -> bool:
        """Move the cursor of another region's outbox, unless it is no more the one that is known.

        Returns:
            True if it was moved.
        """

    async def close(self) -> None:
        """Give back connections. Safe to call twice."""


class RegionLink(Protocol):
    """The way to another region. Every method raises `RegionUnavailable`, and nothing else but what it says."""

    async def position(self) -> Cursor | None:
        """Return up to where it has acted on this region's outbox, None if it does not know."""

    async def relay(self, shipment: Shipment) -> Cursor | None:
        """Let it act on a shipment; return where it is then."""

    async def load(self, namespace: str, key: bytes) -> Loaded | None:
        """Let it load a key from its origin, past its caches; return what that has, None if it has nothing.

        Raises:
            OriginError: It has answered that it cannot: `again` is False.
        """

    async def cached(self, namespace: str, key: bytes, most_bytes: int) -> Loaded | None:
        """Return what it has cached for a key, None if that is nothing, or larger than this."""

    async def close(self) -> None:
        """Give back connections. Safe to call twice."""


class Copies(Protocol):
    """Copies of hot keys of other nodes, kept under leases as a client's near cache keeps its own."""

    def find(self, namespace: str, key: bytes) -> bytes:
        """Return a copy that may be served now, its deadline on this node's clock; empty if there is none."""

    def want(self, owner: str, namespace: str, keys: Sequence[bytes]) -> None:
        """Get copies of an owner's keys, for some seconds. Returns at once; whether they come is uncertain."""


class PeerEvents(Protocol):
    """Who wants to know about the links. Called in the loop; must not block and must not raise."""

    def peer_up(self, peer: Member) -> None:
        """A link to a peer is up."""

    def peer_down(self, peer: Member) -> None:
        """The link to a peer is down."""

    def peer_view(self, peer: Member, view: View) -> None:
        """A peer has told its view."""

    def peer_alive(self, peer: Member, sent_at: float) -> None:
        """A peer has answered a heartbeat that this node sent at that time."""

    def peer_settled(self, peer: Member, epoch: int) -> None:
        """A peer acts under an epoch, with nothing left that it or its clients might serve from before."""

    def peer_leaving(self, peer: Member) -> None:
        """A peer leaves on purpose, with nothing left at all."""
