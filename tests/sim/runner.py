"""Runs one seed: a cluster, clients at work, faults, and then the check."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from tests.sim.behind import check_behind
from tests.sim.checker import Violation, check
from tests.sim.dependents import check_dependents
from tests.sim.faults import Fault, Nemesis, schedule
from tests.sim.history import History, Kind, Op
from tests.sim.loop import Deadlock, Host
from tests.sim.origin import Reader
from tests.sim.sliding import check_sliding
from tests.sim.through import check_through, through_policy
from tests.sim.workload import Client, Mix
from tests.sim.world import World, simulated
from tests.sim.written import at_rest, check_written

__all__ = ["AIMED", "PROFILES", "Outcome", "Profile", "brief", "profile_of", "report", "run_seed", "shrink"]

_WARM_S = 1.0
_CALM_S = 3.0
_LEAVE_S = 12.0
_WINDOW_S = 1.0
_BRIEF_S = 5.0
_BRIEF = "_brief"
_MOST_LINES = 150


@dataclass(frozen=True)
class Profile:
    """What may go wrong in a run.

    Attributes:
        name: Of the profile.
        weights: How often which fault is chosen.
        count: How many faults there are.
        strike_s: For how long they strike.
        delay_s: Mean delay of a message.
        spikes: Probability of a much longer one.
        keeps: Nothing that is stored can be lost.
        mix: How the clients work.
        nodes: How many there are.
        l2: Whether they share a store.
        through: Settings of the namespace whose values they load, instead of the seed's.
        leases: Whether nodes meet in leases of an API server, which forgets nothing.
    """

    name: str
    weights: dict[str, int] = field(default_factory=dict)
    count: tuple[int, int] = (3, 8)
    strike_s: float = 12.0
    delay_s: float = 0.0005
    spikes: float = 0.0
    keeps: bool = False
    mix: Mix = field(default_factory=Mix)
    nodes: int = 3
    l2: bool = True
    through: dict[str, Any] = field(default_factory=dict)
    leases: bool = False


_STREAMS = {"break_stream": 8, "slow": 2, "evict": 1}
_PAUSES = {"pause": 4, "pause_client": 4, "break_stream": 1, "evict": 1}
_CRASHES = {"crash": 4, "crash_client": 3, "break_stream": 1}
_MEMBERS = {"restart": 4, "evict": 1, "break_stream": 1}
_CUTS = {"partition": 3, "one_way": 3, "isolate": 3, "sever": 2, "slow": 1}
_STORES = {"l2_outage": 3, "l2_freeze": 3, "l2_lossy": 3, "l2_evict": 1, "evict": 3}
_FORGETS = {"l2_restart": 3, "l2_failover": 4, "l2_evict": 1, "evict": 2, "l2_freeze": 1}
_REGISTRY = {"registry_outage": 3, "registry_lossy": 3, "pause": 1, "crash": 1, "restart": 1}
_ALL = {
    kind: weight
    for some in (_STREAMS, _PAUSES, _CRASHES, _MEMBERS, _CUTS, _STORES, _FORGETS, _REGISTRY)
    for kind, weight in some.items()
}
_ORIGINS = {"origin_outage": 6, "origin_slow": 6, "evict": 4}
_THROUGH = Mix(keys={"r": 5}, weights={"r": 1}, write_pause_s=0.25, load_s=0.06, read_timeouts_s=(0.4, 1.0, 3.0))
"""Values that the nodes load."""
_WRITTEN = Mix(keys={"w": 4}, weights={"w": 1}, write_pause_s=0.15, read_timeouts_s=(0.4, 1.0, 3.0))
"""Values whose writes go through to a table."""
_DEPENDENTS = Mix(keys={"p": 2, "d": 3}, weights={"p": 3, "d": 5}, load_s=0.1, slow_load_s=0.6)
_RELINKED = replace(_DEPENDENTS, write_pause_s=0.5)
_BEHIND = replace(_WRITTEN, keys={"b": 4}, weights={"b": 1})
"""Values whose writes reach a table later."""
_SLIDING = replace(_WRITTEN, keys={"y": 4}, weights={"y": 1}, write_pause_s=0.3)
"""Values that live on when they are read."""
_FILTERED_MIX = replace(_THROUGH, keys={"r": 60}, write_pause_s=1.2, load_s=0.2)
"""Most keys get their first value during the run, and their second long after it."""
_SWUNG = replace(_FILTERED_MIX, read_pause_s=0.08, write_pause_s=1.0, keys={"r": 120}, one_by_one=True)
_REFRESHED = replace(_THROUGH, keys={"r": 3}, write_pause_s=0.8, load_s=0.8)
_FILTERED = {"bloom": True, "bloom_keys": 1_000, "bloom_rebuild": "1s"}
"""A filter that is rebuilt all the time: keys come and go beside it."""
_SHORT = {"ttl_s": 0.6, "stale_s": 0.0, "refresh_ahead": 0.0, "xfetch_beta": 0.0, "negative_ttl_s": 0.5}
"""Nothing but the filter stands between a reader and the origin for long."""
_KEPT_FILTER = _FILTERED | _SHORT | {"bloom_rebuild": "1d"}
_OFTEN = {"ttl_s": 0.6, "stale_s": 1.5, "refresh_ahead": 0.5, "xfetch_beta": 0.0}

PROFILES = {
    profile.name: profile
    for profile in (
        Profile("calm", keeps=True),
        Profile("delays", spikes=0.05, delay_s=0.002, keeps=True),
        Profile("streams", _STREAMS, count=(5, 20), spikes=0.01, keeps=True),
        Profile("pauses", _PAUSES),
        Profile("crashes", _CRASHES),
        Profile("members", _MEMBERS, count=(2, 6)),
        Profile("cuts", _CUTS),
        Profile("stores", _STORES, count=(4, 10)),
        Profile("forgets", _FORGETS),
        Profile("registry", _REGISTRY),
        Profile("all", _ALL, count=(5, 12), spikes=0.01),
        Profile("storm", _ALL, count=(15, 30), spikes=0.03),
        Profile("through_calm", mix=_THROUGH, spikes=0.02, delay_s=0.001),
        Profile("through", _ALL | _ORIGINS, count=(5, 12), mix=_THROUGH, spikes=0.01),
        Profile("behind", _ALL | {"origin_outage": 6, "evict": 6}, count=(5, 12), mix=_BEHIND, spikes=0.01),
        Profile("bloom", _ALL | _ORIGINS, count=(5, 12), mix=_FILTERED_MIX, spikes=0.01, through=_FILTERED),
        Profile("bloom_saved", _ALL, count=(4, 10), mix=_SWUNG, spikes=0.01, through=_KEPT_FILTER),
        Profile("written", _ALL | {"origin_outage": 4}, count=(5, 12), mix=_WRITTEN, spikes=0.01),
        Profile("sliding", _ALL | {"evict": 6}, count=(4, 10), mix=_SLIDING, spikes=0.01),
        Profile("dependents", _ALL, count=(4, 10), mix=_DEPENDENTS, spikes=0.01),
        Profile("kubernetes", _REGISTRY | _MEMBERS | {"one_way": 2}, count=(4, 10), leases=True),
    )
}

_LOADS = Mix(keys={"o": 3}, weights={"o": 1}, write_pause_s=0.06, load_s=0.3)
_MIXED = Mix(keys={"c": 12, "o": 6, "s": 2, "n": 2, "t": 3, "v": 2})
_FEW = Mix(near=1.0, keys={"c": 2, "o": 1}, weights={"c": 3, "o": 1}, write_pause_s=0.06)

_PATIENT = Mix(
    near=1.0,
    keys={"c": 4},
    weights={"c": 1},
    read_pause_s=0.15,
    write_pause_s=0.2,
    readers=6,
    read_timeouts_s=(0.2, 0.5),
    write_timeouts_s=(3.0,),
)
"""Reads go on beside those that wait for a node out of reach, and writes wait until every lease is over."""
_MANY = replace(_PATIENT, keys={"c": 12}, write_pause_s=0.15)
_SELDOM = replace(_PATIENT, keys={"c": 6}, write_pause_s=0.5)
"""What is wrong stays so for a while, because nobody writes it anew."""

AIMED = {
    profile.name: profile
    for profile in (
        Profile("fills", {"evict": 10, "slow": 1}, count=(30, 60), delay_s=0.002, spikes=0.1, mix=_FEW, strike_s=8.0),
        Profile("leases", {"pause_client": 4, "break_stream": 2, "slow": 2}, count=(6, 15), mix=_FEW, strike_s=8.0),
        Profile("fences", {"one_way": 2, "isolate": 4, "pause": 3}, mix=_FEW),
        Profile("stand_ins", {"sever": 10, "evict": 2}, count=(3, 6), mix=_LOADS),
        Profile("handovers", {"restart": 6, "slow": 3, "pause": 1}, count=(5, 10), mix=_MIXED, spikes=0.05, l2=False),
        Profile("late_answers", {"late_answers": 1}, count=(6, 9), mix=_MANY, strike_s=5.0),
        Profile("exile", {"exile": 1}, count=(1, 1), mix=_PATIENT, strike_s=0.5),
        Profile("clock_steps", {"clock_step": 1}, count=(1, 3), mix=_PATIENT, strike_s=5.0),
        Profile("failovers", {"l2_failover": 1, "evict": 4}, count=(20, 40), mix=_SELDOM, strike_s=5.0),
        Profile("bereft", {"bereave": 2, "evict": 5}, count=(12, 24), mix=_SELDOM, strike_s=8.0),
        Profile("forsaken", {"forsake": 1}, count=(2, 4), mix=_PATIENT, strike_s=5.0),
        Profile("behind_calm", mix=_BEHIND),
        Profile("behind_evict", {"evict": 10, "origin_outage": 4}, count=(20, 40), mix=_BEHIND, strike_s=8.0),
        Profile("sliding_calm", mix=replace(_SLIDING, write_pause_s=1.5), spikes=0.02, delay_s=0.001),
        Profile("written_calm", mix=_WRITTEN),
        Profile("written_evict", {"evict": 10}, count=(30, 60), mix=_WRITTEN, strike_s=8.0),
        Profile("cascades", mix=_DEPENDENTS, spikes=0.05, delay_s=0.002),
        Profile("relinks", {"restart": 4, "slow": 2}, count=(4, 9), mix=_RELINKED, spikes=0.02),
        Profile("bloom_moves", {"restart": 1}, count=(5, 8), mix=_FILTERED_MIX, through=_KEPT_FILTER),
        Profile("bloom_swings", {"swing": 1}, count=(1, 1), mix=_SWUNG, through=_KEPT_FILTER, strike_s=3.0),
        Profile("bloom_falls", {"fall": 1}, count=(3, 3), mix=_SWUNG, through=_KEPT_FILTER, strike_s=1.0),
        Profile("bloom_alone", mix=_SWUNG, through=_FILTERED | _SHORT, l2=False, strike_s=8.0),
        Profile("refreshes", mix=_REFRESHED, through=_OFTEN),
        Profile("expiries", {"evict": 1}, count=(40, 60), mix=_REFRESHED, through=_OFTEN, strike_s=8.0),
        Profile("moves", {"restart": 3, "crash": 2, "slow": 3, "pause": 1}, count=(4, 9), mix=_FEW, spikes=0.05),
    )
}
"""For the mutants: what shows one safeguard's absence soon."""


def profile_of(seed: int) -> Profile:
    """Return the profile of a seed: they take turns."""
    return list(PROFILES.values())[seed % len(PROFILES)]


def brief(profile: Profile) -> Profile:
    """Return a profile for runs of less than half the length: more of them, and more beginnings, in the same time."""
    fewest, most = profile.count
    count = (max(1, fewest // 2), max(1, most // 2))
    return replace(profile, name=profile.name + _BRIEF, count=count, strike_s=_BRIEF_S)


def _by_name(name: str) -> Profile:
    if name.endswith(_BRIEF):
        return brief(_by_name(name.removesuffix(_BRIEF)))
    return (PROFILES | AIMED)[name]


@dataclass
class Outcome:
    """What a run brought.

    Attributes:
        seed: Its seed.
        profile: Its profile's name.
        violations: Broken promises.
        defects: Errors that must never happen.
        history: What the clients did and saw.
        log: What happened.
        planned: The faults of the schedule.
        counts: For the summary.
        faults: Faults done, by kind.
        digest: Of all that was done and seen: two runs of one seed have the same.
    """

    seed: int
    profile: str
    violations: list[Violation]
    defects: list[tuple[float, str]]
    history: History
    log: list[tuple[float, str]]
    planned: list[Fault]
    counts: Counter[str]
    faults: Counter[str]
    digest: str
    kept: list[int] | None = None
    """Which faults of the seed's schedule were done, by position; None for all."""

    @property
    def good(self) -> bool:
        """True if nothing was wrong."""
        return not self.violations and not self.defects

    @property
    def clauses(self) -> list[str]:
        """The clauses that were broken."""
        names = [violation.clause for violation in self.violations] + ["defect"] * bool(self.defects)
        return list(dict.fromkeys(names))


class _Run:
    """One run under way."""

    def __init__(self, seed: int, profile: Profile, world: World, faults: list[Fault]) -> None:
        self.history = History()
        self.clients: dict[str, Client] = {}
        self.former: list[Client] = []
        self.left_early: list[str] = []
        self._seed = seed
        self._profile = profile
        self._world = world
        self._faults = faults
        self._readers = 0
        world.reader = self._reader
        self._lives: Counter[str] = Counter()

    async def main(self) -> None:
        """Start everything, break it, mend it, and let the clients finish."""
        world, profile = self._world, self._profile
        world.network.delay_s, world.network.spikes = profile.delay_s, profile.spikes
        await asyncio.gather(*(world.start_node(machine) for machine in world.machines))
        if not await world.joined(world.machines):
            world.defect("the cluster did not form")
            return
        for number in range(profile.mix.clients):
            self._start_client(f"c{number}")
        began = world.loop.now
        nemesis = Nemesis(world, self.history, self.clients, self._start_client)
        strikes = []
        for fault in self._faults:
            await world.pause(max(0.0, began + fault.at - world.loop.now))
            strikes.append(world.loop.create_task(nemesis.strike(fault)))
        await world.pause(max(0.0, began + _WARM_S + profile.strike_s - world.loop.now))
        await asyncio.gather(*strikes)
        await nemesis.mend()
        if not await world.joined(world.machines):
            world.defect("the cluster did not come together again")
        await world.pause(_CALM_S)
        await self._finish()

    def _reader(self, host: Host) -> Reader:
        self._readers += 1
        rng, mix = Random(f"{self._seed} reader {self._readers}"), self._profile.mix
        return Reader(self._world, self.history, host, load_s=mix.load_s, fails=mix.load_fails, rng=rng)

    def _start_client(self, machine: str) -> None:
        if machine in self.clients:
            self.former.append(self.clients[machine])
        life = self._lives[machine]
        self._lives[machine] += 1
        rng = Random(f"{self._seed} client {machine} {life}")
        mix = self._profile.mix
        client = Client(self._world, self.history, self._world.origin, mix, name=machine, life=life, rng=rng)
        self.clients[machine] = client
        client.start()

    async def _finish(self) -> None:
        world = self._world
        for client in self.clients.values():
            client.stop()
        end = world.loop.now + _LEAVE_S
        while world.loop.now < end and not all(client.finished for client in self.clients.values()):
            await world.pause(0.5 * 1.0)
        for client in [*self.clients.values(), *self.former]:
            if not client.finished:
                world.defect(f"{client.name} did not come to an end")
            for error in client.failures():
                world.defect(f"{client.name} failed: {type(error).__name__}: {error}")
        if not await world.drained():
            world.defect("writes still wait for the table")
        if "w" in self._profile.mix.keys:
            await world.loop.spawn(world.host("rest"), at_rest(world, self.history, self._profile.mix.keys["w"]))


def run_seed(
    seed: int,
    profile: Profile | None = None,
    *,
    tracing: bool = False,
    keep: list[int] | None = None,
    mutant: Callable[[ExitStack], None] | None = None,
) -> Outcome:
    """Run one seed and check what its clients saw.

    Args:
        seed: The seed.
        profile: What may go wrong; None for the seed's own.
        tracing: Note more of what happens.
        keep: Only these faults of the schedule, by position.
        mutant: Switches a safeguard off.
    """
    profile = profile or profile_of(seed)
    count = Random(f"{seed} count").randint(*profile.count) if profile.weights else 0
    planned = schedule(seed, profile.weights, count=count, from_s=_WARM_S, to_s=_WARM_S + profile.strike_s)
    faults = planned if keep is None else [planned[at] for at in keep]
    policy = through_policy(seed) | profile.through
    behind = "b" in profile.mix.keys
    world = World(
        seed, nodes=profile.nodes, tracing=tracing, l2=profile.l2, through=policy, behind=behind, leases=profile.leases
    )
    run = _Run(seed, profile, world, faults)
    with ExitStack() as stack:
        stack.enter_context(simulated(world, seed))
        if mutant is not None:
            mutant(stack)
        try:
            world.run(run.main)
        except Deadlock as error:
            world.defect(str(error))
    history = run.history
    for at, epoch, _ in world.views:
        history.epochs.setdefault(epoch, at)
    calm = not profile.weights
    violations = check(history, keeps=profile.keeps, calm=calm)
    violations += check_through(history, world.origin, policy, calm=calm)
    violations += check_written(history, world.table)
    violations += check_dependents(history)
    violations += check_behind(history, world.rows)
    violations += check_sliding(history, calm=calm)
    return Outcome(
        seed,
        profile.name,
        violations,
        world.defects,
        history,
        world.log,
        faults,
        _counts(history, world),
        world.faults,
        _digest(history, world),
        keep,
    )


def _counts(history: History, world: World) -> Counter[str]:
    counts: Counter[str] = Counter(seeds=1, seconds=round(world.loop.now), messages=world.network.delivered)
    counts["turns"] = world.loop.handled
    for op in history.ops:
        if op.kind is Kind.READ:
            counts["reads"] += op.done
            counts["misses"] += op.done and op.value is None
            counts["failed reads"] += not op.done
        else:
            counts["acknowledged"] += op.done
            counts["uncertain"] += not op.done
    counts["loads"] = len(history.loads)
    return counts


def _digest(history: History, world: World) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for op in history.ops:
        digest.update(f"{op} {op.began!r} {op.ended!r}\n".encode())
    digest.update(repr(world.views).encode())
    return digest.hexdigest()


def shrink(outcome: Outcome) -> Outcome:
    """Return a run of the same seed that breaks the same clause with fewer faults."""
    profile, clauses, best = _by_name(outcome.profile), set(outcome.clauses), outcome
    kept = list(range(len(outcome.planned)))
    for at in list(kept):
        without = [other for other in kept if other != at]
        tried = run_seed(outcome.seed, profile, keep=without)
        if clauses & set(tried.clauses):
            kept, best = without, tried
    best.kept = kept
    return best


def report(outcome: Outcome, *, most: int = 2, tracing: bool = False) -> str:
    """Return what went wrong, with what happened around it; with every message if that is wanted."""
    if tracing:
        profile = _by_name(outcome.profile)
        outcome = run_seed(outcome.seed, profile, tracing=True, keep=outcome.kept)
    lines = [f"seed {outcome.seed} ({outcome.profile}): {', '.join(outcome.clauses) or 'good'}"]
    lines += [f"  planned {fault}" for fault in outcome.planned]
    lines += [f"  defect at {at:.4f}: {text}" for at, text in outcome.defects[:10]]
    for violation in outcome.violations[:most]:
        lines.append(f"  {violation}")
        lines += [f"    {at:9.4f} {text}" for at, text in _around(outcome, violation)][-_MOST_LINES:]
    if len(outcome.violations) > most:
        lines.append(f"  and {len(outcome.violations) - most} more")
    return "\n".join(lines)


def _around(outcome: Outcome, violation: Violation) -> list[tuple[float, str]]:
    """Return what happened around a violation: to its key, and to the cluster."""
    since, until, key = violation.since - _WINDOW_S, violation.at + 0.2, violation.key
    history = outcome.history
    around = [(at, text) for at, text in outcome.log if since <= at <= until and (key in text or ">" not in text)]
    around += [
        (op.began, str(op))
        for op in history.ops
        if op.key == key and op.ended >= since and op.began <= until and _matters(op, violation)
    ]
    around += [
        (load.began, f"{load.client} loads {key} until {load.ended:.4f}: {load.value}")
        for load in history.loads
        if load.key == key and load.ended >= since and load.began <= until
    ]
    return sorted(around, key=lambda each: each[0])


def _matters(op: Op, violation: Violation) -> bool:
    return op in violation.ops or op.kind is not Kind.READ or abs(op.began - violation.at) < 0.1 or op.ended == math.inf
