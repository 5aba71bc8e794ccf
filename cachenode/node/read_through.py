"""Read-through: values that the node itself loads from the origin of their namespace.

To `Loads` the node is one more caller who leads: a flight's token goes to `begin`, and the load ends with a FULFILL or
an ABANDON like any other. So everything that is true of loads by callers is true of these: one at a time per key (C6),
nothing stored that is older than a removal (C2), those who wait are answered together.

A load belongs to nobody who waits: callers may leave, it goes on, and who asks next finds its value. Where the owner of
a key cannot be reached, its stand-in gives this node the right to load (`StandIns`); what another node may still act
for is loaded without being kept.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from cachenode.core.entries import Batch, BatchResult, Failure, L2Entry, Loaded, Operation
from cachenode.core.failures import load_failed
from cachenode.core.origin_limits import Priority
from cachenode.core.warming import stagger
from cachenode.errors import L2Unavailable, OriginError
from cachenode.node.filler import new_record
from cachenode.node.loads import MAX_LEASE_S
from cachenode_api.dependencies import canonical_parents, pack_references
from cachenode_api.records import NO_TTL_MS

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node, Reply

__all__ = ["ReadThrough"]

_log = structlog.get_logger(__name__)

_MAX_TEXT = 150
"""Of why a load failed: the rest of the sentence fits in what may travel."""


class ReadThrough:
    """The part of a node that loads."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._loads: set[asyncio.Task[bytes | Failure]] = set()

    def begin(
        self, namespace: Namespace, key: bytes, token: int, priority: Priority = Priority.DEMAND
    ) -> asyncio.Task[bytes | Failure]:
        """Load the key of a flight that this node leads, and end the flight.

        Returns:
            The load. Whoever awaits it must shield it: it is not the caller's alone.
        """
        load = asyncio.get_running_loop().create_task(self._load(namespace, key, token, priority))
        self._loads.add(load)
        load.add_done_callback(self._loads.discard)
        return load

    async def _load(self, namespace: Namespace, key: bytes, token: int, priority: Priority) -> bytes | Failure:
        """Load, tell whoever lent the token how that has ended, and return the outcome.

        A node that is about to leave stores nothing more: then those who wait here are given the outcome all the same
        (``test_node_that_leaves_hands_out_what_it_loads``).
        """
        end = Batch(Operation.ABANDON, namespace.policy.name, [key], tokens=[token], acknowledged=False)
        outcome = await self._outcome(namespace, key, token, priority, end)
        rest = self._node.execute(end, lambda _: None)
        if rest is not None:
            await rest
        flight = namespace.flights.of(key, token)
        if flight is not None and not flight.landing:
            self._node.loads.conclude(namespace, flight, outcome)
        return outcome

    async def _outcome(
        self, namespace: Namespace, key: bytes, token: int, priority: Priority, end: Batch
    ) -> bytes | Failure:
        """Ask the origin. Return what those who wait are to be told, and make `end` say so."""
        try:
            dirty, loaded = await self._queued(namespace, key)
            if not dirty and namespace.origin is None:  # it was dirty when a caller asked for it; let that one load
                return load_failed("the write that waited for the origin is there by now; ask again")
            if not dirty:
                loaded = await self._loaded(namespace, key, token, priority)
        except OriginError as error:
            text = self._said(namespace, 1, str(error))
            end.details = [text]
            return load_failed(f"the load failed: {text}")
        if loaded is None:
            end.flags = [1]
            return b""
        if not loaded.keep and namespace.flights.of(key, token) is namespace.flights.find(key):
            namespace.flights.detach(key)
        end.operation, end.values, end.flags = Operation.FULFILL, [loaded.value], [loaded.flags]
        if priority is Priority.WARMING:
            loaded = loaded._replace(ttl_s=self._staggered(namespace, key, loaded.ttl_s))
        if loaded.depends_on:
            name = namespace.policy.name
            end.depends_on = [pack_references(canonical_parents(loaded.depends_on, name))]
        if loaded.ttl_s is not None:
            end.ttls_ms = [_ttl_ms(loaded.ttl_s)]
        return new_record(self._entry(namespace, loaded), self._node.clock.now())

    async def _loaded(self, namespace: Namespace, key: bytes, token: int, priority: Priority) -> Loaded | None:
        """Return what there is for a key, from another region's origin if that is marked to have what is newer."""
        assert namespace.origin is not None, "there is something to load from"
        elsewhere = self._node.region_loads if namespace.markers is not None else None
        if elsewhere is not None:
            return await elsewhere.load(namespace, key, priority, namespace.flights.of(key, token))
        return await namespace.origin.load(key, priority)

    async def _queued(self, namespace: Namespace, key: bytes) -> tuple[bool, Loaded | None]:
        """Return whether a write of the key waits for the origin, and what it brings there.

        Raises:
            OriginError: That cannot be told.
        """
        behind = self._node.behind(namespace)
        if behind is None:
            return False, None
        try:
            return await behind.loaded(namespace, key)
        except L2Unavailable:
            raise OriginError("it is not known whether a write of the key waits for the origin") from None

    def _staggered(self, namespace: Namespace, key: bytes, ttl_s: float | None) -> float:
        """Return the life of a value that is loaded together with many others."""
        if ttl_s is None and namespace.demand is not None and namespace.demand.gives_ttls:
            [ttl_s] = namespace.adapted([key], self._node.clock.now())
        whole_s = namespace.policy.ttl_s if ttl_s is None else ttl_s
        return stagger(whole_s, namespace.policy.ttl_jitter, random.random())  # noqa: S311 - not a secret

    def _entry(self, namespace: Namespace, loaded: Loaded) -> L2Entry:
        """Return a loaded value as an entry without a version, which has no place in any order."""
        ttl_s = namespace.policy.ttl_s if loaded.ttl_s is None else loaded.ttl_s
        return L2Entry(loaded.value, loaded.flags, 0, ttl_s)

    async def past_owner(self, batch: Batch, namespace: Namespace, indices: Sequence[int], reply: Reply) -> None:
        """Answer keys of a GET whose owner cannot be reached, and which L2 does not have."""
        asked = replace(batch, operation=Operation.LEASE, lease_s=MAX_LEASE_S)
        await asyncio.gather(*(self._past_owner(asked, namespace, index, reply) for index in indices))

    async def _past_owner(self, asked: Batch, namespace: Namespace, index: int, reply: Reply) -> None:
        told: list[BatchResult] = []
        await self._node.stand_ins.ask(asked, namespace, index, told.append, self)
        [result] = told
        token = result.tokens[0] if result.tokens else 0
        if token:
            outcome = await asyncio.shield(self.begin(namespace, asked.keys[index], token))
            result = BatchResult(indices=[index], records=[b""], now_s=self._node.clock.now())
            if isinstance(outcome, Failure):
                result.failures = {0: outcome}
            else:
                result.records = [outcome]
        reply(result)

    async def unkept(
        self, namespace: Namespace, keys: Sequence[bytes]
    ) -> tuple[list[L2Entry | None], dict[int, Failure]]:
        """Load keys that this node may not keep; return what there is, and why that cannot be said of some."""
        namespace.loads += len(keys)
        found = await asyncio.gather(*(self.past_cache(namespace, key) for key in keys), return_exceptions=True)
        entries = [self._entry(namespace, each) if isinstance(each, Loaded) else None for each in found]
        errors = {at: str(each) for at, each in enumerate(found) if isinstance(each, BaseException)}
        failures = {}
        if errors:
            texts = {text: self._said(namespace, count, text) for text, count in Counter(errors.values()).items()}
            failures = {at: load_failed(f"the load failed: {texts[text]}") for at, text in errors.items()}
        namespace.load_failures += len(failures)
        return entries, failures

    async def past_cache(self, namespace: Namespace, key: bytes) -> Loaded | None:
        """Return what there is for a key here, without looking at what is cached, and without keeping it.

        Raises:
            OriginError: That could not be found out.
        """
        dirty, queued = await self._queued(namespace, key)
        if dirty or namespace.origin is None:
            return queued
        return await namespace.origin.load(key)

    @staticmethod
    def _said(namespace: Namespace, keys: int, text: str) -> str:
        """Log a failed load, without its text, which may hold keys; return the text with what finds the line."""
        request_id = f"{random.getrandbits(32):08x}"
        _log.warning(
            "load_failed",
            request_id=request_id,
            namespace=namespace.policy.name,
            origin=namespace.policy.origin,
            keys=keys,
        )
        return f"{text[:_MAX_TEXT]} (request {request_id})"

    async def close(self) -> None:
        """End the loads that are under way."""
        for load in list(self._loads):
            load.cancel()
        await asyncio.gather(*self._loads, return_exceptions=True)


def _ttl_ms(ttl_s: float) -> int:
    return NO_TTL_MS if ttl_s == float("inf") else max(1, round(ttl_s * 1_000))
