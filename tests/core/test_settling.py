from __future__ import annotations

import functools
import math
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cachenode.adapters.registry_memory import MemoryRegistry
from cachenode.core.settling import Settling, identity
from cachenode.ports import Renewal
from cachenode_api.ring import Ring
from cachenode_api.view import Member, View

SEED = b"0123456789abcdef"
LEASE_S = 4.0
KEYS = [b"k%d" % number for number in range(24)]


def member(name: str) -> Member:
    """Return a member: "b" is its first incarnation, "b2" its second."""
    return Member(name[0], name[1:] or "1", f"{name[0]}:1")


def view_of(epoch: int, *names: str) -> View:
    return View(epoch, SEED, tuple(map(member, names)))


class One:
    """One node that is told views and words by hand."""

    def __init__(self, name: str = "a", *linked: str) -> None:
        self.me = member(name)
        self.settling = Settling(LEASE_S)
        self.view: View | None = None
        for peer in linked:
            self.settling.linked(identity(member(peer)))

    def sees(self, epoch: int, *names: str, follows: bool = True, replaced: bool = False) -> None:
        former, self.view = self.view, view_of(epoch, *names)
        ring = Ring(former) if former is not None else None
        self.settling.change(self.me, former, self.view, ring=ring, follows=follows, replaced=replaced)

    def settled(self, epoch: int, *names: str) -> One:
        """Put it in a view for which all others have given their word."""
        self.sees(epoch, *names)
        self.hears(epoch, *names)
        assert not self.settling.unsettled
        return self

    def hears(self, epoch: int, *names: str) -> None:
        for name in names:
            self.settling.told(identity(member(name)), epoch)

    @property
    def unsettled(self) -> bool:
        return self.settling.unsettled

    def blocked(self) -> set[bytes]:
        """Return its keys that wait."""
        assert self.view is not None
        ring = Ring(self.view)
        return {key for key in KEYS if ring.owner(key) == self.me.id and self.settling.blocks(self.me.id, key)}


def owned(view: View, name: str = "a") -> set[bytes]:
    ring = Ring(view)
    return {key for key in KEYS if ring.owner(key) == name}


def test_paused_former_owner() -> None:
    """A member that stands still is waited for until its lease must be over, counted from the first tick.

    Scenario 24.
    """
    node = One("a", "b", "c").settled(1, "a", "b", "c")
    node.sees(2, "a", "b")
    node.settling.left(("c", "1"))
    assert node.unsettled
    node.settling.tick(100.0)
    node.settling.tick(104.3)
    assert node.unsettled
    node.settling.tick(104.4)
    assert not node.unsettled
    assert node.blocked() == set()


def test_silent_member_is_given_up_with_the_view_that_leaves_it_out() -> None:
    """A member without a link that the registry gives up has no lease; one that is only silent may have."""
    node = One("a").settled(1, "a", "b", "c")
    node.sees(2, "a", "b")
    assert node.unsettled
    node.settling.unlinked(("b", "1"))
    assert node.unsettled
    node.sees(3, "a")
    assert not node.unsettled


def test_one_way_partition() -> None:
    """An owner that cannot reach the registry, but is linked, acts until its lease is over: it is waited for.

    Scenario 26.
    """
    node = One("a", "b").settled(1, "a", "b")
    node.sees(2, "a")
    assert node.blocked() == owned(view_of(2, "a")) - owned(view_of(1, "a", "b"))
    node.settling.unlinked(("b", "1"))
    assert node.unsettled, "a view that leaves it out has cost it the link"
    node.sees(3, "a", "c")
    assert node.unsettled
    node.settling.tick(0.0)
    node.settling.tick(4.4)
    assert not node.unsettled


def test_restart_under_the_same_id() -> None:
    """Who has replaced a live lease waits for its end, with all its keys; the others gain nothing and go on."""
    node, other = One("b2"), One("a", "b").settled(2, "a", "b")
    node.sees(3, "a", "b2", replaced=True)
    other.sees(3, "a", "b2")
    node.hears(3, "a")
    assert node.blocked() == owned(view_of(3, "a", "b2"), "b")
    assert not other.unsettled
    other.sees(4, "a", "b2", "c")
    assert not other.unsettled
    node.settling.tick(0.0)
    node.settling.tick(4.4)
    assert not node.unsettled


def test_replaced_incarnation_is_not_given_up() -> None:
    """Who gains keys in the view that replaces an incarnation, linked or not, waits for the end of its lease too."""
    for before_the_wait in (True, False):
        node = One("a").settled(2, "a", "b", "c")
        if not before_the_wait:
            node.sees(3, "a", "b")
        node.sees(node.view.epoch + 1, "a", "b2")
        node.hears(9, "b2")
        node.settling.tick(0.0)
        node.settling.tick(4.3)
        assert node.unsettled
        node.settling.tick(4.4)
        assert not node.unsettled


def test_incarnation_that_said_goodbye_is_not_waited_for() -> None:
    """A member that left on purpose has released everything, also if it is linked still or has come back since."""
    node = One("a", "b").settled(1, "a", "b")
    node.settling.left(("b", "1"))
    node.sees(2, "a")
    assert not node.unsettled
    assert node.settling.waits_since is None
    late = One("a", "b").settled(1, "a", "b")
    late.sees(2, "a")
    assert late.unsettled
    late.settling.left(("b", "1"))
    assert not late.unsettled


def test_view_while_unsettled() -> None:
    """What a second view brings waits besides what the first one brought, and each has its own end."""
    node = One("a", "b", "c", "d").settled(1, "a", "b", "c", "d")
    for name in "cd":
        node.settling.unlinked((name, "1"))
    node.sees(2, "a", "b", "c")
    first = node.blocked()
    node.settling.tick(0.0)
    node.sees(3, "a", "b")
    node.settling.tick(2.0)
    both = node.blocked()
    assert first < both == owned(view_of(3, "a", "b")) - owned(view_of(1, "a", "b", "c", "d"))
    node.hears(2, "b")
    assert node.blocked() == owned(view_of(3, "a", "b")) - owned(view_of(2, "a", "b", "c"))
    node.settling.tick(4.4)
    assert node.unsettled, "the second wait began later"
    node.settling.tick(6.4)
    assert not node.unsettled


def test_later_view_without_gain_leaves_the_wait() -> None:
    """A newcomer takes keys away; what was gained before goes on waiting for those that it waited for."""
    node = One("a", "b").settled(1, "a", "b", "c")
    node.sees(2, "a", "b")
    before = node.blocked()
    node.sees(3, "a", "b", "d")
    assert node.blocked() == before & owned(view_of(3, "a", "b", "d"))
    node.hears(3, "b")
    assert not node.unsettled


def test_clock_step_prunes_a_live_member() -> None:
    """A member that leaves the view though it is alive is waited for, and its word counts when it is back."""
    node = One("a", "b").settled(1, "a", "b")
    node.sees(2, "a")
    assert node.unsettled
    node.sees(3, "a", "b")
    assert node.unsettled
    assert node.blocked() == set(), "the ring is the same as before"
    node.hears(3, "b")
    assert not node.unsettled


def test_two_new_nodes_at_once() -> None:
    """Both are new in the view, so each waits for the other, and neither's word waits for anything."""
    one, two = One("a"), One("b")
    one.sees(1, "a", "b")
    two.sees(1, "a", "b")
    assert one.blocked() == owned(view_of(1, "a", "b"))
    assert (one.settling.waits_since, two.settling.waits_since) == (1, 1)
    one.hears(1, "b")
    two.hears(1, "a")
    assert (one.unsettled, two.unsettled) == (False, False)


def test_newcomer_is_not_waited_for() -> None:
    """A member that comes with a view owned nothing; if a view was missed it may have come with that one."""
    for follows in (True, False):
        node = One("a").settled(1, "a", "b", "c")
        node.sees(5, "a", "b", "d", follows=follows)
        node.hears(5, "b")
        assert node.unsettled != follows
        node.hears(5, "d")
        assert not node.unsettled


def test_keys_that_pass_through_an_unsettled_node() -> None:
    """A node's word is held back to its oldest wait: keys that it has gained may go on before they are settled."""
    middle = One("b", "c").settled(1, "b", "c")
    middle.sees(2, "b")
    assert middle.settling.waits_since == 2
    middle.sees(3, "a", "b")
    assert middle.settling.waits_since == 2
    middle.hears(2, "c")
    assert middle.settling.waits_since is None
    last = One("a")
    last.sees(3, "a", "b")
    last.hears(2, "b")
    assert last.unsettled
    last.hears(3, "b")
    assert not last.unsettled


def test_word_may_come_before_the_view() -> None:
    """A peer that is ahead has given its word when the view arrives here."""
    node = One("a", "b").settled(1, "a", "b", "c")
    node.hears(2, "b")
    node.sees(2, "a", "b")
    assert not node.unsettled


def test_missed_view_makes_everything_gained() -> None:
    """Who has missed a view cannot know who owned its keys meanwhile, so all of them wait for everybody."""
    node = One("a", "b").settled(1, "a", "b")
    node.sees(3, "a", "b", follows=False)
    assert node.blocked() == owned(view_of(3, "a", "b"))
    node.hears(3, "b")
    assert not node.unsettled


def test_back_after_a_view_without_this_node() -> None:
    """A node that was left out, or whose id another incarnation had, owned nothing of what it gets back."""
    for names in (("b",), ("a2", "b")):
        node = One("a").settled(1, "a", "b")
        node.sees(2, *names)
        node.sees(3, "a", "b")
        assert node.blocked() == owned(view_of(3, "a", "b"))


@pytest.mark.parametrize(
    ("change", "gains"),
    [
        ({"a": 2, "b": 2, "c": 1}, False),
        ({"a": 2, "b": 2}, False),
        ({"a": 2, "b": 3}, False),
        ({"a": 1, "b": 2}, False),
        ({"a": 3, "b": 2}, True),
        ({"a": 2, "b": 1}, True),
        ({"a": 2, "c": 9}, True),
    ],
)
def test_what_can_bring_keys(change: dict[str, int], gains: bool) -> None:
    """Keys come when this node's weight grows or another's shrinks; then, and only then, the ring gives it some."""

    def weighted(epoch: int, weights: dict[str, int], seed: bytes = SEED) -> View:
        return View(epoch, seed, tuple(Member(name, "1", f"{name}:1", "", w) for name, w in weights.items()))

    former, view = weighted(1, {"a": 2, "b": 2}), weighted(2, change)
    settling = Settling(LEASE_S)
    settling.linked(("b", "1"))
    settling.change(former.by_id["a"], former, view, ring=Ring(former))
    assert settling.unsettled == gains
    many = [b"%d" % number for number in range(2_000)]
    before, after = Ring(former), Ring(view)
    assert any(after.owner(key) == "a" != before.owner(key) for key in many) == gains
    other_seed = Settling(LEASE_S)
    other_seed.change(former.by_id["a"], former, weighted(2, {"a": 2, "b": 2}, b"x" * 16), ring=before)
    assert other_seed.unsettled


def test_little_is_remembered() -> None:
    """Of those that are neither members nor linked nor waited for nothing is kept."""
    node = One("a").settled(1, "a", "b")
    for epoch in range(2, 50):
        name = f"b{epoch}"
        node.settling.linked(identity(member(name)))
        node.sees(epoch, "a", name)
        node.hears(epoch, name)
        node.settling.left(identity(member(name)))
        node.settling.unlinked(identity(member(name)))
        node.settling.tick(epoch * 10.0)
    assert len(node.settling._words) <= 3
    assert len(node.settling._left) <= 3
    assert len(node.settling._waits) <= 1
    assert repr(node.settling).startswith("<Settling unsettled=False waits=")


# A cluster in which everything that can happen between two nodes happens in any order.


@functools.cache
def ring_of(names: tuple[str, ...]) -> Ring:
    return Ring(view_of(1, *names))


@functools.cache
def owner_of(names: tuple[str, ...], key: bytes) -> str | None:
    return ring_of(names).owner(key)


def ids(view: View) -> tuple[str, ...]:
    return tuple(each.id for each in view.members)


def at_once(call: Coroutine[Any, Any, Renewal | View | None]) -> Any:
    """Return the result of a coroutine that waits for nothing."""
    try:
        call.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


class Life:
    """One incarnation of a node: what the machine says, and what it may do by its lease."""

    def __init__(self, name: str, incarnation: int) -> None:
        self.me = Member(name, str(incarnation), f"{name}:1")
        self.settling = Settling(LEASE_S)
        self.view: View | None = None
        self.lease_until = -math.inf
        self.released = 0
        self.told = 0
        self.copies: dict[bytes, float] = {}
        """Keys that clients may serve by a grant under a former view, and until when."""
        self.call: tuple[float, Renewal | None] | None = None
        self.lost_answer = False
        self.replaced = False
        """Another process has its address: it acts by its lease, but reaches nobody."""

    def owns(self, key: bytes) -> bool:
        view = self.view
        return (
            view is not None
            and view.by_id.get(self.me.id) == self.me
            and owner_of(ids(view), key) == self.me.id
            and not (self.settling.unsettled and self.settling.blocks(self.me.id, key))
        )

    def acts(self, key: bytes, now: float) -> bool:
        """Return True if it or a client of its may serve the key or change it."""
        return now < self.copies.get(key, -math.inf) or (now < self.lease_until and self.owns(key))

    def apply(self, renewal: Renewal, sent_at: float) -> None:
        view = renewal.view
        former = self.view
        if former is None or view.epoch > former.epoch:
            for key in KEYS:
                if self.owns(key):  # no grant is longer than the lease
                    self.copies[key] = max(self.lease_until, self.copies.get(key, -math.inf))
            self.view = view
            ring = ring_of(ids(former)) if former is not None else None
            follows = former is not None and view.epoch == former.epoch + 1
            self.settling.change(self.me, former, view, ring=ring, follows=follows, replaced=renewal.replaced)
        assert self.view is not None
        if self.view.epoch == view.epoch:
            self.lease_until = max(self.lease_until, sent_at + 0.9 * LEASE_S)

    def word(self) -> int:
        since = self.settling.waits_since
        return self.released if since is None else min(since, self.released)


class Cluster(RuleBasedStateMachine):
    """Lives, their links, and a registry whose word takes its time."""

    numbers = st.integers(0, 999)

    def __init__(self) -> None:
        super().__init__()
        self.time, self.step = 1_000.0, 0.0
        self.registry = MemoryRegistry(self, lease_s=LEASE_S, seed=lambda: SEED)
        self.lives: list[Life] = []
        self.links: dict[frozenset[Life], dict[Life, list[int]]] = {}
        """For each pair that is linked, what is on the way to either; 0 stands for leaving."""
        self.incarnation = 0

    def now(self) -> float:
        return self.time + self.step

    @initialize(count=st.integers(1, 4))
    def begin(self, count: int) -> None:
        for name in "abcd"[:count]:
            self.start(name)
        self.calm()
        self.calm()

    # What nodes do.

    def start(self, name: str) -> None:
        self.incarnation += 1
        self.lives.append(Life(name, self.incarnation))

    def some(self, number: int) -> Life | None:
        able = [life for life in self.lives if not life.replaced]
        return able[number % len(able)] if able else None

    def ask(self, life: Life) -> None:
        life.lost_answer |= life.call is not None
        life.call = (self.time, None)

    def arrive(self, life: Life) -> None:
        if life.call is not None and life.call[1] is None:
            renewal = at_once(self.registry.renew(life.me, life.view))
            assert renewal is not None
            unsure = life.lost_answer and life.view is None
            life.call = (life.call[0], Renewal(renewal.view, renewal.replaced or unsure))

    def answer(self, life: Life) -> None:
        sent_at, renewal = life.call or (0.0, None)
        if renewal is not None:
            life.call = None
            life.apply(renewal, sent_at)
            self.say(life)

    def let_go(self, life: Life) -> None:
        life.copies.clear()
        life.released = life.view.epoch if life.view is not None else 0
        self.say(life)

    def say(self, life: Life) -> None:
        if life.word() > life.told:
            life.told = life.word()
            for pair, ways in self.links.items():
                if life in pair:
                    ways[self.other(pair, life)].append(life.told)

    @staticmethod
    def other(pair: frozenset[Life], life: Life) -> Life:
        return next(each for each in pair if each is not life)

    def hear(self, pair: frozenset[Life], life: Life) -> None:
        ways, peer = self.links[pair], identity(self.other(pair, life).me)
        if ways[life]:
            word = ways[life].pop(0)
            if word:
                life.settling.told(peer, word)
            else:
                life.settling.left(peer)
            self.say(life)

    def connect(self, one: Life, two: Life) -> None:
        pair = frozenset((one, two))
        if one.me.id != two.me.id and pair not in self.links:
            self.links[pair] = {one: [two.told] * (two.told > 0), two: [one.told] * (one.told > 0)}
            one.settling.linked(identity(two.me))
            two.settling.linked(identity(one.me))

    def cut(self, pair: frozenset[Life]) -> None:
        del self.links[pair]
        for life in pair:
            life.settling.unlinked(identity(self.other(pair, life).me))

    def end(self, life: Life) -> None:
        for pair in [pair for pair in self.links if life in pair]:
            self.cut(pair)
        life.call = None

    # What happens.

    @rule(seconds=st.sampled_from([0.1, 0.6, 1.0, 1.9]), awake=st.booleans())
    def wait(self, seconds: float, awake: bool) -> None:
        """Let time pass; nodes that are frozen do not look at the clock."""
        self.time += seconds
        for life in self.lives if awake else ():
            life.settling.tick(self.time)
            self.say(life)

    @rule(number=numbers)
    def renew(self, number: int) -> None:
        """Take the next step of a renewal: it is sent, done, answered."""
        life = self.some(number)
        if life is not None:
            act = self.ask if life.call is None else self.arrive if life.call[1] is None else self.answer
            act(life)

    @rule(number=numbers)
    def renew_whole(self, number: int) -> None:
        """Renew without delay."""
        life = self.some(number)
        if life is not None:
            self.ask(life)
            self.arrive(life)
            self.answer(life)

    @rule(number=numbers)
    def release(self, number: int) -> None:
        """End what is left from before the view in force."""
        life = self.some(number)
        if life is not None:
            self.let_go(life)

    @rule(number=numbers)
    def pass_on(self, number: int) -> None:
        """Deliver a word."""
        ways = [(pair, life) for pair, ways in self.links.items() for life in ways if ways[life]]
        if ways:
            self.hear(*ways[number % len(ways)])

    @rule(one=numbers, two=numbers)
    def connect_two(self, one: int, two: int) -> None:
        """Bring a link up."""
        here, there = self.some(one), self.some(two)
        if here is not None and there is not None:
            self.connect(here, there)

    @rule(number=numbers)
    def cut_one(self, number: int) -> None:
        """Cut a link, with what is on the way."""
        if self.links:
            self.cut(list(self.links)[number % len(self.links)])

    @rule(name=st.sampled_from("abcd"))
    def join(self, name: str) -> None:
        """Start a node; if its id has a process that stands still, that one loses its address."""
        for life in [life for life in self.lives if life.me.id == name]:
            self.end(life)
            life.replaced = True
        self.start(name)

    @rule(number=numbers)
    def crash(self, number: int) -> None:
        """End a process without a word; its clients go on as long as their grants."""
        life = self.some(number)
        if life is not None:
            self.end(life)
            for key in KEYS:
                if life.owns(key):
                    life.copies[key] = max(life.lease_until, life.copies.get(key, -math.inf))
            life.view, life.lease_until, life.replaced = None, -math.inf, True

    @rule(number=numbers)
    def leave(self, number: int) -> None:
        """Stop a node in good order: its copies end, and if it waits for nothing it says so and its lease goes back."""
        life = self.some(number)
        if life is None:
            return
        self.lives.remove(life)
        orderly = life.view is not None and not life.settling.unsettled
        for pair, ways in self.links.items() if orderly else ():
            if life in pair:
                peer = self.other(pair, life)
                ways[peer].append(0)
                while ways[peer]:
                    self.hear(pair, peer)
        if orderly:
            at_once(self.registry.leave(life.me))
        self.end(life)

    @rule()
    def calm(self) -> None:
        """Let everything take its course: links, renewals, releases, words."""
        able = [life for life in self.lives if not life.replaced]
        for one in able:
            for two in able:
                self.connect(one, two)
        for life in [*able, *able]:
            self.ask(life)
            self.arrive(life)
            self.answer(life)
            self.let_go(life)
        for pair, ways in list(self.links.items()):
            for life in pair:
                while ways[life]:
                    self.hear(pair, life)

    @rule(order=st.permutations(range(4)))
    def registry_clock_steps(self, order: list[int]) -> None:
        """Let the registry's clock jump ahead while all are linked; each renews in turn, and finds the others gone."""
        able = [life for life in self.lives if not life.replaced]
        if len(able) < len(self.lives) or len(self.links) < len(able) * (len(able) - 1) // 2:
            return
        if any(life.view is None or life.call is not None for life in able):
            return
        self.step += 5.0
        for index in order:
            if index < len(able):
                life = able[index]
                self.ask(life)
                self.arrive(life)
                self.answer(life)

    @invariant()
    def one_acts_for_a_key(self) -> None:
        """At no time may two act for the same key."""
        self.lives = [life for life in self.lives if not life.replaced or self.lasts(life)]
        for key in KEYS:
            acting = [life.me for life in self.lives if life.acts(key, self.time)]
            assert len({each.id + each.incarnation for each in acting}) <= 1, (key, acting)

    def lasts(self, life: Life) -> bool:
        return max(life.lease_until, *life.copies.values(), 0.0) > self.time

    def teardown(self) -> None:
        """Whatever happened, every wait has an end."""
        for life in self.lives:
            life.settling.tick(self.time)
            life.settling.tick(self.time + 4.4)
            assert not life.settling.unsettled
            assert life.settling.waits_since is None


TestCluster = Cluster.TestCase
TestCluster.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_successor_that_leaves_before_it_has_a_view() -> None:
    """A node takes the place of a frozen one, and stops before it has heard so: its lease is left to run out.

    Were it given back, the others would see a view without the id, and not wait for the frozen one.
    """
    state = Cluster()
    state.begin(count=4)
    state.join("a")
    for _ in "bc":
        state.leave(0)
    successor = next(life for life in state.lives if life.me.incarnation == "5")
    state.ask(successor)
    state.arrive(successor)
    state.leave(state.lives.index(successor) - 1)
    state.calm()
    state.one_acts_for_a_key()
    state.teardown()
