"""What the members know of the shared store, and tell each other.

Each node journals what it wrote (`L2Tier`); together they know what a store has forgotten that was started anew or
replaced. Three things are told:

- *Missed*: what L2 could not take. Before such a write is acknowledged every member knows not to believe L2 about
  those keys, and who becomes a member later is told.
- *Asked after a loss*: a node that sees that L2 has lost its history has all others bring it up to date. Each answers
  with its floor: up to this version it believes nothing that L2 holds. All take the highest, so that the cluster
  over-invalidates as one.
- *Asked by a newcomer*: it cannot see that L2 has lost its history before it came. A member answers once it is done
  with that itself; if it is new as well it says so (*sure* is 0).

**Whose journal is gone.** A member that leaves the view takes its journal with it. If L2 loses its history within the
journal's span, an older value of what that member wrote may be there again. So whoever has seen it go, or cannot know
who has gone (its first view, or one after others that it has missed), believes nothing then that was written under
earlier views: whoever has gone acted under these alone, and the versions given since are in the journals of members.

**Who leaves in good order** does not take its journal with it. Once it has ended its writes and begins no more, it
*bequeaths*: each other member gets a part of what it has brought to L2 within the journal's span, and when all have
taken theirs each gets its last word, that it knew nothing else. Who has that does not miss it. All of this is while it
still is a member: if L2 loses its history meanwhile it is asked like the others. It says nothing if it is not sure
itself: L2 has missed something, it remembers less than it has written, or it would have to fear for one that was gone.
And who is bringing L2 up to date takes neither part nor word, nor does one with another view: then the leaver counts as
gone, and no more than L2's older content is lost.

Interleavings, each with its test in ``tests/node/test_witnesses.py``:

1. L2 loses its history while the member that has died is still in the view: it is asked in vain until the view leaves
   it out, and only then the floor is made (``test_history_lost_before_the_view_changes``).
2. A newcomer has a view without that member already, while who answers it still has the former: it answers once it
   has a view as new (``test_who_answers_has_the_asker_s_view``).
3. A newcomer asks, and who is asked goes before it has answered, nobody else being sure: it may have been the last to
   know (``test_member_that_goes_while_it_is_asked``). Newcomers among themselves believe what they find
   (``test_cluster_that_starts_anew_believes_l2``).
4. Who is asked cannot reach L2: it tells what is in its journal instead, and takes it that all of it may be lost
   (``test_witness_that_is_cut_off``).

5. A node leaves, and L2 forgets what it wrote last: whoever has its part brings L2 up to date, and nothing else is
   disbelieved (``test_history_lost_after_a_member_has_left``).
6. L2 loses its history before all have taken their parts: whoever has noticed takes none, so there is no last word
   (``test_history_lost_while_a_member_leaves``); and whoever notices before the word takes that for nothing
   (``test_word_that_comes_while_l2_is_brought_up_to_date``).
7. Who has a part dies: it is missed itself, and with it all that was written under earlier views
   (``test_heir_that_dies``). If it leaves in good order it passes on what it was left (``test_heir_that_leaves``).
8. A member of whom only the leaver knew that it is gone: it says nothing (``test_who_fears_says_no_word``).
9. A write ends after all, late: L2 does not get it, and the others are told (``test_write_after_the_word``).

Not promised: anything if no member is left that was one when L2 lost its history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from cachenode.core.entries import Batch, BatchResult, L2Entry, Operation
from cachenode.core.failures import NOT_READY
from cachenode.core.settling import Identity, identity
from cachenode.errors import L2Unavailable, PeerUnavailable
from cachenode.node.barriers import again
from cachenode.node.l2_tier import L2Tier
from cachenode.node.namespaces import Namespace
from cachenode_api.keys import DEFAULT_NAMESPACE
from cachenode_api.records import DEPENDENT
from cachenode_api.selectors import EVERYTHING, Selector, SelectorKind, make_selector
from cachenode_api.version import make_version
from cachenode_api.view import View

if TYPE_CHECKING:
    from cachenode.node.service import Node, Reply

__all__ = ["Witnesses"]

_QUESTIONS = (b"floor", b"sure")
"""What REPLAY asks: the first token is the asker's epoch, the second 1 if it is new."""
_PART_KEYS = 500
_TAKEN_S = 1.0
"""A member that does not answer for so long takes nothing: who leaves does not wait for it."""


class Witnesses:
    """This node as one that knows, and as one that asks."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._parted: set[Identity] = set()
        """Members that have said their last word, and are in the view still."""
        tier, placement = node.tier, node.placement
        if tier is None:
            return
        tier.judge = self._judge
        tier.tell_missed = self._tell_missed
        tier.adopt = self._adopt
        tier.known_barriers = self._known_barriers
        tier.ask_members = self._ask
        tier.gave_up = node.versions.surpass
        tier.may_adopt = lambda: placement.ready and not placement.unsettled
        placement.listeners.append(self._viewed)
        placement.releasing.append(self._hand_on)

    @property
    def _tier(self) -> L2Tier:
        assert self._node.tier is not None, "called only with a tier"
        return self._node.tier

    def begin(self, batch: Batch, namespace: Namespace, reply: Reply) -> Coroutine[Any, Any, None] | None:
        """Do what another node orders."""
        if batch.operation is Operation.REPLAY:
            return self._node.run_parts(batch, reply, [(list(range(len(batch.keys))), self._answer(batch, reply))])
        if batch.operation is Operation.BEQUEATH:
            taken = self._inherit(batch)
            reply(BatchResult(range(len(batch.keys)), versions=[int(taken)] * len(batch.keys)))
            return None
        if self._node.tier is not None:
            self._node.tier.distrust(batch.namespace, list(zip(batch.keys, batch.tokens, strict=True)))
        for key in batch.keys:
            namespace.fills.void(key)
        reply(BatchResult(range(len(batch.keys)), versions=list(batch.tokens)))
        return None

    # What is believed.

    def _judge(self, name: str, key: bytes, entry: L2Entry) -> L2Entry | None:
        """Return what is to be believed of an entry of the shared store.

        Nothing if a barrier covers it whose write or load began before, or if it depends on others and it is not known
        whether they have changed.
        """
        namespace = self._node.namespaces.get(name)
        if namespace is None:
            return entry
        if entry.flags & DEPENDENT and not self._node.linking.vouches(namespace, key, entry.version):
            return None
        return namespace.judge(key, entry, self._node.clock.now())

    def _known_barriers(self) -> list[tuple[str, int, Selector]]:
        whole = make_selector(SelectorKind.NAMESPACE, EVERYTHING)
        known: list[tuple[str, int, Selector]] = []
        for namespace in self._node.namespaces:
            name, log = namespace.policy.name, namespace.barriers
            noted = log.barriers() + namespace.expiries.barriers()
            known += [(name, position, selector) for position, selector in noted]
            known += [(name, log.floor, whole)] if log.floor else []
        return known

    def _adopt(self, name: str, position: int, selector: Selector) -> None:
        namespace = self._node.namespaces.get(name)
        if namespace is not None:
            self._node.barriers.note(namespace, position, selector)

    # Who has come, and who has gone.

    def _viewed(self, former: View | None, view: View) -> None:
        tier, stayed = self._tier, set(map(identity, view.members))
        strange = former is None or not self._node.placement.follows
        gone = [member for member in (former.members if former else ()) if identity(member) not in stayed]
        missed = set(map(identity, gone)) - self._parted
        self._parted &= stayed
        if strange or missed:
            tier.bereave(make_version(view.epoch, 0))
        if strange:  # barriers may have been ordered while this node was no member
            tier.disown()

    def _hand_on(self, _view: View) -> Coroutine[Any, Any, None] | None:
        """Tell the members what the shared store has missed: who came with this view does not know it."""
        missed, barriers = self._tier.missed(), self._tier.missed_barriers()
        return self._tell_all_missed(missed, barriers) if missed or barriers else None

    async def _tell_all_missed(
        self, missed: dict[str, list[tuple[bytes, int]]], barriers: Sequence[tuple[str, int, Selector]]
    ) -> None:
        for namespace, drops in missed.items():
            await self._tell_missed(namespace, drops)
        for namespace, position, selector in barriers:
            await self._node.tell_all(again(namespace, position, selector))

    async def _tell_missed(self, namespace: str, missed: Sequence[tuple[bytes, int]]) -> None:
        keys, versions = [key for key, _ in missed], [version for _, version in missed]
        await self._node.tell_all(Batch(Operation.DISTRUST, namespace, keys, tokens=versions))

    # Leaving in good order.

    async def bequeath(self) -> None:
        """Tell the others what this node has brought to L2 of late: it has ended its writes, and is going to resign."""
        node = self._node
        view = node.placement.view
        others = [member.id for member in view.members if member.id != node.placement.me.id] if view else []
        if node.tier is None or not node.closed or not others:
            return
        left = node.tier.testament()
        if left is None:
            return
        parts = [
            self._part(namespace, *zip(*written[at : at + _PART_KEYS], strict=True))
            for namespace, written in left.items()
            for at in range(0, len(written), _PART_KEYS)
        ]
        shares = [self._give(heir, parts[at :: len(others)]) for at, heir in enumerate(others)]
        if not all(await asyncio.gather(*shares)):
            return
        me = identity(node.placement.me)
        word = self._part(DEFAULT_NAMESPACE, [text.encode() for text in me], (0, 0), (0.0, 0.0))
        await asyncio.gather(*(self._give(other, [word]) for other in others))

    def _part(self, namespace: str, keys: Sequence[bytes], versions: Sequence[int], left_s: Sequence[float]) -> Batch:
        return Batch(
            Operation.BEQUEATH,
            namespace,
            keys,
            ttls_ms=[int(seconds * 1_000) for seconds in left_s],
            tokens=versions,
            timeout_s=_TAKEN_S,
            epoch=self._node.placement.epoch,
        )

    async def _give(self, heir: str, parts: Sequence[Batch]) -> bool:
        try:
            for part in parts:
                answer = await self._node.ask(heir, part)
                if answer.failures or not all(answer.versions):
                    return False
        except PeerUnavailable:
            return False
        return True

    def _inherit(self, batch: Batch) -> bool:
        """Take a part of what a member leaves, or its last word. Return False if it is not to be believed."""
        tier = self._node.tier
        if tier is None or batch.epoch != self._node.placement.epoch or len(batch.ttls_ms) != len(batch.keys):
            return False
        if any(batch.tokens):
            left_s = (ttl_ms / 1_000 for ttl_ms in batch.ttls_ms)
            return tier.inherit(batch.namespace, list(zip(batch.keys, batch.tokens, left_s, strict=True)))
        if not tier.available or len(batch.keys) != len(identity(self._node.placement.me)):
            return False
        who, incarnation = (text.decode() for text in batch.keys)
        self._parted.add((who, incarnation))
        return True

    # Asking and answering.

    async def _ask(self, newcomer: bool) -> None:
        """Have all members bring the store up to date, and take the highest of their floors."""
        node, tier, answers = self._node, self._tier, list[BatchResult | None]()
        batch = Batch(Operation.REPLAY, DEFAULT_NAMESPACE, _QUESTIONS, tokens=[node.placement.epoch, int(newcomer)])
        await node.tell_all(batch, heard=answers.append)
        given = [
            answer.versions for answer in answers if answer is not None and len(answer.versions) == len(_QUESTIONS)
        ]
        for floor, _ in given:
            tier.give_up(floor)
        if not newcomer:
            return
        if any(sure for _, sure in given):
            if node.placement.epoch == batch.tokens[0]:  # while that one is there it knows who had gone before
                tier.console()
        elif None in answers:
            tier.give_up(make_version(node.placement.epoch, 0))

    async def _answer(self, batch: Batch, reply: Reply) -> None:
        """Bring L2 up to date for another node, and say what it is not to believe."""
        node, asked = self._node, range(len(batch.keys))
        floor = sure = 0
        failed = batch.tokens[0] > node.placement.epoch
        if node.tier is not None and not failed:
            try:
                await node.tier.replay(newcomer=len(batch.tokens) > 1 and batch.tokens[1] == 1)
                sure = int(not node.tier.must_adopt)
            except L2Unavailable:
                failed = not node.tier.cut_off
                if not failed:
                    node.tier.fear()
                    await self._tell_all_missed(node.tier.missed(), node.tier.missed_barriers())
            floor = node.tier.floor
        failures = dict.fromkeys(asked, NOT_READY) if failed else {}
        reply(BatchResult(asked, versions=[floor, sure][: len(asked)], failures=failures))
