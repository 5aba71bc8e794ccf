"""Entries that depend on others, seen from their owner: it links them to their parents' owners before it stores them.

Who stores an entry with parents first tells each parent's owner (LINK), and learns what that parent depends on in its
turn: the entry is linked to all of it, so that a change of any of them is one step away. A parent that changes has its
owner order all its dependents removed, as keys (CASCADE, `Cascades`). Why not a barrier: dependents are known by name,
so a change costs neither a place in the barrier log nor a walk over memory, and entries carry nothing that a reader
would have to look at.

The shared store knows nothing of links. An entry from there that depends on others is believed only by the owner that
has its link: else a change may have been missed. So what depends on others does not survive its owner in L2, nor is it
handed over.

When a view comes, every link is made again at the parents that have moved, before this node gives its word for that
view: until then their new owners change nothing. What cannot be linked there is dropped.

Interleavings, each forced by a test in ``tests/node/test_linking.py``:

1. A parent changes between the link and the write: the writer sees that its link is untied, and removes what it has
   stored (``test_parent_that_changes_while_its_dependent_is_written``).
2. A parent changes while a dependent is loaded, which nobody knows yet: its owner remembers
   (``test_parent_that_changes_during_a_load``), or began to remember too late
   (``test_load_from_before_changes_were_noted_is_not_kept``). Who has joined the load may have done so after the
   change, and looks again (``test_who_joins_a_load_after_a_change_looks_again``; the simulation found this).
3. A parent moves: its new owner knows the dependents before it acts (``test_parent_that_moves_keeps_its_dependents``).
4. The owner of a dependent is lost: its successor does not believe L2 (``test_dependent_in_l2_of_a_lost_owner``).
5. The parent's owner cannot be reached: nothing is stored (``test_owner_of_a_parent_out_of_reach``).
6. The dependent's key moves, or this node misses a view, while it is being linked
   (``test_view_that_comes_while_an_entry_is_linked``).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from cachenode.core.dependencies import ALWAYS_US, Link, Links
from cachenode.core.entries import Batch, BatchResult, Failure, Operation
from cachenode.core.failures import NOT_OWNER, NOT_READY, UNREACHABLE, bad_dependencies, failed
from cachenode.core.holders import DRIFT
from cachenode.errors import PeerUnavailable
from cachenode.node.lives import longest
from cachenode_api.dependencies import MAX_ANCESTORS, parent_of, reference_of, split_references
from cachenode_api.errors import InvalidDependencies
from cachenode_api.reasons import Reason
from cachenode_api.records import DEPENDENT, HEADER, NO_TTL_MS

if TYPE_CHECKING:
    from cachenode.core.flights import Flight
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node, Reply, Rest
    from cachenode_api.ring import Ring
    from cachenode_api.view import Member, View

__all__ = ["Linking"]

AGAIN, PREPARE, INDIRECT = 1, 2, 4
"""In the flags of a LINK: made again because the parent has moved; merely asks that changes be remembered from now on;
the dependent names another that depends on the parent."""

_PAUSE_S = 0.02
_ATTEMPTS = 50
_KEYS_AT_ONCE = 500
_FOREVER_MS = NO_TTL_MS
_UNSENT = frozenset({Reason.NOT_OWNER, Reason.NOT_READY, Reason.OVERLOADED, Reason.DEADLINE_EXCEEDED})


class _Want(NamedTuple):
    """A link that is to be made at a parent's owner."""

    parent: bytes
    dependent: bytes
    link: Link
    flag: int


class _Told(NamedTuple):
    """What a parent's owner says: what the parent depends on, for how long it has not changed, and when that was."""

    parents: tuple[bytes, ...]
    unchanged_us: int
    at: float
    owner: Member


class Linking:
    """The part of a node that links what it owns to what that depends on."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._rings: list[tuple[Ring, View]] = []
        """Those in force since all links were last known to be where they belong."""
        self._prepared: dict[tuple[str, Member], float] = {}
        """Since when members are known to remember all changes of a namespace's keys."""
        node.placement.listeners.append(self._view_changed)
        node.placement.releasing.append(self._relink)

    # Writes.

    def concerns(self, batch: Batch, namespace: Namespace) -> bool:
        """Return True if a batch is to be written by `write`."""
        if batch.depends_on:
            return batch.operation in {Operation.SET, Operation.FULFILL}
        return namespace.links is not None and batch.operation is Operation.TOUCH

    async def write(self, batch: Batch, namespace: Namespace, own: list[int], reply: Reply) -> None:
        """Link keys of this node, write them, and remove what has become untrue meanwhile."""
        node, epoch = self._node, self._node.placement.epoch
        before = {index: self._parents_before(namespace, batch.keys[index]) for index in own}
        lives = dict(zip(own, longest(node, batch, namespace, own), strict=True))
        batch = replace(batch, ttls_ms=[_left_ms(lives[at]) if at in lives else 0 for at in range(len(batch.keys))])
        made = await self._link_all(batch, namespace, lives)
        failures = {index: outcome for index, outcome in made.items() if isinstance(outcome, Failure)}
        links = {index: outcome for index, outcome in made.items() if isinstance(outcome, Link)}
        written: dict[int, int] | None = None
        try:
            if node.placement.epoch != epoch or node.closing or node.placement.fenced(node.clock.now()):
                refusal = NOT_OWNER if node.placement.epoch != epoch else NOT_READY
                failures |= {index: refusal for index in own if index not in failures}
            if failures and batch.operation is Operation.FULFILL:
                node.loads.refuse(batch, namespace, failures)
            left = [index for index in own if index not in failures]
            results = await self._write(_flagged(batch, links), namespace, left)
            written = {index: version for part in results for index, version in _versions(part)}
        finally:
            untied = self._settle(batch, namespace, links, written)
        if untied:
            await self._remove(namespace, untied)
        if batch.operation is Operation.FULFILL and namespace.dependents is not None:
            now_on = {
                batch.keys[index]: (before[index], set(links[index].parents)) for index in written if index in links
            }
            await node.cascades.reloaded(namespace, now_on, acknowledged=batch.acknowledged)
        self._make_room(namespace)
        if failures:
            for failure in failures.values():
                node.failures[failure.reason] += 1
            reply(failed(batch, failures))
        for part in results:
            reply(part)

    def _settle(
        self, batch: Batch, namespace: Namespace, links: Mapping[int, Link], written: Mapping[int, int] | None
    ) -> list[bytes]:
        """End the links' writes; return the keys that a parent's change has come across.

        Where it is not known what has been written (None), the link stays: the value may be there.
        """
        untied = []
        for index, link in links.items():
            version = link.stamp if written is None else written.get(index, 0)
            if not self._links(namespace).settle(batch.keys[index], link, version) and version:
                untied.append(batch.keys[index])
        return untied

    async def _write(self, batch: Batch, namespace: Namespace, left: list[int]) -> list[BatchResult]:
        results: list[BatchResult] = []
        if left:
            rest = self._node.writes.now(batch, namespace, left, results.append)
            if rest is not None:
                await rest
        return results

    async def _remove(self, namespace: Namespace, keys: list[bytes]) -> None:
        batch = Batch(Operation.CASCADE, namespace.policy.name, keys)
        rest = self._node.execute(batch, lambda _: None, from_peer=True)
        if rest is not None:
            await rest

    def _parents_before(self, namespace: Namespace, key: bytes) -> set[bytes]:
        return namespace.links.parents(key) if namespace.links is not None else set()

    def _links(self, namespace: Namespace) -> Links:
        if namespace.links is None:
            namespace.links = Links()
        return namespace.links

    def _make_room(self, namespace: Namespace) -> None:
        surplus = self._links(namespace).surplus()
        if surplus:
            self._node.cascades.spawn(self._remove(namespace, surplus))

    async def _link_all(
        self, batch: Batch, namespace: Namespace, lives: Mapping[int, float]
    ) -> dict[int, Link | Failure]:
        """Link the keys of a batch that depend on others, given with their lives; return how that ended for each."""
        wanted: dict[int, tuple[bytes, list[bytes], float, Flight[Any] | None]] = {}
        made: dict[int, Link | Failure] = {}
        for index, life_s in lives.items():
            key = batch.keys[index]
            try:
                parents = self._parents_of(batch, namespace, index)
            except InvalidDependencies as error:
                made[index] = bad_dependencies(str(error))
                continue
            flight = namespace.flights.of(key, batch.tokens[index]) if batch.tokens else None
            if parents and (flight is not None or batch.operation is not Operation.FULFILL):
                wanted[index] = (key, parents, life_s + namespace.policy.stale_s, flight)
        if wanted:
            outcomes = await asyncio.gather(*(self._link(namespace, *want) for want in wanted.values()))
            made |= dict(zip(wanted, outcomes, strict=True))
        return made

    def _parents_of(self, batch: Batch, namespace: Namespace, index: int) -> list[bytes]:
        """Return what a key is to depend on, itself left out: that would make it untrue whenever it is written."""
        key, me = batch.keys[index], reference_of(namespace.policy.name, batch.keys[index])
        if not batch.depends_on:  # a TOUCH: its links must live as long
            return sorted(self._parents_before(namespace, key) - {me})
        block = batch.depends_on[0 if len(batch.depends_on) == 1 else index]
        return [parent for parent in dict.fromkeys(split_references(block, self._node.limits.parents)) if parent != me]

    async def _link(
        self, namespace: Namespace, key: bytes, parents: list[bytes], life_s: float, flight: Flight[Any] | None
    ) -> Link | Failure:
        """Link a key to its parents and to theirs. What was loaded from what may be older comes off its key."""
        node, links = self._node, self._links(namespace)
        me, now = reference_of(namespace.policy.name, key), node.clock.now()
        link = Link(parents, node.versions.next(), now + life_s * (1 + DRIFT))
        links.begin(key, link)
        try:
            told = await self._tell([_Want(parent, me, link, 0) for parent in parents])
            farther = sorted({each for one in told.values() for each in one.parents} - {me, *parents})
            _check_ancestors(len(parents) + len(farther))
            if farther:
                link.parents += tuple(farther)
                told |= await self._tell([_Want(parent, me, link, INDIRECT) for parent in farther])
        except PeerUnavailable:
            links.settle(key, link, 0)
            return UNREACHABLE
        except InvalidDependencies as error:
            links.settle(key, link, 0)
            return bad_dependencies(str(error))
        except asyncio.CancelledError:
            links.settle(key, link, 0)
            raise
        fresh = flight is None or all(self._fresh(want.parent, one, flight.began) for want, one in told.items())
        if flight is not None and not fresh:
            if flight.attached:
                namespace.flights.detach(key)
            node.loads.send_round(flight)
        return link

    def _fresh(self, parent: bytes, told: _Told, began: float) -> bool:
        """Return True if a parent has not changed since a load began, as far as its owner and the clocks can tell."""
        if told.unchanged_us == ALWAYS_US:
            return self._prepared.get((parent_of(parent)[0], told.owner), math.inf) <= began
        return told.unchanged_us / 1_000_000 * (1 - DRIFT) > told.at - began

    # What parents' owners are told.

    async def prepare(self, batch: Batch) -> None:
        """Have the owners of what a load is going to depend on remember changes, before it begins."""
        try:
            blocks = [split_references(block, self._node.limits.parents) for block in batch.depends_on]
        except InvalidDependencies:
            return  # the write says so
        parents = dict.fromkeys(parent for block in blocks for parent in block)
        link = Link((), 0, 0.0)
        missing = [
            _Want(parent, parent, link, PREPARE)
            for parent in parents
            if (parent_of(parent)[0], self._owner(parent)) not in self._prepared
        ]
        if missing:
            try:
                await self._tell(missing)
            except PeerUnavailable:
                return  # what is loaded is not kept

    def _owner(self, parent: bytes) -> Member | None:
        placement = self._node.placement
        owner = placement.owner(parent_of(parent)[1])
        return placement.view.by_id.get(owner) if placement.view is not None and owner is not None else None

    async def _tell(self, wants: Sequence[_Want]) -> dict[_Want, _Told]:
        """Tell the parents' owners of links; return what they say.

        Raises:
            PeerUnavailable: One of them cannot be reached, or does not answer yet, for a second.
            InvalidDependencies: One has no such namespace.
        """
        told: dict[_Want, _Told] = {}
        left = list(wants)
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(_PAUSE_S)
            shares: dict[tuple[str, Member], list[_Want]] = {}
            for want in left:
                owner = self._owner(want.parent)
                if owner is not None:
                    shares.setdefault((parent_of(want.parent)[0], owner), []).append(want)
            answers = await asyncio.gather(
                *(self._tell_one(name, owner, some) for (name, owner), some in shares.items())
            )
            for found in answers:
                told |= found
            left = [want for want in left if want not in told]
            if not left:
                return told
        raise PeerUnavailable("the owner of what an entry depends on does not answer", sent=True)

    async def _tell_one(self, name: str, owner: Member, wants: Sequence[_Want]) -> dict[_Want, _Told]:
        """Tell one owner of links; return what it says of those that it has made."""
        node, sent = self._node, self._node.clock.now()
        batch = Batch(
            Operation.LINK,
            name,
            [parent_of(want.parent)[1] for want in wants],
            flags=[want.flag for want in wants],
            ttls_ms=[_left_ms(want.link.until - sent) for want in wants],
            tokens=[want.link.stamp for want in wants],
            depends_on=[want.dependent for want in wants],
            epoch=node.placement.epoch,
        )
        try:
            result = await node.send(owner.id, batch)
        except PeerUnavailable:
            return {}
        at, told = node.clock.now(), dict[_Want, _Told]()
        for index, want in enumerate(wants):
            failure = result.failures.get(index)
            if failure is None:
                parents = split_references(result.records[index])
                unchanged_us = result.tokens[index] if result.tokens else 0
                told[want] = _Told(parents, unchanged_us, at, owner)
                if not want.flag & AGAIN:
                    self._prepared.setdefault((name, owner), at)
            elif failure.reason not in _UNSENT:
                raise InvalidDependencies(f"depends_on: {failure.detail}")
        return told

    # CASCADE: a parent has changed.

    def untie(self, batch: Batch, namespace: Namespace, reply: Reply) -> Rest | None:
        """Remove keys because what they depend on has changed, or was given up."""
        node, now = self._node, self._node.clock.now()
        own, away = node.split(batch.keys, range(len(batch.keys)))
        if away:
            reply(failed(batch, {index: NOT_OWNER for indices in away.values() for index in indices}))
        going = [index for index in own if self._untie(namespace, batch.keys[index], now)]
        kept = [index for index in own if index not in set(going)]
        if kept:
            reply(BatchResult(indices=kept, versions=[0] * len(kept)))
        if not going:
            return None
        namespace.cascaded += len(going)
        removing, epoch = replace(batch, operation=Operation.INVALIDATE), node.placement.epoch
        rest = node.cascades.change(removing, namespace, going, reply, epoch=epoch, spread=False)
        return node.run_parts(batch, reply, [(going, rest)])

    def _untie(self, namespace: Namespace, key: bytes, now: float) -> bool:
        """Give up the links of a key. Return False if what is there by now does not depend on anything."""
        being_written = namespace.links is not None and not all(link.version for link in namespace.links.of(key))
        if namespace.links is not None:
            namespace.links.untie(key)
        if being_written or key in namespace.writing:
            return True
        namespace.flights.detach(key)
        record = self._node.present(namespace, key, now)
        return record is None or bool(HEADER.unpack_from(record)[1] & DEPENDENT)

    # Views.

    def vouches(self, namespace: Namespace, key: bytes, version: int) -> bool:
        """Return True if an entry of the shared store that depends on others can be believed."""
        return namespace.links is not None and self._node.placement.owns(key) and namespace.links.vouch(key, version)

    def _view_changed(self, _former: View | None, view: View) -> None:
        placement = self._node.placement
        assert placement.ring is not None, "a view has a ring"
        if not placement.follows:
            self._rings.clear()
            for namespace in self._node.namespaces:
                if namespace.links is not None:
                    namespace.links.clear()
        self._rings.append((placement.ring, view))
        members = set(view.members)
        self._prepared = {place: at for place, at in self._prepared.items() if place[1] in members}

    def _relink(self, _view: View) -> Rest | None:
        """Link what depends on parents that have moved to their new owners."""
        namespaces = [namespace for namespace in self._node.namespaces if namespace.links]
        if not namespaces:
            del self._rings[:-1]
            return None
        return self._relink_all(namespaces)

    async def _relink_all(self, namespaces: Sequence[Namespace]) -> None:
        for namespace in namespaces:
            links = self._links(namespace)
            keys = links.keys()
            for first in range(0, len(keys), _KEYS_AT_ONCE):
                await asyncio.sleep(0)
                await self._relink_some(namespace, keys[first : first + _KEYS_AT_ONCE])
        del self._rings[:-1]

    async def _relink_some(self, namespace: Namespace, keys: Iterable[bytes]) -> None:
        links, me, wants = self._links(namespace), self._node.placement.me.id, []
        for key in keys:
            if any(ring.owner(key) != me for ring, _ in self._rings):
                links.untie(key)
                continue
            name = reference_of(namespace.policy.name, key)
            for link in links.of(key):
                for at, parent in enumerate(link.parents):
                    if len({self._owner_under(parent, *ring) for ring in self._rings}) > 1:
                        flag = AGAIN if at < link.direct else AGAIN | INDIRECT
                        wants.append(_Want(parent, name, link, flag))
        if not wants:
            return
        try:
            await self._tell(wants)
        except (PeerUnavailable, InvalidDependencies):
            await self._drop(namespace, list(dict.fromkeys(parent_of(want.dependent)[1] for want in wants)))

    def _owner_under(self, parent: bytes, ring: Ring, view: View) -> Member | None:
        return view.by_id.get(ring.owner(parent_of(parent)[1]) or "")

    async def _drop(self, namespace: Namespace, keys: Sequence[bytes]) -> None:
        """Drop entries of this node: it is not known any more whether what they depend on has changed."""
        for key in keys:
            self._links(namespace).untie(key)
            namespace.void(key)
            namespace.store.remove(key)
        waiter = self._node.invalidations.announce(namespace, keys)
        self._node.invalidations.record(namespace, keys)
        if waiter is not None:
            await waiter

    def expire(self, now: float) -> None:
        """Forget the links of entries that have ended. To be called several times a second."""
        for namespace in self._node.namespaces:
            if namespace.links is not None:
                namespace.links.expire(now, _KEYS_AT_ONCE)


def _flagged(batch: Batch, links: Mapping[int, Link]) -> Batch:
    """Return a batch whose values say that they depend on others."""
    if batch.operation is Operation.TOUCH:
        return batch
    flags = list(batch.flags) or [0] * len(batch.keys)
    for index in links:
        flags[index] |= DEPENDENT
    return replace(batch, flags=flags, depends_on=())


def _versions(result: BatchResult) -> Iterable[tuple[int, int]]:
    """Return the positions and versions of what was written."""
    indices = result.indices if result.indices is not None else range(len(result.versions))
    return [
        (index, version)
        for at, (index, version) in enumerate(zip(indices, result.versions, strict=True))
        if version and at not in result.failures
    ]


def _check_ancestors(count: int) -> None:
    if count > MAX_ANCESTORS:
        raise InvalidDependencies(
            f"depends_on: with what they depend on, {count:,} keys exceed the limit of {MAX_ANCESTORS}"
        )


def _left_ms(seconds: float) -> int:
    return _FOREVER_MS if math.isinf(seconds) else max(1, int(seconds * 1_000))
