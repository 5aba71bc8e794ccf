"""Loads what is marked where it was changed: in another region, whose origin has the change (`cachenode.core.markers`).

The other region asks its origin itself, past its caches. So the answer does not depend on how far what this region
tells has come there, nothing waits for a load that waits for this one, and it brings what a loader brings: the value,
its life, its tags and what it depends on. Here it is a load like any other: one flight for a key, ended by who led it,
voided by what is written meanwhile.

Interleavings, each forced by a test in ``tests/node/test_region_loads.py``:

1. The region is out of reach, or cannot load: this one's origin is asked, and what it has is handed out and not kept
   (``test_region_out_of_reach_is_stood_in_for``).
2. The key is changed while the region is asked: what it brings is not kept (``test_change_meanwhile_voids_the_load``).
3. It becomes known by the value's tags only that another region has changed it: it is loaded there after all
   (``test_tag_is_known_when_the_value_is``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from cachenode.core.entries import Loaded
from cachenode.core.flights import Flight
from cachenode.core.markers import Mark
from cachenode.core.origin_limits import OriginLimits, Priority
from cachenode.errors import OriginError, RegionUnavailable
from cachenode.node.origin_calls import Calls
from cachenode_api.errors import InvalidTags
from cachenode_api.records import TAGGED
from cachenode_api.tags import split_tags

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.ports import Clock, RegionLink

__all__ = ["RegionLoads"]

_log = structlog.get_logger(__name__)


class _Question(NamedTuple):
    namespace: str
    key: bytes


class RegionLoads:
    """The part of a node that loads in other regions.

    Args:
        links: The ways to the other regions, by their names. Not closed with this.
        limits: How hard each may be asked.
        clock: Of the node.
    """

    def __init__(self, links: Mapping[str, RegionLink], limits: OriginLimits, clock: Clock) -> None:
        self._clock = clock
        self._calls: dict[str, Calls[_Question, Loaded | None]] = {
            name: Calls(_asking(link), 1, limits, clock, name=f"region {name}") for name, link in links.items()
        }

    async def load(
        self, namespace: Namespace, key: bytes, priority: Priority, flight: Flight[Any] | None
    ) -> Loaded | None:
        """Return what there is for a key: where it was changed, if it is marked, else what the origin has.

        Args:
            namespace: Its namespace, which has marks and an origin.
            key: The key.
            priority: Of those that wait.
            flight: The load, if this node knows it: learns whether the value is that of another region.

        Raises:
            OriginError: That could not be found out.
        """
        markers, now = namespace.markers, self._clock.now
        assert markers is not None, "the namespace has marks"
        assert namespace.origin is not None, "there is something to load from"
        mark = markers.of(key, (), now())
        if mark is not None:
            done, loaded = await self._there(mark, namespace, key, priority, flight)
            if done:
                return loaded
        loaded = await namespace.origin.load(key, priority)
        if mark is None and loaded is not None and (tags := _tags(loaded)):
            mark = markers.of(key, tags, now())
            if mark is not None:
                done, there = await self._there(mark, namespace, key, priority, flight)
                return there if done else loaded
        return loaded

    async def _there(
        self, mark: Mark, namespace: Namespace, key: bytes, priority: Priority, flight: Flight[Any] | None
    ) -> tuple[bool, Loaded | None]:
        """Load in another region. Return whether it has answered, and what."""
        try:
            loaded = await self._calls[mark.region].ask(_Question(namespace.policy.name, key), priority)
        except OriginError as error:
            namespace.remote_load_failures += 1
            _log.info("remote_load_failed", region=mark.region, namespace=namespace.policy.name, why=str(error))
            return False, None
        namespace.remote_loads += 1
        if flight is not None:
            flight.remote = True
        return True, loaded

    async def close(self) -> None:
        """Ask nothing more."""
        await asyncio.gather(*(calls.close() for calls in self._calls.values()))


def _tags(loaded: Loaded) -> tuple[bytes, ...]:
    try:
        return split_tags(loaded.value)[0] if loaded.flags & TAGGED else ()
    except InvalidTags:  # said when the value lands
        return ()


def _asking(link: RegionLink) -> Callable[[Sequence[_Question]], Awaitable[list[Loaded | OriginError | None]]]:
    async def ask(questions: Sequence[_Question]) -> list[Loaded | OriginError | None]:
        [(namespace, key)] = questions
        try:
            return [await link.load(namespace, key)]
        except RegionUnavailable as error:
            raise OriginError(str(error)) from None

    return ask
