"""Two regions under faults at random: once all have heard, none serves what was untrue before.

Links are cut and lose answers, stores are down, lose calls, replies or everything, outboxes overflow, senders freeze
and others take over, receivers begin anew, and what was sent before comes again, late and in any order. The origin is
the same for both and does not lag: so a value that is older than the key's last change shows a lost invalidation.

Each safeguard that is switched off must be found.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from cachenode.adapters.regions_chaos import ChaosRegions
from cachenode.adapters.regions_memory import MemoryRegions
from cachenode.core import regions as core
from cachenode.core.entries import Batch, Operation
from cachenode.core.regions import Cursor, Outgoing, Owed, Shipment
from cachenode.errors import L2Unavailable, RegionUnavailable
from cachenode.node import region_sender
from cachenode.node.region_receiver import RegionReceiver
from cachenode_api.selectors import SelectorKind
from tests.support.cluster import fetch, run
from tests.support.regions import SHARED, Site, connect, two_sites

SEEDS = 10
ROUNDS, STEPS = 3, 30
KEYS = [b"a1", b"a2", b"b1", b"b2"]
POLICY = replace(SHARED, region_holdoff_s=0.0, stale_s=0.0)
"""What is loaded is kept at once: only what is told makes it untrue."""
NODES = ("a", "b")


class Chaos:
    """One run.

    Args:
        seed: Of everything that happens.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        pair = two_sites(nodes=NODES, most=4, policies=[POLICY])
        self.sites = {site.name: site for site in pair}
        self.other = {"east": "west", "west": "east"}
        self.stores = {name: ChaosRegions(site.store, self.random) for name, site in self.sites.items()}
        for name, site in self.sites.items():
            for links in site.regions.values():
                self._use(links, self.stores[name])
        self.truth = dict.fromkeys(KEYS, 0)
        self.loading: list[tuple[Site, bytes, int, int]] = []
        """Region, key, token and what the origin had when the load began."""

    def _use(self, links: object, store: ChaosRegions) -> None:
        """Put faults between nodes and what their region keeps."""
        for part in (links.regions, links.receiver, *links.senders.values()):  # type: ignore[attr-defined]
            part._store = store

    async def step(self) -> None:
        """Let something happen in one of the regions."""
        name = self.random.choice(sorted(self.sites))
        steps: list[Callable[[str], object]] = [self.change, self.load, self.land, self.send, self.again, self.fault]
        [chosen] = self.random.choices(steps, [4, 6, 6, 3, 1, 2])
        outcome = chosen(name)
        if asyncio.iscoroutine(outcome):
            await outcome

    async def change(self, name: str) -> None:
        """The origin changes, and who has changed it says so."""
        key = self.random.choice(KEYS)
        node = self.sites[name].nodes[self.random.choice(NODES)]
        if self.random.random() < 0.2:
            for each in KEYS:
                self.truth[each] += each[:1] == key[:1]
            kinds = [SelectorKind.PREFIX.value]
            await run(node, Batch(Operation.BARRIER, "shared", [key[:1]], flags=kinds))
            return
        self.truth[key] += 1
        await run(node, Batch(Operation.INVALIDATE, "shared", [key]))

    async def load(self, name: str) -> None:
        """A reader that finds nothing begins to load."""
        key, site = self.random.choice(KEYS), self.sites[name]
        namespace = site.node.namespaces.get("shared")
        assert namespace is not None
        if any(site is busy and key == known for busy, known, *_ in self.loading):
            return
        lease = Batch(Operation.LEASE, "shared", [key], lease_s=60.0)
        tokens = (await run(site.node, lease, holder=self)).tokens
        if tokens:
            self.loading.append((site, key, tokens[0], self.truth[key]))

    async def land(self, _: str) -> None:
        """A load ends with what the origin had when it began."""
        if self.loading:
            site, key, token, value = self.loading.pop(self.random.randrange(len(self.loading)))
            await run(site.node, Batch(Operation.FULFILL, "shared", [key], [b"%d" % value], tokens=[token]))

    async def send(self, name: str) -> None:
        """One of the nodes sends what it finds."""
        await self.sites[name].sender(self.other[name], self.random.choice(NODES)).step()

    async def again(self, name: str) -> None:
        """Something that was sent before arrives once more."""
        link = self.sites[name].link(self.other[name], self.random.choice(NODES))
        if link.relayed and link.receiver is not None:
            with contextlib.suppress(RegionUnavailable, L2Unavailable):
                await link.receiver.take(name, self.other[name], self.random.choice(link.relayed))

    def fault(self, name: str) -> None:
        """Something breaks, or is mended."""
        site, store, other = self.sites[name], self.stores[name], self.other[name]
        links = [site.link(other, node) for node in NODES]
        kind = self.random.randrange(7)
        if kind == 0:
            cut = self.random.random() < 0.5
            for link in links:
                link.cut = cut
        elif kind == 1:
            self.random.choice(links).lose_answer = self.random.random() < 0.5
        elif kind == 2:
            store.down = self.random.random() < 0.4
        elif kind == 3:
            store.lose_call, store.lose_reply = self.random.choice([(0.0, 0.0), (0.2, 0.0), (0.0, 0.3)])
        elif kind == 4 and self.random.random() < 0.3:
            site.store.lose()
        elif kind == 5:
            site.clock.advance(self.random.choice([0.5, 2.0, 6.0]))
        elif kind == 6:
            self.restart(site)

    def restart(self, site: Site) -> None:
        """Let a node that receives forget what it has done and could not note."""
        for links in site.regions.values():
            links.receiver._done.clear()
        connect(self.sites)

    async def settle(self) -> None:
        """Mend everything, and let all be told."""
        for name, site in self.sites.items():
            store = self.stores[name]
            store.down, store.lose_call, store.lose_reply = False, 0.0, 0.0
            for node in NODES:
                site.link(self.other[name], node).cut = site.link(self.other[name], node).lose_answer = False
        while self.loading:
            await self.land("")
        for name, site in self.sites.items():
            site.clock.advance(60.0)
            for links in site.regions.values():
                await links.regions.flush()
            for _ in range(20):
                await self.sites[name].sender(self.other[name]).step()
                site.clock.advance(2.0)

    async def untrue(self) -> list[tuple[str, bytes]]:
        """Return what a region serves that is older than the last change."""
        found = []
        for name, site in self.sites.items():
            for key in KEYS:
                value = await fetch(site.node, key, "shared")
                if value is not None and value != b"%d" % self.truth[key]:
                    found.append((name, key))
        return found


async def finds(seeds: int = SEEDS) -> bool:
    """Return whether some run ends with a region that serves what is untrue."""
    for seed in range(seeds):
        chaos = Chaos(seed)
        for _ in range(ROUNDS):
            for _ in range(STEPS):
                await chaos.step()
            await chaos.settle()
            if await chaos.untrue():
                return True
    return False


async def test_nothing_untrue_outlives_the_relay() -> None:
    """Whatever happened before."""
    assert not await finds()


async def test_runs_see_every_fault() -> None:
    """Or they would prove nothing: entries acted on, known ones, gaps, what was owed."""
    applied = known = gaps = failures = kept = 0
    for seed in range(SEEDS):
        chaos = Chaos(seed)
        for _ in range(ROUNDS * STEPS):
            await chaos.step()
        for site in chaos.sites.values():
            for links in site.regions.values():
                [counters] = links.receiver.counters()
                applied, known, gaps = applied + counters.applied, known + counters.known, gaps + counters.gaps
                failures += sum(sender.failures for sender in links.senders.values())
            for key in KEYS:
                kept += await fetch(site.node, key, "shared") is not None
    assert min(applied, known, gaps, failures, kept) >= 5


def _deaf_to_gaps(self: RegionReceiver) -> list[Batch]:
    return []


def _blind_to_holes(cursor: Cursor | None, found: Outgoing) -> Shipment | None:
    shipment = core.next_shipment(cursor, found)
    if shipment is None or not shipment.gap or cursor is None or cursor.outbox != found.outbox or not found.entries:
        return shipment
    entries = tuple(entry for _, entry in found.entries)
    return Shipment(found.outbox, found.head - len(entries), found.head, entries)


def _forgetful(self: Owed, entries: object) -> None:
    """Owe nothing."""


def _one_outbox(self: MemoryRegions) -> None:
    self._outbox, self._head, self._entries, self._paused = "always", 0, {}, set()
    self._acted, self._leases, self._cursors = {}, {}, getattr(self, "_cursors", {})


def _acts_later(self: RegionReceiver, origin: str, work: object) -> object:
    """Move the cursor past what was not acted on, as if that could wait."""

    async def nothing() -> None:
        pass

    return nothing()


@pytest.mark.parametrize(
    ("where", "name", "mutant"),
    [
        (RegionReceiver, "_everything", _deaf_to_gaps),
        (region_sender, "next_shipment", _blind_to_holes),
        (Owed, "add", _forgetful),
        (MemoryRegions, "lose", _one_outbox),
        (RegionReceiver, "_act", _acts_later),
    ],
    ids=["gap", "hole", "owed", "outbox id", "act"],
)
async def test_mutant_is_found(monkeypatch: pytest.MonkeyPatch, where: object, name: str, mutant: object) -> None:
    """Without this safeguard some region serves what is untrue."""
    monkeypatch.setattr(where, name, mutant)
    assert await finds(6 * SEEDS)
