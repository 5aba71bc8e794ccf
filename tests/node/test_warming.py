"""Jobs: how they go on, end, and are one at a time; what is warmed at the start and on schedule."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from cachenode.core.entries import Operation
from cachenode.core.failures import JOB_RUNNING
from cachenode.core.schedule import Schedule
from cachenode.core.warming import WarmJob, WarmPlan
from cachenode.errors import OriginError
from cachenode.node.namespaces import Namespace
from cachenode.node.warm_duties import WarmDuties
from cachenode.node.warming import JOBS
from cachenode_api.keys import seat_of
from cachenode_api.ring import Ring
from tests.node.test_read_through import Rig
from tests.support.cluster import view_of
from tests.support.eventually import eventually

KEYS = [b"%d" % number for number in range(30)]


class WarmRig(Rig):
    """Nodes with an L2, an origin of thirty keys, and duties."""

    def __init__(self, *names: str, plans: Sequence[WarmPlan] = (), l2: bool = True, warm_top: int = 0) -> None:
        super().__init__(*names, l2=l2, warm_top=warm_top)
        self.wall = 1_000.0
        for node in self.nodes.values():
            node.wall = lambda: self.wall
        self.duties = {name: WarmDuties(node, plans, _file) for name, node in self.nodes.items()}
        for key in KEYS:
            self.loader.put(key, b"v")

    def space(self, name: str = "a") -> Namespace:
        found = self.nodes[name].namespaces.get("n")
        assert found is not None
        return found

    async def start(
        self,
        name: str = "a",
        source: str = "origin",
        rate_per_s: float = 1e5,
        job_id: str = "j",
        keys: Sequence[bytes] = (),
    ) -> WarmJob | None:
        """Begin a job; None if another runs."""
        job = WarmJob(job_id, "n", source, rate_per_s, total=len(keys))
        begun = await self.duties[name].begin(self.space(name), job, keys)
        return None if begun is JOB_RUNNING else self.nodes[name].warming.jobs["n"]

    def job(self, name: str = "a") -> WarmJob:
        return self.nodes[name].warming.jobs["n"]

    async def end(self, name: str = "a") -> WarmJob:
        """Return the job when it has ended."""
        await eventually(lambda: not self.nodes[name].warming.running("n"))
        return self.job(name)

    async def kill(self, name: str) -> None:
        """Let a node do nothing any more, and say nothing."""
        warming = self.nodes[name].warming
        warming._settle = _nothing  # type: ignore[assignment]
        await warming.close()


async def _nothing(*_: object) -> None:
    return


async def _file(path: str) -> AsyncIterator[bytes]:
    for key in (b"1", b"2"):
        yield key
    if path == "bad":
        raise OriginError("keys_file: cannot be read")


def seat(rig: WarmRig) -> str:
    """Return the node that owns the namespace's name."""
    found = Ring(rig.view).owner(seat_of("n"))
    assert found is not None
    return found


async def test_job_goes_through_all_keys() -> None:
    """Those that are there are told from those that were loaded."""
    rig = WarmRig("a", "b", l2=False)
    rig.loader.values.pop(KEYS[3])
    rig.loader.values[KEYS[4]] = OriginError("bad", again=False)
    await rig.get(KEYS[0])
    await rig.start(source="keys", keys=KEYS)
    job = await rig.end()
    assert (job.state, job.done, job.total) == ("done", 30, 30)
    assert (job.loaded, job.fresh, job.absent, job.failed) == (27, 1, 1, 1)
    assert (rig.node.warming.loaded["n"], rig.node.warming.failed["n"]) == (27, 1)


async def test_one_job_at_a_time() -> None:
    """Neither on one node nor on two."""
    rig = WarmRig("a", "b")
    rig.loader.gate.clear()
    assert await rig.start("a", job_id="1")
    assert await rig.start("a", job_id="2") is None
    assert await rig.start("b", job_id="3") is None
    rig.loader.gate.set()
    assert (await rig.end()).state == "done"
    assert await rig.start("b", job_id="3")
    assert (await rig.end("b")).fresh == 30


async def test_another_node_goes_on() -> None:
    """The node that owns the name does, once the lock of the dead one has ended, from where that was noted."""
    rig = WarmRig("a", "b", "c")
    leader = seat(rig)
    other = next(name for name in "abc" if name != leader)
    await rig.start(other, rate_per_s=50.0)
    await eventually(lambda: rig.job(other).done >= 10)
    tier = rig.nodes[other].tier
    assert tier is not None
    await rig.nodes[other].warming._save(rig.job(other))
    done = rig.job(other).done
    await rig.kill(other)
    await rig.duties[leader].look(rig.clock.now())
    assert not rig.nodes[leader].warming.running("n"), "the lock is still held"
    rig.clock.advance(6.0)
    await rig.duties[leader].look(rig.clock.now())
    job = await rig.end(leader)
    assert (job.id, job.state, job.node_id, job.done) == ("j", "done", leader, 30)
    assert job.loaded + job.fresh == 30
    assert job.done > done
    asked = [key for call in rig.loader.calls for key in call]
    assert len(asked) == len(set(asked)) == 30
    await rig.duties[leader].look(rig.clock.now())
    assert not rig.nodes[leader].warming.running("n"), "a job that is done is not gone on with"


async def test_node_that_stops_hands_its_job_on() -> None:
    """It gives the lock back, so another goes on at once; one whose keys a caller brought is not gone on with."""
    for source, goes_on in (("origin", True), ("keys", False)):
        rig = WarmRig("a", "b")
        leader = seat(rig)
        other = "b" if leader == "a" else "a"
        await rig.start(other, source, rate_per_s=50.0, keys=KEYS)
        await eventually(lambda: rig.job(other).done >= 10)  # noqa: B023 - awaited here
        await rig.nodes[other].warming.close()
        assert rig.job(other).state == "stopped"
        assert await rig.start(other) is None, "it stops"
        await rig.duties[leader].look(rig.clock.now())
        assert rig.nodes[leader].warming.running("n") is goes_on
        await rig.nodes[leader].warming.close()


async def test_job_is_cancelled() -> None:
    """At its own node at once."""
    rig = WarmRig("a")
    await rig.start(rate_per_s=20.0)
    assert await rig.node.warming.cancel("n")
    assert rig.job().state == "cancelled"
    assert not await rig.node.warming.cancel("n")
    await rig.duties["a"].look(rig.clock.now())
    assert not rig.node.warming.running("n")


async def test_job_is_cancelled_from_elsewhere() -> None:
    """Any node will do; so it is with one that nobody runs any more."""
    rig = WarmRig("a", "b")
    await rig.start("a", rate_per_s=5.0)
    await eventually(lambda: rig.job().done > 0)
    await rig.nodes["a"].warming._save(rig.job())
    assert await rig.nodes["b"].warming.cancel("n")
    assert (await rig.end("a")).state == "cancelled"

    await rig.start("a", rate_per_s=5.0, job_id="k")
    await rig.nodes["a"].warming._save(rig.job())
    await rig.kill("a")
    rig.clock.advance(6.0)
    rig.wall += 1.0
    assert await rig.nodes["b"].warming.cancel("n")
    rig.wall += 1.0
    for duties in rig.duties.values():
        await duties.look(rig.clock.now())
    assert not any(node.warming.running("n") for node in rig.nodes.values())


async def test_keys_that_move_are_sent_again() -> None:
    """Nobody is told that they failed."""
    rig = WarmRig("a", "b", l2=False)
    rig.peers.cut.add("b")
    await rig.start(source="keys", keys=KEYS)
    await eventually(lambda: rig.loader.calls)
    rig.nodes["a"].placement.apply(view_of(2, "a"))
    job = await rig.end()
    assert (job.loaded, job.failed) == (30, 0)


async def test_listing_that_fails() -> None:
    """The job says why."""
    rig = WarmRig("a")
    space = rig.space()
    await rig.duties["a"].begin(space, WarmJob("j", "n", "file", 1e5, file="bad"))
    job = await rig.end()
    assert (job.state, job.error, job.loaded) == ("failed", "keys_file: cannot be read", 0)
    space.origin = None
    await rig.duties["a"].begin(space, WarmJob("j", "n", "origin", 1e5))
    assert (await rig.end()).error == "the namespace has no origin"


async def test_scheduled_job() -> None:
    """The node with the seat begins it when it is due, and again; one that finds another job running is left out."""
    plans = [WarmPlan("n", Schedule(every_s=60.0), keys_file="some", rate_per_s=1e5)]
    rig = WarmRig("a", "b", plans=plans)
    leader = seat(rig)

    async def look() -> None:
        for duties in rig.duties.values():
            await duties.look(rig.clock.now())

    await look()
    assert not rig.nodes[leader].warming.jobs
    rig.wall += 60.0
    await look()
    job = await rig.end(leader)
    assert (job.source, job.state, job.loaded) == ("file", "done", 2)
    assert [bool(node.warming.jobs) for node in rig.nodes.values()].count(True) == 1
    rig.wall += 59.0
    await look()
    assert rig.job(leader) is job
    rig.wall += 1.0
    rig.loader.gate.clear()
    await rig.start(leader, "keys", keys=KEYS, job_id="other")
    await look()
    assert rig.job(leader).id == "other"
    rig.loader.gate.set()
    await rig.end(leader)


async def test_start_warms_what_was_hot() -> None:
    """A node that comes again has the keys that it read most before, from L2 without a load."""
    rig = WarmRig("a", warm_top=2)
    for key in KEYS[:5]:
        await rig.get(key)
    for _ in range(3):
        await rig.get(KEYS[1], KEYS[3])
    await rig.duties["a"].note_hot()
    loads, store = len(rig.loader.calls), rig.space().store
    store.clear()
    await rig.duties["a"].look(rig.clock.now())
    job = await rig.end()
    assert (job.state, job.fresh, job.loaded, len(rig.loader.calls)) == ("done", 2, 0, loads)
    assert sorted(store.scan(0, 100)[0]) == [KEYS[1], KEYS[3]]
    await rig.duties["a"].look(rig.clock.now())
    assert rig.job() is job, "only once"


async def test_hottest_of_all_nodes() -> None:
    """What others noted counts too."""
    rig = WarmRig("a", "b", warm_top=10)
    for _ in range(3):
        await rig.get(*KEYS[:4])
    for name in "ab":
        await rig.duties[name].note_hot()
    held = [len(node.namespaces.get("n").store) for node in rig.nodes.values()]
    assert min(held) > 0
    for node in rig.nodes.values():
        node.namespaces.get("n").store.clear()
    await rig.duties["a"].begin(rig.space(), WarmJob("j", "n", "hot", 1e5, top=10))
    job = await rig.end()
    assert job.done == held[1], "its own memory is empty"
    await rig.write(Operation.DELETE)


async def test_damaged_record_is_no_job() -> None:
    """What another release has noted, or nobody."""
    rig = WarmRig("a")
    tier = rig.node.tier
    assert tier is not None
    for record in (b"", b"[]", b"{}", b'{"id": 1}', b"\xff"):
        rig.wall += 1.0
        assert await tier.note(JOBS, b"n", record, 10.0, int(rig.wall * 1_000))
        assert await rig.node.warming.to_go_on("n") is None
