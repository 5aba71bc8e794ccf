"""What this node knows about one key: who acts for it, where its value is, and what stands in the way.

For people who wonder why a read finds what it finds. Nothing here changes anything: no hit is counted, no copy is made.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Literal

from cachenode.core.demand import Wanted
from cachenode.core.entries import L2Entry
from cachenode.node.l2_tier import Belief
from cachenode_api.errors import InvalidTags
from cachenode_api.records import EXTENDED, HEADER, HEADER_BYTES, STALE, TAGGED
from cachenode_api.selectors import Selector
from cachenode_api.tags import split_tags

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node

__all__ = ["Explanation", "HeldEntry", "UnderWay", "explain"]

L1State = Literal["", "served", "stale", "moved", "barred"]
L2State = Belief | Literal["stale", "off"]


@dataclass(frozen=True, slots=True)
class HeldEntry:
    """An entry without its value.

    Attributes:
        version: Orders the writes of the key.
        ttl_s: Remaining life, infinite if it does not expire.
        size: Bytes of the value, without tags.
        tags: Its tags.
        position: L2: of the namespace's barriers when its write or load began.
    """

    version: int
    ttl_s: float
    size: int
    tags: tuple[bytes, ...] = ()
    position: int = 0


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A load under way.

    Attributes:
        lease_s: After so long another caller may load.
        waiting: Who waits for the value.
        storable: Whether what it brings may be stored; a stand-in for the owner stores nothing.
    """

    lease_s: float
    waiting: int
    storable: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one node knows about a key.

    Attributes:
        owner: Id of the owner under the view in force, empty before the first.
        ready: Whether this node is in the view.
        fenced: Whether its ownership lease is over.
        gained: Whether it owns the key while another may still act for it.
        lease_s: Remaining ownership lease; infinite if there is nobody to be fenced against.
        l1: What memory holds.
        l1_state: Empty if that is nothing; "moved" and "barred" only wait for being removed; "stale" is past its TTL
            or was expired, and served, marked, for the rest of its life.
        l2: What L2 holds, if it could be read.
        l2_state: Whether that is believed, also if it is "stale", or why not.
        barriers: Those that cover the key or a tag of its value, whenever they came.
        expiries: The same for what only expires what it covers.
        floor: All that began below this position is untrue.
        near_holders: Sessions that may hold a copy under a live lease.
        loads: Loads under way.
        load_pause_s: For so long no load may begin, because the last one failed.
        writing: Version of the newest write on its way to L2, 0 if none.
        changing: Writes and removals under way.
        tombstone: Version under which the key was removed lately, 0 if it was not.
        origin: Name of the origin that nodes load its value from; empty if there is none.
        absent_s: For so long it is believed that the origin has nothing for the key; None if that is not believed.
        loads_itself: Whether the node loads the key now, from the origin.
        loads_from: Region whose origin is asked, since it has a change which this one's may lack; empty: none is.
        marked_s: For so long.
        wanted: How much it is asked for, and the life that follows; None where that is not counted.
        admit_after: How often it must be asked for for a loaded value to be kept; 0 where that does not matter.
        depends_on: Of the owner: what the value depends on, with whether it names that itself.
        dependents: Of the owner: how many entries depend on the key.
    """

    owner: str
    ready: bool
    fenced: bool
    gained: bool
    lease_s: float
    l1: HeldEntry | None
    l1_state: L1State
    l2: HeldEntry | None
    l2_state: L2State
    barriers: tuple[tuple[int, Selector], ...]
    floor: int
    near_holders: int
    loads: tuple[UnderWay, ...]
    load_pause_s: float
    writing: int
    changing: int
    tombstone: int
    origin: str = ""
    absent_s: float | None = None
    loads_itself: bool = False
    wanted: Wanted | None = None
    admit_after: int = 0
    depends_on: tuple[tuple[bytes, bool], ...] = ()
    dependents: int = 0
    expiries: tuple[tuple[int, Selector], ...] = ()
    loads_from: str = ""
    marked_s: float = 0.0


async def explain(node: Node, namespace: Namespace, key: bytes) -> Explanation:
    """Return what a node knows about a key. L2 is read as it would be for a read of the key."""
    tier, placement = node.l2_for(namespace), node.placement
    l2_state: L2State = "off"
    entry: L2Entry | None = None
    if tier is not None:
        l2_state, entry = await tier.look(namespace.policy.name, key)
    now = node.clock.now()
    if entry is not None and l2_state == "believed":
        served = namespace.judge(key, entry, now)
        if served is not None and served.flags & STALE:
            entry, l2_state = served, "stale"
    mark = namespace.markers.of(key, (), now) if namespace.markers is not None else None
    record: bytes | None = namespace.store.peek(key, now)
    l1, l2 = _of_record(record, now), _of_entry(entry)
    tags = {tag for held in (l1, l2) if held is not None for tag in held.tags}
    return Explanation(
        owner=placement.owner(key) or "",
        ready=placement.ready,
        fenced=placement.fenced(now),
        gained=placement.unsettled and placement.gained(key),
        lease_s=max(0.0, placement.lease_until - now),
        l1=l1,
        l1_state=_l1_state(node, namespace, key, record, now),
        l2=l2,
        l2_state=l2_state,
        barriers=_covering(namespace.barriers.barriers(), key, list(tags)),
        expiries=_covering(namespace.expiries.barriers(), key, list(tags)),
        floor=namespace.barriers.floor,
        near_holders=sum(holder.until > now for holder in namespace.exposure.of(key)),
        loads=_under_way(node, namespace, key, now),
        load_pause_s=namespace.load_backoff.left_s(key, now),
        writing=namespace.writing.get(key, 0),
        changing=namespace.changing.get(key, 0),
        tombstone=namespace.tombstones.version_of(key, now),
        origin=namespace.origin.name if namespace.origin is not None else "",
        absent_s=namespace.negatives.left_s(key, now) if namespace.absent(key, now) else None,
        loads_itself=any(flight.holder is node.read_through for flight in namespace.flights.about(key)),
        loads_from=mark.region if mark is not None else "",
        marked_s=mark.until - now if mark is not None else 0.0,
        wanted=namespace.wanted(key, now),
        admit_after=namespace.policy.admit_after if namespace.policy.admit_after > 1 else 0,
        depends_on=tuple(
            (parent, at < link.direct)
            for link in (namespace.links.of(key) if namespace.links is not None else ())
            for at, parent in enumerate(link.parents)
        ),
        dependents=namespace.dependents.count(key) if namespace.dependents is not None else 0,
    )


def _under_way(node: Node, namespace: Namespace, key: bytes, now: float) -> tuple[UnderWay, ...]:
    found = [
        UnderWay(max(0.0, flight.deadline - now), len(flight.waiting), flight.attached)
        for flight in namespace.flights.about(key)
    ]
    lent = node.stand_ins.under_way((namespace.policy.name, key))
    if lent is not None:
        found.append(UnderWay(max(0.0, lent.deadline - now), len(lent.sharing), storable=False))
    return tuple(found)


def _of_record(record: bytes | None, now: float) -> HeldEntry | None:
    if record is None:
        return None
    _, flags, version, deadline = HEADER.unpack_from(record)
    tags, size = _tags_and_size(record[HEADER_BYTES:], flags)
    return HeldEntry(version, deadline - now, size, tags)


def _of_entry(entry: L2Entry | None) -> HeldEntry | None:
    if entry is None:
        return None
    tags, size = _tags_and_size(entry.value, entry.flags)
    return HeldEntry(entry.version, max(0.0, entry.ttl_s), size, tags, entry.position)


def _tags_and_size(value: bytes, flags: int) -> tuple[tuple[bytes, ...], int]:
    if flags & TAGGED:
        with contextlib.suppress(InvalidTags):  # damaged in L2: never believed
            tags, rest = split_tags(value)
            return tags, len(rest)
    return (), len(value)


def _l1_state(node: Node, namespace: Namespace, key: bytes, record: bytes | None, now: float) -> L1State:
    if record is None:
        return ""
    if node.mover.moving and not node.mover.kept(key):
        return "moved"
    until = namespace.sweep.until(key, record) if namespace.sweep.active else math.inf
    if until <= now:
        return "barred"
    return "served" if until == math.inf and now < _soft_end(namespace, key, record) else "stale"


def _soft_end(namespace: Namespace, key: bytes, record: bytes) -> float:
    """Return when an entry's TTL ends, after which it is served as stale; infinite if it is served until its end."""
    _, flags, version, deadline = HEADER.unpack_from(record)
    if flags & STALE:
        return -math.inf
    known: float = namespace.renewals.ends(key, version)[1] if namespace.renewals is not None else math.inf
    if flags & EXTENDED and math.isinf(known):
        known = deadline - namespace.policy.stale_s
    return known


def _covering(
    known: Sequence[tuple[int, Selector]], key: bytes, tags: Sequence[bytes]
) -> tuple[tuple[int, Selector], ...]:
    return tuple(barrier for barrier in sorted(known, key=itemgetter(0)) if barrier[1].covers(key, tags))
