"""Rounds as plain data: who leads, who shares, and what a token still means."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cachenode.core.rounds import Place, Round, Rounds, lender_mark
from cachenode_api.version import make_version
from cachenode_api.view import Member

K: Place = ("default", b"k")


def rounds_of(name: str = "a", incarnation: str = "1") -> Rounds[str]:
    return Rounds(Member(name, incarnation, f"{name}:7401"))


def begin(rounds: Rounds[str], *callers: str, holder: str = "holder", deadline: float = math.inf) -> Round[str]:
    """Let callers come, the first of whom leads."""
    for caller in callers:
        rounds.join(K, caller)
    return rounds.begin(K, callers[0], holder, deadline)


def test_caller_during_a_load_shares_the_next() -> None:
    """Who comes after a round has begun is not told what it brings."""
    rounds = rounds_of()
    first = begin(rounds, "leader", "before")
    rounds.join(K, "during")
    assert rounds.end(first) == ["before"]
    assert rounds.queue(K) == ["during"]
    second = rounds.begin(K, "during", None, math.inf)
    assert second.token != first.token
    assert rounds.end(second) == []
    assert rounds.queue(K) == []


def test_lost_round_goes_first() -> None:
    """Those who shared a round that ended without a value wait before those who came later; its leader does not."""
    rounds = rounds_of()
    first = begin(rounds, "leader", "early", "earlier")
    rounds.join(K, "late")
    rounds.lose(first)
    assert rounds.queue(K) == ["early", "earlier", "late"]
    assert rounds.running(K) is None


def test_late_holder_means_nothing() -> None:
    """A token is good for its key and until its round ends, whatever round runs then."""
    rounds = rounds_of()
    first = begin(rounds, "leader", "other", deadline=5.0)
    assert rounds.of(K, first.token) is first
    assert rounds.of(("default", b"other"), first.token) is None
    assert rounds.of(("side", b"k"), first.token) is None
    assert rounds.expire(4.9) == []
    assert rounds.expire(5.0) == [first]
    second = rounds.begin(K, "other", None, 9.0)
    assert rounds.of(K, first.token) is None
    assert rounds.of(K, second.token) is second
    assert rounds.expire(8.9) == []
    assert len(rounds) == 1


def test_tokens_of_two_nodes_differ() -> None:
    """A token names the life of the node that lent it; an owner's token, which is a version, names nobody."""
    lenders = [rounds_of("a"), rounds_of("b"), rounds_of("a", "2")]
    tokens = [begin(lender, "leader").token for lender in lenders]
    assert [lender_mark(token) for token in tokens] == [lender.mark for lender in lenders]
    assert len(set(tokens)) == 3
    assert Rounds.mark_of(Member("a", "1", "elsewhere:1")) == lenders[0].mark
    assert lender_mark(make_version(1_000_000, 1)) == 0
    assert all(0 < token < 1 << 64 for token in tokens)


def test_caller_who_goes_is_forgotten() -> None:
    """Neither a round nor the queue keeps who waits no more; an empty queue is none."""
    rounds = rounds_of()
    first = begin(rounds, "leader", "gone", "stays")
    rounds.join(K, "late")
    for caller in ("gone", "late", "never came"):
        rounds.leave(K, caller)
    assert rounds.queue(K) == []
    assert rounds.end(first) == ["stays"]
    rounds.leave(K, "stays")
    rounds.join(K, "other")
    assert rounds.dismiss(K) == ["other"]
    assert rounds.dismiss(K) == rounds.queue(K) == []


def test_clear_ends_everything() -> None:
    """All rounds and all who wait are given back, those who share before those who queue."""
    rounds = rounds_of()
    first = begin(rounds, "leader", "shares")
    rounds.join(K, "queues")
    rounds.join(("side", b"k"), "alone")
    assert rounds.clear() == ([first], ["shares", "queues", "alone"])
    assert (len(rounds), rounds.queue(K), rounds.running(K)) == (0, [], None)
    assert rounds.expire(math.inf) == []


class RoundsMachine(RuleBasedStateMachine):
    """Rounds of one key: nobody is told of a load that began before it had asked, and nobody is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds = rounds_of()
        self.now = 0.0
        self.asked: dict[str, float] = {}
        self.waiting: set[str] = set()
        self.begun: dict[int, float] = {}

    @rule()
    def ask(self) -> None:
        """A caller comes."""
        self.now += 1
        caller = f"c{self.now}"
        self.asked[caller] = self.now
        self.waiting.add(caller)
        self.rounds.join(K, caller)

    @rule(lease=st.integers(1, 4), holder=st.sampled_from("xy"))
    def begin(self, lease: int, holder: str) -> None:
        """A round begins, if somebody waits and none is under way."""
        self.now += 1
        queue = self.rounds.queue(K)
        if queue and self.rounds.running(K) is None:
            found = self.rounds.begin(K, queue[0], holder, self.now + lease)
            self.begun[found.token] = self.now
            self.waiting.discard(queue[0])

    @rule()
    def fulfil(self) -> None:
        """The round has an outcome."""
        running = self.rounds.running(K)
        if running is not None:
            for caller in self.rounds.end(running):
                assert self.asked[caller] < self.begun[running.token]
                self.waiting.remove(caller)

    @rule(number=st.integers(0, 9))
    def leave(self, number: int) -> None:
        """A caller goes."""
        if self.waiting:
            caller = sorted(self.waiting)[number % len(self.waiting)]
            self.rounds.leave(K, caller)
            self.waiting.remove(caller)

    @rule(holder=st.sampled_from("xy"))
    def gone(self, holder: str) -> None:
        """A holder goes."""
        self.rounds.release(holder)

    @rule()
    def expire(self) -> None:
        """Leases end."""
        self.now += 1
        self.rounds.expire(self.now)

    @invariant()
    def agrees(self) -> None:
        """Who waits is in the queue or shares the round, in the order in which they asked."""
        running = self.rounds.running(K)
        found = [*(running.sharing if running is not None else ()), *self.rounds.queue(K)]
        assert set(found) == self.waiting
        assert found == sorted(found, key=self.asked.__getitem__)
        assert len(self.rounds) == (running is not None)


TestRoundsMachine = RoundsMachine.TestCase
TestRoundsMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
