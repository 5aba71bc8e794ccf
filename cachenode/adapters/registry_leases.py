"""The registry on leases: one for each member, and one that holds the view, each written by compare-and-swap.

The arbiter is linearizable (etcd behind Kubernetes' API server), so no failover forgets a view, and there is one
sequence of views: what `registry_redis` cannot promise. Nobody's wall clock counts. Whether a member is gone is judged
as Kubernetes' own leader election does: its lease has not been written for the lease's length *since this node first
saw it so*, on this node's clock. That moment is after the write, and the member counts its own lease from before it, so
it has stopped acting by then whatever the clocks show. And only while this node looked: after an outage of the arbiter
nobody is given up before it could renew (``test_outage_of_the_arbiter_gives_nobody_up``).

A renewal writes the own lease, lists all leases (one snapshot), and writes the view's if the members have changed. The
races between two nodes that do so, each with its test in ``tests/adapters/test_registry_leases.py``:

1. One gives a member up while that member renews. The lease is deleted only in the version that was seen unchanged, so
   one of both fails: the delete, and the member is alive; or the renewal, and the member joins anew
   (``test_renewal_wins_over_a_delete``, ``test_delete_wins_over_a_renewal``).
2. A member's lease was deleted, it makes it again, and who deleted it writes the view without it, from a list that is
   older. Who makes its lease, or takes it over, writes the view too, even if nothing in it changes; so one of both
   fails on the view's version (``test_new_lease_stops_a_view_without_it``).
3. Somebody deletes a lease by hand, or who deleted it dies before it has written the view. A member of the view
   without a lease may still act: it stays for the lease's length from when this was first seen
   (``test_member_whose_lease_is_missing_stays_for_its_length``).
4. Who leaves deletes its lease before it writes the view: the other way round a third node would find a live lease
   and take it back into the view (``test_leaver_is_not_taken_back``).
5. An answer was lost. The next call finds a lease with its own incarnation, and takes it over as in 2; whose place it
   took is not known any more, so it reports one that it replaced (``test_lost_answer_of_a_join``).

**Changes** are heard by watching the view's lease (`changes`), so that a node acts by a new view sooner than it renews.
Nothing depends on it: whoever hears nothing learns of the view with its next renewal, a second later at most.

**Lost history**, as when somebody deletes the view's lease or restores an old backup: the members of the view that a
node knows are taken over, and the epoch jumps (see `registry_redis`). A cluster that is down as a whole while that
happens begins again with epoch 1: empty its L2, or what it holds is newer than what is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import Any

import structlog

from cachenode.adapters.leases import Lease, LeaseChanged, Leases
from cachenode.adapters.registry_memory import identity, new_seed, twin_text
from cachenode.errors import RegistryError
from cachenode.ports import LOST_HISTORY_STRIDE, Clock, Renewal
from cachenode_api.errors import InvalidView
from cachenode_api.view import Member, View

__all__ = ["LeaseRegistry", "lease_name"]

_log = structlog.get_logger(__name__)

_MEMBER, _VIEW = "member", "view"
_LONGEST_GAP = 0.75
"""Share of a lease: who has not looked for longer cannot tell whether others could have renewed."""
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0
"""Before a watch that ended begins anew: first and, doubled each time that it ends soon again, at most."""
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")


class LeaseRegistry:
    """A `Registry` on `Leases`.

    Guarantees: one sequence of views, as long as the arbiter is linearizable and nobody edits its leases.

    Args:
        leases: Those of one cluster. Closed with the registry.
        cluster: Its name.
        clock: To tell how long a lease has not been written.
        lease_s: A member that does not renew for so long leaves when another renews.
        timeout_s: Time limit of a call.
    """

    def __init__(
        self, leases: Leases, cluster: str, clock: Clock, *, lease_s: float = 4.0, timeout_s: float = 1.0
    ) -> None:
        self._leases = leases
        self._cluster = cluster
        self._clock = clock
        self._lease_s = lease_s
        self._timeout_s = timeout_s
        self._mine: dict[str, Lease] = {}
        """By member: the lease that it has written last."""
        self._seen: dict[str, tuple[str, float]] = {}
        """By lease: its version, "" if there is none, and since when it has been that."""
        self._looked_at = clock.now()
        self._taken: dict[str, bool] = {}
        """By member whose lease was made or taken over, and no view written since: whether from one that may act."""

    async def renew(self, member: Member, known: View | None) -> Renewal:
        """Join, or renew the member's lease, and return the view in force.

        Raises:
            RegistryError: The arbiter cannot be reached, refuses, or holds what it should not; or the member has a
                twin.
        """
        async with self._in_time():
            await self._hold(member, joined=known is not None)
            view = await self._agree(member, known)
        return Renewal(view, replaced=self._taken.pop(member.id, False))

    async def leave(self, member: Member) -> View | None:
        """End the member's lease now, and return the view without it.

        Does nothing, and returns None, if it has none or another incarnation took its place.

        Raises:
            RegistryError: The arbiter cannot be reached or refuses.
        """
        name = lease_name(self._cluster, member.id)
        mine = self._mine.get(member.id)
        held, left = mine is not None and _member(mine).incarnation == member.incarnation, None
        async with self._in_time():
            while True:
                found = {lease.name: lease for lease in await self._leases.list()}
                try:
                    if name in found:
                        if _member(found[name]).incarnation != member.incarnation:
                            return None
                        await self._leases.delete(found[name])
                        held = True
                    if held:
                        left = await self._leave_view(member, found.get(lease_name(self._cluster)))
                        self._mine.pop(member.id, None)
                except LeaseChanged:
                    continue
                return left

    async def changes(self, pause: Callable[[float], Awaitable[object]] = asyncio.sleep) -> AsyncGenerator[int, None]:
        """Yield the epoch of the view in force, and again as soon as there is another; 0 while there is no view.

        Goes on for ever: a watch that ends, is lost or refused begins anew after a pause.

        Args:
            pause: Waits for so many seconds.
        """
        pause_s, failing = _PAUSE_S, False
        while True:
            began = self._clock.now()
            try:
                async with contextlib.aclosing(self._leases.watch(lease_name(self._cluster))) as watch:
                    async for lease in watch:
                        yield _view(lease).epoch if lease is not None else 0
                        if failing:
                            _log.info("registry_watched_again")
                            failing = False
            except RegistryError as error:
                if not failing:
                    _log.warning("registry_not_watched", detail=str(error))
                failing = True
            if self._clock.now() - began > _LONGEST_PAUSE_S:
                pause_s = _PAUSE_S
            await pause(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - or all nodes come back at once
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def close(self) -> None:
        """Give back connections. Safe to call twice."""
        await self._leases.close()

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError:
            raise RegistryError(f"the registry did not answer within {self._timeout_s:g} s") from None

    # The own lease.

    async def _hold(self, member: Member, *, joined: bool) -> None:
        """Write the member's lease: renew, make or take it."""
        mine = self._mine.get(member.id)
        if mine is not None and _member(mine).incarnation == member.incarnation:
            try:
                await self._write(member, mine.version)
            except LeaseChanged:
                del self._mine[member.id]
            else:
                return
        while True:
            try:
                await self._take(member, joined=joined)
            except LeaseChanged:
                continue
            return

    async def _take(self, member: Member, *, joined: bool) -> None:
        name = lease_name(self._cluster, member.id)
        leases = await self._leases.list()
        self._look(leases, [name])
        former = next((lease for lease in leases if lease.name == name), None)
        replaced = False
        if former is not None:
            holder = _member(former)
            if holder.incarnation == member.incarnation:
                replaced = not joined  # an answer was lost, and with it whose place was taken
            else:
                replaced = not self._overdue(former)
                if replaced and holder.address != member.address:
                    raise RegistryError(twin_text(member.id, holder.address))
        await self._write(member, former.version if former else "")
        self._taken[member.id] = replaced

    async def _write(self, member: Member, version: str) -> None:
        name, content = lease_name(self._cluster, member.id), {_MEMBER: json.dumps(_record(member))}
        lease = Lease(name, f"{member.id}/{member.incarnation}", self._lease_s, content, version)
        self._mine[member.id] = await (self._leases.replace(lease) if version else self._leases.create(lease))

    # The view.

    async def _agree(self, me: Member, known: View | None) -> View:
        """Return the view in force, written by this call if it had to be, with this member in it."""
        while True:
            leases = await self._leases.list()
            record = next((lease for lease in leases if lease.name == lease_name(self._cluster)), None)
            view = _view(record) if record is not None else View(0, b"", ())
            base, floor, seed = view.members, 0, view.ring_seed
            if known is not None and _lost(known, view):
                floor, seed = known.epoch + LOST_HISTORY_STRIDE - 1, known.ring_seed
                base = (*base, *(member for member in known.members if member.id not in view.by_id))
            try:
                live = await self._live(me, base, leases)
                changed = bool(floor) or _identities(live) != _identities(view.members)
                epoch = max(view.epoch, floor) + 1 if changed else view.epoch
                agreed = View(epoch, seed or (known.ring_seed if known else new_seed()), live)
                if changed or me.id in self._taken:
                    await self._put_view(agreed, record)
            except LeaseChanged:
                continue
            return agreed

    async def _live(self, me: Member, base: Collection[Member], leases: Collection[Lease]) -> tuple[Member, ...]:
        """Return who is a member: whose lease is written, and who is in the view and may act without one.

        Gives up the leases that are overdue.

        Raises:
            LeaseChanged: One of those was written meanwhile.
        """
        names = {lease_name(self._cluster, member.id): member for member in base}
        self._look(leases, names)
        live = {me.id: me}
        for lease in leases:
            if _MEMBER not in lease.content:
                continue
            member = _member(lease)
            names.pop(lease.name, None)
            if member.id == me.id:
                continue
            if self._overdue(lease):
                await self._leases.delete(lease)
                self._seen.pop(lease.name, None)
            else:
                live[member.id] = member
        for name, member in names.items():
            if member.id != me.id and self._clock.now() - self._seen[name][1] < self._lease_s:
                live[member.id] = member
        return tuple(live.values())

    async def _put_view(self, view: View, former: Lease | None) -> None:
        members = [_record(member) for member in view.members]
        content = {_VIEW: json.dumps({"epoch": view.epoch, "seed": view.ring_seed.hex(), "members": members})}
        name, holder = lease_name(self._cluster), f"epoch {view.epoch}"
        lease = Lease(name, holder, self._lease_s, content, former.version if former else "")
        await (self._leases.replace(lease) if former else self._leases.create(lease))

    async def _leave_view(self, member: Member, record: Lease | None) -> View | None:
        view = _view(record) if record is not None else View(0, b"", ())
        rest = tuple(
            other for other in view.members if (other.id, other.incarnation) != (member.id, member.incarnation)
        )
        if len(rest) == len(view.members):
            return None
        left = View(view.epoch + 1, view.ring_seed, rest)
        await self._put_view(left, record)
        return left

    # What has been seen.

    def _look(self, leases: Collection[Lease], expected: Collection[str]) -> None:
        """Note which leases have changed, and which of the expected there are not. Who is neither is forgotten."""
        now = self._clock.now()
        if (
            now - self._looked_at > self._lease_s * _LONGEST_GAP
        ):  # nobody could renew, or this node slept: nothing is known
            self._seen.clear()
        self._looked_at = now
        versions = dict.fromkeys(expected, "") | {lease.name: lease.version for lease in leases}
        former = self._seen
        self._seen = {
            name: former[name] if name in former and former[name][0] == version else (version, now)
            for name, version in versions.items()
        }

    def _overdue(self, lease: Lease) -> bool:
        return self._clock.now() - self._seen[lease.name][1] >= max(self._lease_s, lease.duration_s)


def lease_name(cluster: str, member: str = "") -> str:
    """Return the name of a member's lease, or of the view's: what Kubernetes allows, and unique."""
    digest = hashlib.blake2b(json.dumps([cluster, member]).encode(), digest_size=5).hexdigest()
    words = [_NOT_IN_NAMES.sub("-", text.lower()).strip("-")[:80] for text in (cluster, member)]
    return "-".join(["cachenode", *filter(None, words), digest])


def _lost(known: View, view: View) -> bool:
    if known.epoch != view.epoch:
        return known.epoch > view.epoch
    return _identities(known.members) != _identities(view.members)


def _identities(members: Collection[Member]) -> set[tuple[str, str, str, int]]:
    return {identity(member) for member in members}


def _record(member: Member) -> list[str | int]:
    return [member.id, member.incarnation, member.address, member.http_address, member.weight]


def _member(lease: Lease) -> Member:
    try:
        return _parse_member(json.loads(lease.content[_MEMBER]))
    except (KeyError, TypeError, ValueError) as error:
        raise _foreign(error) from None


def _parse_member(record: list[str]) -> Member:
    name, incarnation, address, http_address, weight = record
    return Member(name, incarnation, address, http_address, int(weight))


def _view(lease: Lease) -> View:
    try:
        record: Mapping[str, Any] = json.loads(lease.content[_VIEW])
        members = tuple(map(_parse_member, record["members"]))
        return View(int(record["epoch"]), bytes.fromhex(record["seed"]), members)
    except (InvalidView, KeyError, TypeError, ValueError) as error:
        raise _foreign(error) from None


def _foreign(error: Exception) -> RegistryError:
    return RegistryError(f"the registry holds something else than a cluster's members: {type(error).__name__}")
