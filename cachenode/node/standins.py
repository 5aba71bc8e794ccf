"""Loads of keys whose owner cannot be reached: the next node on the ring stands in for it (C6).

Who is asked for an absent key and cannot reach its owner asks the member that follows the owner on the ring, then the
next one, at last itself (`StandIns.ask`). That member lets one caller load at a time, in rounds
(`cachenode.core.rounds`): whoever shares a load asked before it began, because a stand-in does not hear of what the
owner acknowledges. What is loaded is handed to the callers of that round and kept nowhere, neither in memory nor in L2.

Two nodes may stand in for the same owner, if they see different members. So where there is an L2 a stand-in loads
under a lock there. The lock is short and prolonged while it is needed: it ends soon after its holder has died. It saves
work and nothing rests on it, so a stand-in that cannot ask for it goes on without.

A token says who lent it. It may come back over any node (`divert`): over the one that passed it on, or another that
the client has turned to, or the owner, which the client has found again while it loaded.

Interleavings, each forced by a test in ``tests/node/test_standins.py``:

1. A key is removed through its owner, which only this node cannot reach, while a stand-in's load is under way: who
   asks after the removal does not get what was read before it (``test_who_asks_during_a_load_gets_a_later_one``).
2. The holder goes, or is too slow: one of those who shared the round leads the next at once, before those who came
   later (``test_holder_that_is_gone_is_replaced``, ``test_late_holder_is_nobodys``).
3. The caller that is to lead goes in the turn in which it gets the token
   (``test_leader_that_is_cancelled_with_its_token``).
4. A view comes during a load: everybody asks again, where the key is now, and what the load brings is nobody's
   (``test_view_ends_the_rounds``).
5. Another stand-in has the lock: this one's callers wait for its end, and then load themselves
   (``test_lock_keeps_two_stand_ins_apart``).
6. L2 fails while the lock is waited for (``test_load_goes_on_without_l2``).
7. The stand-in is lost while callers wait there: they go on at the next one (``test_stand_in_that_is_lost``).
8. The owner is reached again while its stand-in's load is under way, and gets the value
   (``test_value_that_comes_to_the_owner``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cachenode.core.entries import Batch, BatchResult, Failure, Operation
from cachenode.core.failures import NOT_OWNER, NOT_READY, UNREACHABLE, failed, load_paused
from cachenode.core.rounds import Place, Round, Rounds, lender_mark
from cachenode.errors import PeerUnavailable
from cachenode.node.lives import ttls
from cachenode.node.loads import DEFAULT_LEASE_S, MAX_LEASE_S, Outcome, ending, loaded_record
from cachenode_api.reasons import Reason

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node, Reply, Rest
    from cachenode_api.view import View

__all__ = ["StandIns"]

_GATHER_S = 0.1
"""Callers who have lost an owner together come within this time (twice the SDK's longest first pause), and so share the
first load. Between two rounds it gives other stand-ins their turn."""
_LOCK_S = 2.0
"""A stand-in that dies holds others up for so long."""
_RENEWALS_PER_LOCK = 4
_LOCK_PAUSES_S = (0.02, 0.1)


class _Caller:
    """Who asks a stand-in for a key: told a token if it is to load, else a record, or why there is none."""

    __slots__ = ("holder", "lease_s", "told")

    def __init__(self, holder: Hashable, lease_s: float) -> None:
        self.holder = holder
        self.lease_s = lease_s
        self.told: asyncio.Future[int | bytes | Failure] = asyncio.get_running_loop().create_future()

    def tell(self, outcome: int | bytes | Failure) -> None:
        if not self.told.done():
            self.told.set_result(outcome)


class StandIns:
    """The part of a node that stands in for owners out of reach, and finds those who do."""

    def __init__(self, node: Node) -> None:
        self.gather_s = _GATHER_S
        self.lock_s = _LOCK_S
        self._node = node
        self._rounds: Rounds[_Caller] = Rounds(node.placement.me)
        self._ends: dict[int, asyncio.Future[None]] = {}
        """Of the rounds under way, by token: resolved when they end."""
        self._drivers: dict[Place, asyncio.Task[None]] = {}
        """One for each key that somebody waits for: begins its rounds, one after the other."""
        node.placement.listeners.append(self._view_changed)

    # At the node that cannot reach the owner.

    async def ask(self, batch: Batch, namespace: Namespace, index: int, reply: Reply, holder: Hashable) -> None:
        """Find a stand-in for the owner of a key and answer what it says; this node itself if there is no other.

        Args:
            batch: A LEASE.
            namespace: Its namespace.
            index: Position of the key.
            reply: Takes the answer.
            holder: Who gets the lease.
        """
        node, placement = self._node, self._node.placement
        ring, key = placement.ring, batch.keys[index]
        assert ring is not None, "a key that is another's has an owner"
        asked = replace(batch, stand_in=True)
        for name in ring.owners(key, len(ring.view.members))[1:]:
            if placement.ring is not ring:  # its owner may be another now
                break
            if name == placement.me.id:
                await self.lease(batch, namespace, index, reply, holder)
                return
            try:
                result = await node.loads.ask(name, asked, index, holder)
            except PeerUnavailable:
                continue
            failure = result.failures.get(0)
            if failure is None or failure.reason is not Reason.NOT_READY:
                result.indices = [index]
                reply(result)
                return
        self._answer(index, UNREACHABLE, reply)

    # At the stand-in.

    def serve(self, batch: Batch, namespace: Namespace, reply: Reply) -> Rest | None:
        """Answer a LEASE that another node sends because it cannot reach the owner."""
        own, away = self._node.split(batch.keys, range(len(batch.keys)))
        if own:  # this node knows a newer view
            reply(failed(batch, dict.fromkeys(own, NOT_OWNER)))
        indices = [index for some in away.values() for index in some]
        parts = [([index], self.lease(batch, namespace, index, reply, None)) for index in indices]
        return self._node.run_parts(batch, reply, parts) if parts else None

    async def lease(self, batch: Batch, namespace: Namespace, index: int, reply: Reply, holder: Hashable) -> None:
        """Answer a key of which this node is not the owner: with the right to load, or when another has loaded."""
        place = namespace.policy.name, batch.keys[index]
        refused = self._refusal(namespace, place[1])
        if refused is not None:
            self._answer(index, refused, reply)
            return
        caller = _Caller(holder, min(batch.lease_s or DEFAULT_LEASE_S, MAX_LEASE_S))
        self._rounds.join(place, caller)
        if place not in self._drivers:
            self._drivers[place] = asyncio.get_running_loop().create_task(self._drive(namespace, place))
        try:
            outcome = await caller.told
        except asyncio.CancelledError:
            self._gone(place, caller)
            raise
        self._answer(index, outcome, reply)

    def _gone(self, place: Place, caller: _Caller) -> None:
        self._rounds.leave(place, caller)
        if not caller.told.cancelled() and isinstance(token := caller.told.result(), int):
            led = self._rounds.of(place, token)
            if led is not None:
                self._conclude(led, None)

    def _refusal(self, namespace: Namespace, key: bytes) -> Failure | None:
        """Return why no load of a key may begin here, None if one may."""
        node, now = self._node, self._node.clock.now()
        if not node.placement.ready or node.placement.fenced(now):
            return NOT_READY
        if node.placement.owns(key):
            return NOT_OWNER  # asks for another owner: who comes anew is served by the usual way
        pause = namespace.load_backoff.left_s(key, now)
        return load_paused(pause) if pause else None

    def _answer(self, index: int, outcome: int | bytes | Failure, reply: Reply) -> None:
        result = BatchResult(indices=[index], records=[b""], now_s=self._node.clock.now())
        if isinstance(outcome, int):
            result.tokens = [outcome]
        elif isinstance(outcome, Failure):
            self._node.failures[outcome.reason] += 1
            result.failures = {0: outcome}
        else:
            result.records = [outcome]
        reply(result)

    # Rounds, one after the other.

    async def _drive(self, namespace: Namespace, place: Place) -> None:
        """Begin the rounds of a key for as long as somebody waits for one."""
        try:
            while self._rounds.queue(place):
                await asyncio.sleep(self.gather_s)
                await self._load(namespace, place)
        finally:
            del self._drivers[place]

    async def _load(self, namespace: Namespace, place: Place) -> None:
        """Let somebody load a key once; return when that has ended, or nobody waits any more."""
        tier, name = self._node.l2_for(namespace), self._lock_name()
        if tier is None:
            ended = self._begin(namespace, place)
            if ended is not None:
                await ended
            return
        first_s, longest_s = _LOCK_PAUSES_S
        while self._rounds.queue(place) and not await tier.lock(*place, name, self.lock_s):
            await asyncio.sleep(first_s)
            first_s = min(2 * first_s, longest_s)
        ended = self._begin(namespace, place)
        while ended is not None and not ended.done():
            await asyncio.wait([ended], timeout=self.lock_s / _RENEWALS_PER_LOCK)
            if not ended.done():
                await tier.lock(*place, name, self.lock_s)
        await tier.unlock(*place, name)

    def _lock_name(self) -> bytes:
        me = self._node.placement.me
        return f"{me.id} {me.incarnation}".encode()

    def _begin(self, namespace: Namespace, place: Place) -> asyncio.Future[None] | None:
        """Begin a round of those who wait; return a future of its end, None if there is no round."""
        refused = self._refusal(namespace, place[1])
        if refused is not None:
            for caller in self._rounds.dismiss(place):
                caller.tell(refused)
            return None
        leader = next((caller for caller in self._rounds.queue(place) if not caller.told.done()), None)
        if leader is None:
            self._rounds.dismiss(place)
            return None
        begun = self._rounds.begin(place, leader, leader.holder, self._node.clock.now() + leader.lease_s)
        namespace.loads += 1
        namespace.stand_in_loads += 1
        namespace.load_waits += len(begun.sharing)
        ended = self._ends[begun.token] = asyncio.get_running_loop().create_future()
        leader.tell(begun.token)
        return ended

    def _ended(self, rounds: Iterable[Round[_Caller]]) -> None:
        for each in rounds:
            ended = self._ends.pop(each.token)
            if not ended.done():  # else its driver has gone with the loop
                ended.set_result(None)

    def _conclude(self, ended: Round[_Caller], outcome: Outcome) -> None:
        """End a round: tell those who share it, or let them have another."""
        if outcome is None:
            self._rounds.lose(ended)
        else:
            for caller in self._rounds.end(ended):
                caller.tell(outcome)
        self._ended([ended])

    # FULFILL and ABANDON.

    def divert(self, batch: Batch, own: list[int], away: dict[str, list[int]]) -> list[int]:
        """Send the tokens of stand-ins where they belong, whoever owns their keys; return those that end here.

        Args:
            batch: A FULFILL or an ABANDON.
            own: Positions of this node's keys; those with such tokens are taken out.
            away: The same of other members' keys; it gets those that other stand-ins have lent.
        """
        lent = {index: mark for index, token in enumerate(batch.tokens) if (mark := lender_mark(token))}
        if not lent:
            return []
        left = {index for some in (own, *away.values()) for index in some if index in lent}
        own[:] = [index for index in own if index not in lent]
        for name, some in list(away.items()):
            away[name] = [index for index in some if index not in lent]
            if not away[name]:
                del away[name]
        view, here = self._node.placement.view, []
        members = {self._rounds.mark_of(member): member.id for member in (view.members if view else ())}
        for index in sorted(left):
            name = members.get(lent[index], "")
            if name and lent[index] != self._rounds.mark:
                away.setdefault(name, []).append(index)
            else:  # or lent by somebody who is no member any more: then nobody waits for it
                here.append(index)
        return here

    def land(self, batch: Batch, namespace: Namespace, indices: Sequence[int], reply: Reply) -> None:
        """Hand what was loaded to those who share the round, or why it was not. Nothing is stored."""
        now = self._node.clock.now()
        lives = ttls(self._node, batch, namespace, indices)
        for index, ttl_s in zip(indices, lives, strict=True):
            ended = self._rounds.of((namespace.policy.name, batch.keys[index]), batch.tokens[index])
            if ended is None:
                continue
            if batch.operation is Operation.FULFILL:
                namespace.load_backoff.succeeded(batch.keys[index])
                self._conclude(ended, loaded_record(batch, index, 0, now + ttl_s))
            else:
                self._conclude(ended, ending(batch, namespace, index, now))
        reply(BatchResult(indices=indices, versions=[0] * len(indices)))

    def refuse(self, place: Place, token: int, failure: Failure) -> bool:
        """Tell those who share a round that what was loaded cannot be taken. Return False if there is no such round."""
        ended = self._rounds.of(place, token)
        if ended is not None:
            self._conclude(ended, failure)
        return ended is not None

    # Ends without a value.

    def release(self, holder: Hashable) -> None:
        """End the leases of a holder that is gone: others lead at once."""
        if len(self._rounds):
            self._ended(self._rounds.release(holder))

    def expire(self, now: float) -> None:
        """End the leases that are over."""
        self._ended(self._rounds.expire(now))

    def resign(self) -> None:
        """Send everybody elsewhere: this node lets nobody load any more."""
        self._clear(NOT_READY)

    def _view_changed(self, _former: View | None, _view: View) -> None:
        self._clear(NOT_OWNER)

    def _clear(self, failure: Failure) -> None:
        rounds, callers = self._rounds.clear()
        for caller in callers:
            caller.tell(failure)
        self._ended(rounds)

    def under_way(self, place: Place) -> Round[_Caller] | None:
        """Return the round of a key that is under way, if there is one."""
        return self._rounds.running(place)
