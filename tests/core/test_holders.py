"""Holders of copies: leases, acknowledgements and rounds; and who may hold which key."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cachenode.core import holders
from cachenode.core.holders import DRIFT, NEAR_LEASE_S, Exposure, Holder, Round

GRANTED = NEAR_LEASE_S * (1 + DRIFT)


def holder_of() -> Holder[str]:
    """Return a holder whose session counts what it is told, as a real one does."""

    def tell(*_: object) -> None:
        holder.sequence += 1

    holder: Holder[str] = Holder(tell)
    return holder


def told(holder: Holder[str], now: float, waiter: str = "w") -> Round[str]:
    """Tell a holder of something and let a round wait for it."""
    holder.tell("n", [b"k"], ())
    waiting: Round[str] = Round(waiter)
    holder.awaited_by(waiting, now)
    return waiting


# Leases and rounds.


def test_lease_is_shorter_for_the_client_than_for_the_node() -> None:
    """The client counts less from its question than the node from when it came: their clocks may drift."""
    holder = holder_of()
    assert holder.granted(100.0, math.inf) == NEAR_LEASE_S * (1 - DRIFT)
    assert holder.until == 100.0 + GRANTED


def test_lease_is_bounded_by_the_nodes_own() -> None:
    """A client never serves longer than the node may act as owner; a node without a lease grants none."""
    holder = holder_of()
    assert holder.granted(100.0, 1.1) == pytest.approx(1 - DRIFT)
    assert holder.until == pytest.approx(101.1)
    assert holder.granted(100.0, 0.0) == 0.0
    assert holder.until == pytest.approx(101.1)


def test_grant_never_shortens_a_lease() -> None:
    """What was granted once is counted on, also after a shorter grant."""
    holder = holder_of()
    holder.granted(100.0, math.inf)
    holder.granted(100.0, 0.5)
    assert holder.until == 100.0 + GRANTED


def test_nobody_waits_without_need() -> None:
    """A holder without a live lease, or that has acknowledged all, is not waited for."""
    holder = holder_of()
    assert told(holder, 100.0).left == 0
    holder.granted(100.0, math.inf)
    assert told(holder, 100.0 + GRANTED).left == 0
    holder.heard(2)
    assert not holder.awaited_by(Round("w"), 100.0)
    assert holder.awaited == 0


def test_acknowledgements_are_cumulative() -> None:
    """One number ends all rounds up to it, in order, and none beyond."""
    holder = holder_of()
    holder.granted(100.0, math.inf)
    rounds = [told(holder, 100.0, name) for name in ("a", "b", "c")]
    assert holder.heard(2) == rounds[:2]
    assert (holder.awaited, [one.left for one in rounds]) == (1, [0, 0, 1])
    assert holder.heard(1) == []
    assert holder.acknowledged == 2
    assert holder.heard(99) == rounds[2:]
    assert holder.acknowledged == 3, "what was not sent cannot be acknowledged"


def test_round_ends_with_its_last_holder() -> None:
    """A round for several holders is complete once each has acknowledged, said goodbye or lost its lease."""
    three = [holder_of() for _ in range(3)]
    waiting: Round[str] = Round("w")
    for holder in three:
        holder.granted(100.0, math.inf)
        holder.tell("n", [b"k"], ())
        assert holder.awaited_by(waiting, 100.0)
    assert waiting.left == 3
    assert three[0].heard(1) == []
    assert three[1].end() == []
    assert three[2].expired(100.0 + GRANTED - 0.01) == []
    assert three[2].expired(100.0 + GRANTED) == [waiting]


def test_laggard_loses_its_lease() -> None:
    """A holder that has not acknowledged for a while is granted nothing, so its lease ends in time."""
    holder = holder_of()
    holder.granted(100.0, math.inf)
    waiting = told(holder, 100.0)
    assert holder.granted(100.1, math.inf) > 0, "not so soon"
    assert holder.granted(100.5, math.inf) == 0.0
    assert holder.until == pytest.approx(100.1 + GRANTED)
    assert holder.expired(100.1 + GRANTED) == [waiting]
    assert holder.granted(103.0, math.inf) == 0.0, "nor after that, before it has caught up"
    holder.heard(1)
    assert holder.granted(103.0, math.inf) > 0


def test_grant_after_acknowledging() -> None:
    """Once it has caught up, a laggard is granted its lease again."""
    holder = holder_of()
    holder.granted(100.0, math.inf)
    waiting = told(holder, 100.0)
    assert holder.granted(101.0, math.inf) == 0.0
    assert holder.heard(1) == [waiting]
    assert holder.granted(101.0, math.inf) > 0


def test_ended_stream_keeps_its_lease() -> None:
    """The client may serve after the node has seen the stream end, though it had acknowledged all before."""
    holder = holder_of()
    holder.granted(100.0, math.inf)
    holder.tell("n", [b"k"], ())
    holder.heard(1)
    holder.tell = lambda *_: None
    holder.lost()
    waiting = told(holder, 100.0)
    assert waiting.left == 1
    assert holder.expired(100.0 + GRANTED) == [waiting]


def test_holder_shows_what_it_waits_for() -> None:
    """Its form for people holds numbers alone."""
    holder = holder_of()
    holder.granted(100.0, math.inf)
    told(holder, 100.0)
    assert repr(holder) == "<Holder sent=1 acknowledged=0 awaited=1>"


# Exposure.


def test_exposed_again_after_invalidation() -> None:
    """Who is told forgets its copy; who reads again holds one again, and is told again."""
    exposure: Exposure[str] = Exposure()
    holder = holder_of()
    exposure.note([b"a", b"b"], holder)
    assert exposure.take([b"a", b"x"]) == {holder: [b"a"]}
    assert exposure.take([b"a"]) == {}
    exposure.note([b"a"], holder)
    assert exposure.take([b"a", b"b"]) == {holder: [b"a", b"b"]}


def test_second_writer_waits_too() -> None:
    """Until it has acknowledged, a holder that was told may still serve the copy: it stays in doubt."""
    exposure: Exposure[str] = Exposure()
    holder = holder_of()
    holder.granted(100.0, math.inf)
    exposure.note([b"k"], holder)
    exposure.take([b"k"])
    holder.drop("n", [b"k"], exposure, 100.0)
    assert (exposure.take([b"k"]), exposure.doubtful([b"k", b"x"]), exposure.of(b"k")) == ({}, [holder], [holder])
    holder.heard(1)
    assert (exposure.doubtful([b"k"]), exposure.of(b"k")) == ([], [])


def test_told_again_before_acknowledging() -> None:
    """Each word to drop is acknowledged on its own: the first acknowledgement does not stand for the second."""
    exposure: Exposure[str] = Exposure()
    holder = holder_of()
    holder.granted(100.0, math.inf)
    for _ in range(2):
        holder.drop("n", [b"k"], exposure, 100.0)
    holder.heard(1)
    assert exposure.doubtful([b"k"]) == [holder]
    holder.heard(2)
    assert exposure.doubtful([b"k"]) == []


@pytest.mark.parametrize("how", ["goodbye", "expiry"])
def test_doubt_ends_with_the_lease(how: str) -> None:
    """A holder that serves nothing any more is in doubt no more, whatever it has not acknowledged."""
    exposure: Exposure[str] = Exposure()
    holder = holder_of()
    holder.granted(100.0, math.inf)
    holder.drop("n", [b"k"], exposure, 100.0)
    assert holder.expired(100.1) == []
    assert exposure.doubtful([b"k"]) == [holder]
    assert (holder.end() if how == "goodbye" else holder.expired(100.0 + GRANTED)) == []
    assert exposure.doubtful([b"k"]) == []


def test_nobody_is_in_doubt_without_a_lease() -> None:
    """What a holder is told without a lease it hears before it is granted the next one."""
    exposure: Exposure[str] = Exposure()
    holder = holder_of()
    holder.drop("n", [b"k"], exposure, 100.0)
    assert exposure.doubtful([b"k"]) == []


def test_holder_that_never_acknowledges_gets_no_lease() -> None:
    """Also where no writer waits: else what it was told would be remembered for ever."""
    exposure: Exposure[str] = Exposure()
    holder = holder_of()
    holder.granted(100.0, math.inf)
    holder.drop("n", [b"k"], exposure, 100.0)
    assert holder.granted(101.0, math.inf) > 0
    assert holder.granted(102.1, math.inf) == 0.0


def test_several_holders_of_a_key() -> None:
    """Each of the sessions that read a key is told, once."""
    exposure: Exposure[str] = Exposure()
    one, two, three = (holder_of() for _ in range(3))
    for holder in (one, two, three, two):
        exposure.note([b"k"], holder)
    assert set(exposure.of(b"k")) == {one, two, three}
    assert exposure.take([b"k"]) == {one: [b"k"], two: [b"k"], three: [b"k"]}
    assert len(exposure) == 0


def test_forgets_by_generations() -> None:
    """What was noted is known for one whole generation at least, and for two at most."""
    exposure: Exposure[str] = Exposure()
    one, two = holder_of(), holder_of()
    exposure.note([b"a"], one)
    exposure.turn()
    exposure.note([b"a"], two)
    assert set(exposure.of(b"a")) == {one, two}
    exposure.turn()
    assert (exposure.of(b"a"), list(exposure.holders)) == ([two], [two])
    exposure.turn()
    assert (exposure.of(b"a"), list(exposure.holders)) == ([], [])


def test_who_is_in_doubt_still_counts_in_the_next_generation() -> None:
    """A barrier must reach who has not acknowledged a key, although nothing else of it is known any more."""
    exposure: Exposure[str] = Exposure()
    holder = holder_of()
    holder.granted(100.0, math.inf)
    exposure.note([b"k"], holder)
    exposure.take([b"k"])
    holder.drop("n", [b"k"], exposure, 100.0)
    exposure.turn()
    assert list(exposure.holders) == [holder]


def test_exposure_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full generation takes no more keys; the next one does."""
    monkeypatch.setattr(holders, "MAX_EXPOSED", 2)
    exposure: Exposure[str] = Exposure()
    exposure.note([b"a"], holder_of())
    assert not exposure.full
    exposure.note([b"b"], holder_of())
    assert exposure.full
    exposure.turn()
    assert not exposure.full


def test_clear_forgets_everything() -> None:
    """After a clear nobody holds anything."""
    exposure: Exposure[str] = Exposure()
    exposure.note([b"a"], holder_of())
    assert repr(exposure) == "<Exposure 1 keys to 1 holders>"
    exposure.clear()
    assert (len(exposure), exposure.of(b"a"), dict(exposure.holders)) == (0, [], {})


KEYS = [b"a", b"b", b"c"]


class ExposureMachine(RuleBasedStateMachine):
    """Against clients that keep every copy as long as they may: whoever may serve one is known.

    A writer does as `Invalidations.announce` does; the clients hear of it whenever the rules say so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.exposure: Exposure[str] = Exposure()
        self.holders = [holder_of() for _ in range(3)]
        self.copies: dict[tuple[int, bytes], int] = {}  # generation in which each copy came
        self.words: list[list[list[bytes]]] = [[] for _ in self.holders]  # told, not heard of by the client
        self.generation = 0
        for holder in self.holders:
            holder.granted(0.0, math.inf)

    @rule(who=st.integers(0, 2), keys=st.lists(st.sampled_from(KEYS), min_size=1))
    def read(self, who: int, keys: list[bytes]) -> None:
        """A client gets copies, behind all that it was told so far."""
        self.hear(who)
        self.exposure.note(keys, self.holders[who])
        self.copies.update({(who, key): self.generation for key in keys})

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, unique=True))
    def write(self, keys: list[bytes]) -> None:
        """A writer tells who may have the keys; all who do are told or in doubt."""
        told = self.exposure.take(keys)
        for holder, held in told.items():
            holder.drop("n", held, self.exposure, 1.0)
            self.words[self.holders.index(holder)].append(list(held))
        waited_for = {*told, *self.exposure.doubtful(keys)}
        assert {self.holders[who] for who, key in self.copies if key in keys} <= waited_for

    def hear(self, who: int) -> None:
        for held in self.words[who]:
            for key in held:
                self.copies.pop((who, key), None)
        self.words[who].clear()

    @rule(who=st.integers(0, 2))
    def acknowledge(self, who: int) -> None:
        """A client acts on all that it was told, and says so."""
        self.hear(who)
        self.holders[who].heard(self.holders[who].sequence)

    @rule()
    def turn(self) -> None:
        """A generation passes, which is longer than a copy is used: those of the one before are dead."""
        self.generation += 1
        self.exposure.turn()
        self.copies = {copy: born for copy, born in self.copies.items() if born >= self.generation - 1}

    @invariant()
    def nobody_is_overlooked(self) -> None:
        """Who may serve a copy is among those known for its key, and among those whom a barrier reaches."""
        for who, key in self.copies:
            assert self.holders[who] in self.exposure.of(key)
            assert self.holders[who] in self.exposure.holders

    @invariant()
    def nothing_is_kept_for_ever(self) -> None:
        """Once all have acknowledged nobody is in doubt."""
        if all(holder.acknowledged == holder.sequence for holder in self.holders):
            assert self.exposure.doubtful(KEYS) == []


ExposureMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestExposureMachine = ExposureMachine.TestCase
