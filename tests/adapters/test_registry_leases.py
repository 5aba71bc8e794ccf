"""The registry on leases where two nodes meet in it; what it does by itself is in the registries' contract."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest
from structlog.testing import capture_logs

from cachenode.adapters import registry_leases
from cachenode.adapters.leases import Lease
from cachenode.adapters.leases_memory import MemoryLeases
from cachenode.adapters.registry_leases import LeaseRegistry, lease_name
from cachenode.errors import RegistryError
from cachenode_api.view import Member, View
from tests.support.clock import ManualClock
from tests.support.eventually import eventually

T = TypeVar("T")
Meanwhile = Callable[[], Awaitable[object]]


class Way:
    """One node's way to the leases, on which something can happen first, or an answer be lost."""

    def __init__(self, leases: MemoryLeases) -> None:
        self._leases = leases
        self._before: dict[str, Meanwhile] = {}
        self._lost: set[str] = set()

    def before(self, call: str, meanwhile: Meanwhile) -> None:
        """Do this before the next such call arrives."""
        self._before[call] = meanwhile

    def lose(self, call: str) -> None:
        """Lose the answer of the next such call."""
        self._lost.add(call)

    @property
    def done(self) -> bool:
        return not self._before and not self._lost

    async def list(self) -> list[Lease]:
        return await self._pass("list", self._leases.list)

    async def create(self, lease: Lease) -> Lease:
        return await self._pass("create", lambda: self._leases.create(lease))

    async def replace(self, lease: Lease) -> Lease:
        return await self._pass("replace", lambda: self._leases.replace(lease))

    async def delete(self, lease: Lease) -> None:
        await self._pass("delete", lambda: self._leases.delete(lease))

    def watch(self, name: str) -> AsyncGenerator[Lease | None, None]:
        return self._leases.watch(name)

    async def close(self) -> None:
        pass

    async def _pass(self, call: str, work: Callable[[], Awaitable[T]]) -> T:
        meanwhile = self._before.pop(call, None)
        if meanwhile is not None:
            await meanwhile()
        answer = await work()
        if call in self._lost:
            self._lost.discard(call)
            raise RegistryError("the answer is lost")
        return answer


class Cluster:
    """Some nodes with a registry of their own each, on the same leases."""

    def __init__(self) -> None:
        self.leases = MemoryLeases()
        self.clock = ManualClock()
        self.ways: dict[str, Way] = {}
        self.registries: dict[str, LeaseRegistry] = {}
        self.known: dict[str, View | None] = {}

    def start(self, name: str) -> None:
        """Begin a process that knows nothing."""
        self.ways[name] = Way(self.leases)
        self.registries[name] = LeaseRegistry(self.ways[name], "tests", self.clock)
        self.known[name] = None

    async def renew(self, name: str, incarnation: str = "1") -> View:
        """Let a node renew, and act by what it is told."""
        renewal = await self.registries[name].renew(Member(name, incarnation, f"{name}:1"), self.known[name])
        self.known[name] = renewal.view
        return renewal.view

    async def joined(self, *names: str) -> None:
        """Let these join, and all hear of it."""
        for name in names:
            self.start(name)
        for _ in range(2):
            for name in names:
                await self.renew(name)

    async def lasts(self, seconds: float, *names: str) -> None:
        """Let time pass in which these renew once a second."""
        for _ in range(int(seconds)):
            for name in names:
                await self.renew(name)
            self.clock.advance(1.0)
        self.clock.advance(seconds % 1)
        for name in names:
            await self.renew(name)

    def members(self) -> list[str]:
        """Return who is in the view at the arbiter."""
        return [record[0] for record in json.loads(self.leases.held[lease_name("tests")].content["view"])["members"]]

    def holds(self, name: str) -> bool:
        return lease_name("tests", name) in self.leases.held


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster in which all happened that a test wanted to happen."""
    cluster = Cluster()
    yield cluster
    assert all(way.done for way in cluster.ways.values())


async def overdue(cluster: Cluster, name: str, by: str) -> None:
    """Let one see that another has not renewed for the length of its lease, with its next renewal."""
    await cluster.lasts(3.0, by)
    cluster.clock.advance(1.1)


async def test_renewal_wins_over_a_delete(cluster: Cluster) -> None:
    """One is about to give up another that renews in that moment: it stays, and no view is made."""
    await cluster.joined("a", "b")
    await overdue(cluster, "b", by="a")
    cluster.ways["a"].before("delete", lambda: cluster.renew("b"))
    view = await cluster.renew("a")
    assert view == await cluster.renew("b")
    assert (cluster.members(), view.epoch) == (["a", "b"], 2)


async def test_delete_wins_over_a_renewal(cluster: Cluster) -> None:
    """One gives another up just before its renewal arrives: that one joins anew, in a later view."""
    await cluster.joined("a", "b")
    await overdue(cluster, "b", by="a")
    cluster.ways["b"].before("replace", lambda: cluster.renew("a"))
    view = await cluster.renew("b")
    assert (cluster.members(), view.epoch) == (["a", "b"], 4)


async def test_new_lease_stops_a_view_without_it(cluster: Cluster) -> None:
    """Who makes its lease anew while another writes the view without it: one of both has to look again."""
    await cluster.joined("a", "b")
    await overdue(cluster, "b", by="a")
    await cluster.registries["a"]._hold(Member("a", "1", "a:1"), joined=True)
    cluster.ways["a"].before("replace", lambda: cluster.renew("b"))  # the view
    view = await cluster.registries["a"]._agree(Member("a", "1", "a:1"), cluster.known["a"])
    assert [member.id for member in view.members] == ["a", "b"]
    assert cluster.members() == ["a", "b"]
    assert view == await cluster.renew("b")


async def test_new_lease_of_a_member_that_is_in_the_view_writes_it(cluster: Cluster) -> None:
    """The view is written even if nothing in it changes: what is decided on an older one must fail."""
    await cluster.joined("a", "b")
    before = cluster.leases.held[lease_name("tests")].version
    del cluster.leases.held[lease_name("tests", "b")]
    view = await cluster.renew("b")
    assert view.epoch == 2
    assert cluster.leases.held[lease_name("tests")].version != before


async def test_member_whose_lease_is_missing_stays_for_its_length(cluster: Cluster) -> None:
    """Somebody deletes a lease by hand: its holder may act, so it stays as long as the lease may be in its hands."""
    await cluster.joined("a", "b")
    del cluster.leases.held[lease_name("tests", "b")]
    await cluster.lasts(3.9, "a")
    assert cluster.members() == ["a", "b"]
    cluster.clock.advance(0.2)
    view = await cluster.renew("a")
    assert (cluster.members(), view.epoch) == (["a"], 3)


async def test_who_gave_a_member_up_dies_before_it_wrote_the_view(cluster: Cluster) -> None:
    """A third node finishes it, when it has itself waited."""
    await cluster.joined("a", "b", "c")
    await overdue(cluster, "b", by="a")
    cluster.ways["a"].lose("delete")
    with pytest.raises(RegistryError):
        await cluster.renew("a")
    await cluster.renew("c")
    assert cluster.members() == ["a", "b", "c"]
    await cluster.lasts(4.1, "c")
    assert "b" not in cluster.members()


async def test_leaver_is_not_taken_back(cluster: Cluster) -> None:
    """Another renews at every point of a farewell: once the leaver is out, it stays out."""
    for call in ("list", "delete", "replace"):
        world = Cluster()
        await world.joined("a", "b")
        world.ways["b"].before(call, lambda world=world: world.renew("a"))  # type: ignore[misc]
        await world.registries["b"].leave(Member("b", "1", "b:1"))
        view = await world.renew("a")
        assert [member.id for member in view.members] == ["a"], call
        assert world.members() == ["a"], call
        assert not world.holds("b"), call
        assert world.ways["b"].done


async def test_leave_that_was_interrupted_is_finished_by_the_next(cluster: Cluster) -> None:
    """The lease is deleted and the view not written: the member stays for its lease's length, as nobody knows why."""
    await cluster.joined("a", "b")
    cluster.ways["b"].lose("delete")
    with pytest.raises(RegistryError):
        await cluster.registries["b"].leave(Member("b", "1", "b:1"))
    await cluster.renew("a")
    assert cluster.members() == ["a", "b"]
    await cluster.registries["b"].leave(Member("b", "1", "b:1"))
    assert cluster.members() == ["a"]


async def test_lost_answer_of_a_join(cluster: Cluster) -> None:
    """A node takes the place of a former life and the answer is lost: the next one says that it replaced something."""
    await cluster.joined("a", "b")
    cluster.start("b")
    cluster.ways["b"].lose("replace")
    with pytest.raises(RegistryError):
        await cluster.renew("b", "2")
    renewal = await cluster.registries["b"].renew(Member("b", "2", "b:1"), None)
    assert renewal.replaced
    assert renewal.view.by_id["b"].incarnation == "2"
    again = await cluster.registries["b"].renew(Member("b", "2", "b:1"), renewal.view)
    assert not again.replaced


async def test_replacement_is_told_although_the_view_came_late(cluster: Cluster) -> None:
    """The lease was taken over, and what followed failed: the flag is not lost with it."""
    await cluster.joined("a", "b")
    cluster.start("b")
    cluster.ways["b"].before("list", lambda: lose_the_next_list(cluster))
    with pytest.raises(RegistryError):
        await cluster.renew("b", "2")
    assert json.loads(cluster.leases.held[lease_name("tests", "b")].content["member"])[1] == "2"
    renewal = await cluster.registries["b"].renew(Member("b", "2", "b:1"), None)
    assert renewal.replaced


async def lose_the_next_list(cluster: Cluster) -> None:
    """The one after that which is under way."""

    async def lose() -> None:
        cluster.ways["b"].lose("list")

    cluster.ways["b"].before("replace", lose)


async def test_twin_waits_until_it_has_seen_the_lease_unchanged(cluster: Cluster) -> None:
    """A node elsewhere with an id that is taken is told so until its holder has not renewed for a lease's length."""
    await cluster.joined("a")
    cluster.clock.advance(100.0)  # nobody has looked: how old the lease is cannot be told
    cluster.start("a")
    twin = Member("a", "2", "elsewhere:1")
    registry = cluster.registries["a"]
    with pytest.raises(RegistryError, match="a:1"):
        await registry.renew(twin, None)
    for second in range(4):
        cluster.clock.advance(1.0)
        if second < 3:
            with pytest.raises(RegistryError, match="a:1"):
                await registry.renew(twin, None)
    cluster.clock.advance(0.1)
    renewal = await registry.renew(twin, None)
    assert (renewal.view.members, renewal.replaced) == ((twin,), False)


async def test_wall_clocks_do_not_count(cluster: Cluster) -> None:
    """A node that starts late sees an old lease for the first time: it waits its whole length. Scenario 31."""
    await cluster.joined("a", "b")
    cluster.clock.advance(1_000.0)
    cluster.start("c")
    await cluster.renew("c")
    assert cluster.members() == ["a", "b", "c"]
    await cluster.lasts(4.1, "c")
    assert cluster.members() == ["c"]


async def test_outage_of_the_arbiter_gives_nobody_up(cluster: Cluster) -> None:
    """No renewal was possible for longer than a lease: the first one that is does not give the others up."""
    await cluster.joined("a", "b", "c")
    cluster.clock.advance(10.0)
    before = cluster.known["a"]
    for name in "abc":
        assert await cluster.renew(name) == before
    await cluster.lasts(4.1, "a", "b")
    assert cluster.members() == ["a", "b"], "who does not renew afterwards goes"


async def test_longer_lease_of_another_counts(cluster: Cluster) -> None:
    """Nodes with other settings meet, as in a rolling change: a member has the time that its own lease says."""
    await cluster.joined("a")
    slow = LeaseRegistry(cluster.leases, "tests", cluster.clock, lease_s=20.0)
    await slow.renew(Member("slow", "1", "slow:1"), None)
    await cluster.lasts(10.0, "a")
    assert cluster.members() == ["a", "slow"]
    await cluster.lasts(10.1, "a")
    assert cluster.members() == ["a"]


async def test_slow_arbiter_is_a_registry_that_cannot_be_reached(cluster: Cluster) -> None:
    """A call ends in time, and the next one goes on."""
    await cluster.joined("a")
    registry = LeaseRegistry(cluster.ways["a"], "tests", cluster.clock, timeout_s=0.01)
    cluster.ways["a"].before("list", asyncio.Event().wait)
    with pytest.raises(RegistryError, match="within"):
        await registry.renew(Member("b", "1", "b:1"), None)
    assert (await registry.renew(Member("b", "1", "b:1"), None)).view.epoch == 2


class Watches:
    """Leases whose watches end as a test wants it, and that count them."""

    def __init__(self, leases: MemoryLeases) -> None:
        self._leases = leases
        self.begun = 0
        self.ends = asyncio.Event()
        self.refuses = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._leases, name)

    async def watch(self, name: str) -> AsyncGenerator[Lease | None, None]:
        self.begun += 1
        if self.refuses:
            raise RegistryError("the registry refuses")
        async with contextlib.aclosing(self._leases.watch(name)) as watch:
            while True:
                waiting = [asyncio.ensure_future(each) for each in (anext(watch), self.ends.wait())]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                ended = self.ends.is_set()
                for task in waiting:
                    task.cancel()
                found = await asyncio.gather(*waiting, return_exceptions=True)
                if ended:
                    self.ends.clear()
                    raise RegistryError("the connection is lost")
                yield found[0]  # type: ignore[misc]


async def test_change_is_heard_before_the_next_renewal(cluster: Cluster) -> None:
    """A view that another writes is told at once; renewals, which change nothing in it, are not."""
    await cluster.joined("a")
    async with contextlib.aclosing(cluster.registries["a"].changes()) as changes:
        assert await anext(changes) == 1
        heard = asyncio.ensure_future(anext(changes))
        await cluster.renew("a")
        await settle()
        assert not heard.done()
        cluster.start("b")
        await cluster.renew("b")
        assert await heard == 2
        heard = asyncio.ensure_future(anext(changes))
        await settle()
        del cluster.leases.held[lease_name("tests")]
        await cluster.leases.create(Lease("any", "", 4.0, {}))
        assert await heard == 0


async def settle() -> None:
    """Let all run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_watch_that_ends_begins_anew(cluster: Cluster) -> None:
    """What changed while nobody listened is told by the list of the next watch; the pause before it grows."""
    pauses: list[float] = []
    go_on = asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await go_on.wait()
        await asyncio.sleep(0)

    await cluster.joined("a")
    watches = Watches(cluster.leases)
    registry = LeaseRegistry(watches, "tests", cluster.clock)
    async with contextlib.aclosing(registry.changes(pause)) as changes:
        assert await anext(changes) == 1
        heard = asyncio.ensure_future(anext(changes))
        watches.ends.set()
        await eventually(lambda: pauses)
        cluster.start("b")
        await cluster.renew("b")  # between the watch that was lost and the next list
        assert not heard.done()
        watches.refuses = True
        go_on.set()
        await eventually(lambda: watches.begun > 10)
        watches.refuses = False
        assert await heard == 2
        assert watches.begun == len(pauses) + 1
        assert 0.05 <= pauses[0] <= 0.1
        assert all(5.0 <= pause <= 10.0 for pause in pauses[8:])
        heard = asyncio.ensure_future(anext(changes))
        await settle()
        cluster.clock.advance(60.0)  # it held for long, so the next one begins soon
        count = len(pauses)
        watches.ends.set()
        await heard
        assert pauses[count] <= 0.1


async def test_watch_that_fails_is_told_once(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log says once that changes are not heard, and once that they are again."""
    monkeypatch.setattr(registry_leases, "_PAUSE_S", 0.0)
    watches = Watches(cluster.leases)
    watches.refuses = True
    with capture_logs() as logs:
        async with contextlib.aclosing(LeaseRegistry(watches, "tests", cluster.clock).changes()) as changes:
            heard = asyncio.ensure_future(anext(changes))
            await eventually(lambda: watches.begun > 3)
            watches.refuses = False
            assert await heard == 0
            heard = asyncio.ensure_future(anext(changes))
            await settle()
            await cluster.joined("a")
            assert await heard == 1
    assert [line["event"] for line in logs] == ["registry_not_watched", "registry_watched_again"]


@pytest.mark.parametrize("text", ["", "[]", "7", '{"epoch": 1}', '{"epoch": "x", "seed": "", "members": []}'])
async def test_foreign_content_is_refused(cluster: Cluster, text: str) -> None:
    """Somebody wrote something else there: nobody acts by it, and the text is not repeated."""
    await cluster.joined("a")
    name = lease_name("tests")
    cluster.leases.held[name] = Lease(name, "", 4.0, {"view": text}, "9")
    with pytest.raises(RegistryError, match="something else"):
        await cluster.renew("a")


def test_names_are_what_kubernetes_allows_and_differ() -> None:
    """Whatever a cluster or a node is called."""
    pairs = [("a", ""), ("a", "b"), ("a.b", ""), ("A", "b"), ("a", "B"), ("x" * 64, "n" * 200), ("a", "Ünode_1.")]
    names = [lease_name(*pair) for pair in pairs]
    assert len(set(names)) == len(names)
    assert all(len(name) < 253 and name == name.lower() and name[-1].isalnum() for name in names)
    assert all(character.isalnum() or character == "-" for name in names for character in name if name.isascii())
