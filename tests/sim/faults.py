"""What is broken in a run, and when: a schedule from the seed, and the hands that do it.

Faults overlap, so that one strikes while the cluster still deals with another. Each has dice of its own: leaving one
out does not change what the others choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.sim.history import History
from tests.sim.network import Cut
from tests.sim.workload import Client
from tests.sim.world import World

__all__ = ["Fault", "Nemesis", "schedule"]

_AFTERMATH_S = 6.0
"""A cluster may still be dealing with a fault for so long: a lease, and what waits for its end."""


_LATE = 1_200.0
"""Times the usual delay of a message: less than the time limit of what waits for it, more than a lease's margin."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: when it strikes, which, and its own seed."""

    at: float
    kind: str
    seed: str

    def __str__(self) -> str:
        return f"{self.at:.3f} {self.kind}"


def schedule(seed: int, weights: dict[str, int], *, count: int, from_s: float, to_s: float) -> list[Fault]:
    """Return the faults of a run, in order."""
    rng = Random(f"{seed} schedule")
    kinds, chances = list(weights), list(weights.values())
    if not kinds:
        return []
    times = sorted(rng.uniform(from_s, to_s) for _ in range(count))
    return [Fault(at, rng.choices(kinds, chances)[0], f"{seed} fault {number}") for number, at in enumerate(times)]


class Nemesis:
    """Breaks things and mends them.

    Args:
        world: What is broken.
        history: Gets when something was broken.
        clients: The clients' processes by machine; a process that ends is replaced by `restart_client`.
        restart_client: Starts a client on a machine.
    """

    def __init__(
        self,
        world: World,
        history: History,
        clients: dict[str, Client],
        restart_client: Callable[[str], None],
    ) -> None:
        self._world = world
        self._history = history
        self._clients = clients
        self._restart_client = restart_client
        self._busy: set[str] = set()
        self._cuts: list[list[Cut]] = []

    async def strike(self, fault: Fault) -> None:
        """Do one fault and mend it."""
        world = self._world
        rng = Random(fault.seed)
        done: Callable[[Random], Coroutine[Any, Any, str]] = getattr(self, f"_{fault.kind}")
        began, at = world.loop.now, len(self._history.faults)
        self._history.faults.append((began, math.inf))
        what = await done(rng)
        if what:
            world.faults[fault.kind] += 1
            self._history.faults[at] = (began, world.loop.now + _AFTERMATH_S)
            world.note(f"FAULT {fault.kind} is over: {what}")
        else:
            self._history.faults[at] = (began, began)

    async def mend(self) -> None:
        """Make everything whole that is broken still."""
        world = self._world
        for cuts in self._cuts:
            world.network.heal(cuts)
        world.network.slow.clear()
        for ways in world.ways.values():
            ways.clear()
        for server in world.redis.values():
            server.down = False
            server.thaw()
        world.origin.down, world.origin.slow = False, 1.0
        for host in world.hosts:
            world.loop.resume(host)
        for machine in world.machines:
            if machine not in world.nodes:
                await world.start_node(machine)

    # Targets.

    def _node(self, rng: Random) -> str | None:
        """Return a node that runs and that no other fault has taken."""
        free = [name for name in self._world.machines if name in self._world.nodes and name not in self._busy]
        return rng.choice(free) if free else None

    def _take(self, rng: Random) -> str | None:
        """Return a node for a fault that wants all others to be well, None if another fault has one."""
        name = None if self._busy else self._node(rng)
        if name is not None:
            self._busy.add(name)
        return name

    def _some_clients(self, rng: Random) -> list[str]:
        """Return some clients, but not all."""
        return rng.sample(list(self._clients), rng.randint(1, len(self._clients) - 1))

    def _machines(self) -> list[str]:
        return [*self._world.machines, *self._clients]

    def _say(self, text: str) -> str:
        self._world.note(f"FAULT {text}")
        return text

    # Streams and machines.

    async def _break_stream(self, rng: Random) -> str:
        streams = [stream for stream in self._world.network.streams if stream.context is not None and not stream.ended]
        if not streams:
            return ""
        stream, how = rng.choice(streams), rng.choice(("both", "both", "client", "server", "none"))
        self._world.network.lose(stream, how)
        return self._say(f"break {stream.name} of {stream.method.rpartition('/')[2]}, noticed by {how}")

    async def _cut(self, cuts: list[Cut], seconds: float, text: str) -> str:
        self._say(f"cut {text} for {seconds:.2f} s")
        network = self._world.network
        cuts = [cut for cut in cuts if cut not in network.cuts]
        self._cuts.append(cuts)
        network.cut(cuts)
        await self._world.pause(seconds)
        network.heal(cuts)
        self._cuts.remove(cuts)
        return text

    async def _partition(self, rng: Random) -> str:
        """Cut two machines off from each other."""
        one, other = rng.choice(self._world.machines), rng.choice(self._machines())
        if one == other:
            return ""
        return await self._cut([(one, other), (other, one)], _cut_s(rng), f"{one} <-/-> {other}")

    async def _one_way(self, rng: Random) -> str:
        """Let nothing arrive in one direction."""
        pair = [rng.choice(self._world.machines), rng.choice([*self._machines(), "l2", "registry"])]
        rng.shuffle(pair)
        if pair[0] == pair[1]:
            return ""
        return await self._cut([(pair[0], pair[1])], _cut_s(rng), f"{pair[0]} -/-> {pair[1]}")

    async def _isolate(self, rng: Random) -> str:
        """Cut a node off from some of the others, in both directions."""
        one = rng.choice(self._world.machines)
        others: list[str] = []
        for group in (self._world.machines, list(self._clients), ["l2"], ["registry"]):
            if rng.random() < 0.6:
                others += [name for name in group if name != one]
        cuts = [cut for other in others for cut in ((one, other), (other, one))]
        return await self._cut(cuts, _cut_s(rng), f"{one} <-/-> {','.join(others)}") if cuts else ""

    async def _sever(self, rng: Random) -> str:
        """Cut a node off from another and from some clients, for whom that one must find who stands in for it.

        It goes on as the owner of its keys for the other clients.
        """
        one, other = rng.sample(self._world.machines, 2)
        clients = [name for name in self._clients if rng.random() < 0.6]
        cuts = [cut for far in (other, *clients) for cut in ((one, far), (far, one))]
        return await self._cut(cuts, rng.uniform(3.0, 6.0), f"{one} <-/-> {','.join([other, *clients])}")

    async def _late_answers(self, rng: Random) -> str:
        """Let a node's words to a client be late; then the client's do not arrive any more, and soon none at all."""
        one, client = rng.choice(self._world.machines), rng.choice(list(self._clients))
        network = self._world.network
        self._say(f"answers of {one} to {client} are late")
        network.slow[one, client] = _LATE
        await self._world.pause(rng.uniform(0.3, 1.0))
        asked: list[Cut] = [(client, one)]
        self._cuts.append(asked)
        network.cut(asked)
        await self._world.pause(rng.uniform(0.4, 0.8))
        network.slow.pop((one, client), None)
        what = await self._cut([(one, client)], rng.uniform(1.5, 2.5), f"{one} <-/-> {client}")
        network.heal(asked)
        self._cuts.remove(asked)
        return what

    async def _exile(self, rng: Random) -> str:
        """Cut a node and some clients off from all others, just after the registry's answers to it have been late.

        For these clients it goes on as the owner of its keys for as long as it may.
        """
        one = self._take(rng)
        if one is None:
            return ""
        slow, others = self._world.network.slow, [name for name in self._world.machines if name != one]
        self._say(f"answers of the registry to {one} are late")
        slow["registry", one] = _LATE
        await self._world.pause(rng.uniform(1.5, 2.5))
        slow.pop(("registry", one), None)
        cuts = _both_ways([one], ["registry", *others]) + _both_ways(self._some_clients(rng), others)
        what = await self._cut(cuts, rng.uniform(4.5, 6.5), f"{one} and its clients from all others")
        self._busy.discard(one)
        return what

    async def _clock_step(self, rng: Random) -> str:
        """Let the registry's clock jump, so that it gives up members that are at work; one of them hears nothing of it.

        That one still acts for the clients that do not hear of it either. It is linked to its peers all the while,
        so they know that it is there and wait.
        """
        one = self._take(rng)
        if one is None:
            return ""
        others = [name for name in self._world.machines if name != one]
        self._world.redis["registry"].step_clock(5.0)
        cuts = _both_ways([one], ["registry"]) + _both_ways(self._some_clients(rng), others)
        what = await self._cut(cuts, rng.uniform(1.5, 4.0), f"{one} from the registry, whose clock jumps")
        self._busy.discard(one)
        return what

    async def _slow(self, rng: Random) -> str:
        """Let the way between two machines be slow."""
        one, other = rng.choice(self._world.machines), rng.choice([*self._machines(), "l2", "registry"])
        factor, slow = rng.choice((10.0, 100.0, 600.0)), self._world.network.slow
        self._say(f"slow {one} - {other} by {factor:.0f}")
        for cut in ((one, other), (other, one)):
            slow[cut] = factor
        await self._world.pause(rng.uniform(0.5, 4.0))
        for cut in ((one, other), (other, one)):
            slow.pop(cut, None)
        return f"{one} - {other}"

    # Processes.

    async def _pause_of(self, name: str, host: Any, seconds: float) -> str:
        self._say(f"pause {name} for {seconds:.2f} s")
        self._world.loop.pause(host)
        await self._world.pause(seconds)
        self._world.loop.resume(host)
        return name

    async def _pause(self, rng: Random) -> str:
        """SIGSTOP for a node, for less than its lease or for longer."""
        name = self._node(rng)
        if name is None:
            return ""
        self._busy.add(name)
        host = self._world.nodes[name].host
        what = await self._pause_of(name, host, rng.choice((rng.uniform(0.05, 3.0), rng.uniform(3.0, 6.0))))
        self._busy.discard(name)
        return what

    async def _pause_client(self, rng: Random) -> str:
        """SIGSTOP for a client."""
        client = self._clients[rng.choice(list(self._clients))]
        if client.host.paused or client.host.dead:
            return ""
        return await self._pause_of(client.name, client.host, rng.uniform(0.05, 4.0))

    async def _crash(self, rng: Random) -> str:
        """Let a node vanish, and come back at once, soon, or after its lease."""
        name = self._node(rng)
        if name is None:
            return ""
        silently, away_s = rng.random() < 0.3, rng.choice((0.05, rng.uniform(0.1, 3.0), rng.uniform(3.0, 6.0)))
        self._busy.add(name)
        self._say(f"crash {name} {'silently ' if silently else ''}for {away_s:.2f} s")
        self._world.crash_node(name, silently=silently)
        await self._world.pause(away_s)
        await self._world.start_node(name)
        self._busy.discard(name)
        return name

    async def _forsake(self, rng: Random) -> str:
        """Cut a node off from L2, and soon let it vanish with the newest values, which it alone has."""
        name = self._take(rng)
        if name is None:
            return ""
        what = await self._cut(_both_ways([name], ["l2"]), rng.uniform(0.3, 2.0), f"{name} from L2, then crash it")
        self._world.crash_node(name, silently=rng.random() < 0.3)
        await self._world.pause(rng.choice((0.05, rng.uniform(0.1, 3.0), rng.uniform(3.0, 6.0))))
        await self._world.start_node(name)
        self._busy.discard(name)
        return what

    async def _bereave(self, rng: Random) -> str:
        """Let a node vanish, and L2 forget soon before or after what it wrote last; the others look there for it."""
        name = self._take(rng)
        if name is None:
            return ""
        server, lost, first = self._world.redis["l2"], rng.choice((5, 30, 100)), rng.random() < 0.3
        self._say(f"crash {name}, and L2 fails over: {lost} writes are lost")
        if first:
            server.fail_over(lost)
        self._world.crash_node(name, silently=rng.random() < 0.3)
        await self._world.pause(rng.choice((0.0, rng.uniform(0.1, 6.0))))
        if not first:
            server.fail_over(lost)
        await self._world.pause(rng.choice((0.05, rng.uniform(0.1, 6.0))))
        await self._evict(rng)
        await self._world.start_node(name)
        self._busy.discard(name)
        return name

    async def _crash_client(self, rng: Random) -> str:
        """Let a client vanish; another takes its place."""
        name = rng.choice(list(self._clients))
        client = self._clients[name]
        if client.host.dead:
            return ""
        silently = rng.random() < 0.3
        self._say(f"crash {client.name}{' silently' if silently else ''}")
        self._world.end_process(client.host, silently=silently)
        await self._world.pause(rng.uniform(0.0, 1.0))
        self._restart_client(name)
        return client.name

    async def _restart(self, rng: Random) -> str:
        """SIGTERM, and back at once or after a while."""
        name = self._node(rng)
        if name is None or len(self._world.nodes) < 2:
            return ""
        self._busy.add(name)
        self._say(f"stop {name}")
        await self._world.stop_node(name)
        self._say(f"stopped {name}")
        await self._world.pause(rng.choice((0.0, rng.uniform(0.1, 5.0))))
        self._say(f"start {name}")
        await self._world.start_node(name)
        self._busy.discard(name)
        return name

    async def _swing(self, rng: Random) -> str:
        """Let a node leave, come back, and leave once more: keys go to and fro between two that know each other."""
        name = self._node(rng)
        if name is None:
            return ""
        world = self._world
        self._busy.add(name)
        for _ in range(2):
            self._say(f"stop {name}")
            await world.stop_node(name)
            await world.pause(rng.uniform(2.2, 3.2))
            self._say(f"start {name}")
            await world.start_node(name)
            await world.joined(world.machines)
            await world.pause(rng.uniform(0.5, 3.5))
        self._busy.discard(name)
        return name

    async def _fall(self, rng: Random) -> str:
        """Let a node leave, so that the others save what they know; then one of them vanishes, and stays away."""
        name, fallen = self._node(rng), self._node(rng)
        if name is None or fallen in {None, name}:
            return ""
        world = self._world
        self._busy |= {name, str(fallen)}
        await world.pause(3.5)
        self._say(f"stop {name}, and soon crash {fallen}")
        await world.stop_node(name)
        await world.pause(rng.uniform(5.0, 6.0))
        world.crash_node(str(fallen), silently=False)
        await world.pause(rng.uniform(8.0, 9.0))
        for each in (name, str(fallen)):
            await world.start_node(each)
            self._busy.discard(each)
        return f"{name} and {fallen}"

    async def _evict(self, rng: Random) -> str:
        """Let a node's memory be short for a moment."""
        name = self._node(rng)
        if name is None:
            return ""
        evicted = 0
        for namespace in self._world.nodes[name].server.node.namespaces:
            while namespace.store.evict() is not None:
                evicted += 1
        return self._say(f"evict {evicted} entries of {name}")

    # The shared store.

    async def _l2_outage(self, rng: Random) -> str:
        server, seconds = self._world.redis["l2"], rng.choice((0.1, rng.uniform(0.5, 4.0)))
        if server.down:
            return ""
        self._say(f"L2 down for {seconds:.2f} s")
        server.down = True
        await self._world.pause(seconds)
        server.down = False
        return "l2"

    async def _l2_freeze(self, rng: Random) -> str:
        server, seconds = self._world.redis["l2"], rng.choice((0.1, rng.uniform(0.2, 4.0)))
        if server.frozen:
            return ""
        self._say(f"L2 frozen for {seconds:.2f} s")
        server.frozen = True
        await self._world.pause(seconds)
        server.thaw()
        return "l2"

    async def _lossy(self, name: str, rng: Random) -> str:
        ways, seconds = self._world.ways[name], rng.uniform(0.5, 4.0)
        ways.lose_request, ways.lose_reply, ways.late = (rng.choice((0.0, 0.05, 0.4)) for _ in range(3))
        self._say(f"{name} loses {ways.lose_request}/{ways.lose_reply}, late {ways.late}, for {seconds:.2f} s")
        await self._world.pause(seconds)
        ways.clear()
        return name

    async def _l2_lossy(self, rng: Random) -> str:
        return await self._lossy("l2", rng)

    async def _l2_restart(self, rng: Random) -> str:
        server = self._world.redis["l2"]
        server.down = True
        self._say("L2 begins anew, empty")
        await self._world.pause(rng.choice((0.0, rng.uniform(0.05, 2.0))))
        server.begin_anew()
        server.down = False
        return "l2"

    async def _l2_failover(self, rng: Random) -> str:
        server, lost = self._world.redis["l2"], rng.choice((1, 5, 30))
        server.down = True
        self._say(f"L2 fails over, {lost} writes are lost")
        await self._world.pause(rng.choice((0.0, rng.uniform(0.05, 2.0))))
        server.fail_over(lost)
        server.down = False
        return f"{lost} writes"

    async def _l2_evict(self, rng: Random) -> str:
        self._world.redis["l2"].evict(rng, 3)
        return self._say("L2 evicts some values")

    # The origin.

    async def _origin_outage(self, rng: Random) -> str:
        origin, seconds = self._world.origin, rng.uniform(0.2, 3.0)
        if origin.down:
            return ""
        self._say(f"origin down for {seconds:.2f} s")
        origin.down = True
        await self._world.pause(seconds)
        origin.down = False
        return "origin"

    async def _origin_slow(self, rng: Random) -> str:
        """Let loads take longer, so that more happens meanwhile; some take longer than they may."""
        origin, seconds = self._world.origin, rng.uniform(0.5, 3.0)
        origin.slow = rng.choice((10.0, 50.0))
        self._say(f"origin slow by {origin.slow:.0f} for {seconds:.2f} s")
        await self._world.pause(seconds)
        origin.slow = 1.0
        return "origin"

    # The registry.

    async def _registry_outage(self, rng: Random) -> str:
        server, seconds = self._world.redis["registry"], rng.choice((rng.uniform(0.5, 3.0), rng.uniform(3.0, 6.0)))
        if server.down:
            return ""
        self._say(f"registry down for {seconds:.2f} s")
        server.down = True
        await self._world.pause(seconds)
        server.down = False
        return "registry"

    async def _registry_lossy(self, rng: Random) -> str:
        return await self._lossy("registry", rng)

    async def _registry_restart(self, rng: Random) -> str:
        """Let the registry forget everything: what C3 is not promised for."""
        server = self._world.redis["registry"]
        self._say("registry begins anew, empty")
        server.begin_anew()
        return "registry"


def _both_ways(some: Sequence[str], others: Sequence[str]) -> list[Cut]:
    return [cut for one in some for other in others for cut in ((one, other), (other, one))]


def _cut_s(rng: Random) -> float:
    return rng.choice((rng.uniform(0.05, 1.0), rng.uniform(1.0, 4.0), rng.uniform(4.0, 6.5)))
