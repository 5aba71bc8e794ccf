"""The second part of the demonstration: policies at work, an act each, on the cluster of the first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cachenode.demo.plugin import DELAY_S, loads
from cachenode_client import CacheClient

__all__ = ["Act", "play", "write_config"]

_CONFIG = """
[origins.airports]
loader = "cachenode.demo.plugin:Airports"
options = {{ path = "{origin}", ledger = "{ledger}" }}

[namespaces.live]
origin = "airports"
ttl_s = {ttl_s}
stale_s = {ttl_s}
refresh_ahead = 0.25

[namespaces.airports]
origin = "airports"
negative_ttl_s = 60

[[event]]
name = "country.renamed"
invalidates = ["country:{{code}}"]
namespace = "pages"
"""
_TTL_S = 1.5
_HOT = "EDDF"
_HOT_S = 6.0
_CALLERS = 50
_PAUSE_S = 0.002
_COUNTRY, _PAGES = "FR", 30
_STRANGERS = 200
_FLOOD = 10_000


@dataclass(frozen=True, slots=True)
class Act:
    """What one policy did.

    Attributes:
        name: For programs.
        title: For people.
        lines: What was seen.
        problems: What should not have been; empty if all is well.
        figures: The same for programs.
    """

    name: str
    title: str
    lines: tuple[str, ...]
    problems: tuple[str, ...]
    figures: dict[str, float]


def write_config(directory: Path, origin: Path) -> Path:
    """Write the nodes' configuration for the acts; return its path."""
    file = directory / "node.toml"
    file.write_text(_CONFIG.format(origin=origin, ledger=_ledger(directory), ttl_s=_TTL_S), encoding="utf-8")
    return file


def _ledger(directory: Path) -> Path:
    return directory / "loads"


async def play(address: str, directory: Path) -> tuple[Act, ...]:
    """Play all acts, one after the other.

    Args:
        address: Of the cluster, whose nodes run with the configuration of `write_config`.
        directory: Where that is.
    """
    acts: Sequence[Callable[[str, Path], Awaitable[Act]]] = (_refresh, _cascade, _flood)
    return tuple([await act(address, _ledger(directory)) for act in acts])


async def _refresh(address: str, ledger: Path) -> Act:
    """Read one key again and again while its life ends several times."""
    before = loads(ledger)[_HOT]
    waits: list[float] = []
    async with CacheClient(address, namespace="live") as cache:
        await cache.get(_HOT)
        until = time.monotonic() + _HOT_S

        async def read() -> None:
            while (began := time.monotonic()) < until:
                await cache.get(_HOT)
                waits.append(time.monotonic() - began)
                await asyncio.sleep(_PAUSE_S)

        await asyncio.gather(*(read() for _ in range(_CALLERS)))
    made, slowest_s = loads(ledger)[_HOT] - before, max(waits)
    problems = [f"The hot key was loaded {made} times."] if made > 3 * _HOT_S / _TTL_S else []
    told = f"{len(waits):,} reads of one key in {_HOT_S:.0f} s, by {_CALLERS} callers; its TTL is {_TTL_S} s"
    return Act(
        "refresh",
        "A hot key is refreshed ahead of its end",
        (
            f"{told}, a load takes {1e3 * DELAY_S:.0f} ms.",
            f"The origin was asked {made} times. The slowest read took {1e3 * slowest_s:.1f} ms.",
        ),
        tuple(problems),
        {"reads": len(waits), "loads": made, "slowest_ms": round(1e3 * slowest_s, 2)},
    )


async def _cascade(address: str, _ledger: Path) -> Act:
    """Tell that a country has another name: what was made of it goes, and what was made of that."""
    pages = [f"page:{number}" for number in range(_PAGES)]
    async with CacheClient(address, namespace="pages") as cache, CacheClient(address, namespace="pages") as reader:
        await cache.set(f"country:{_COUNTRY}", "the old name")
        await cache.set("country:IT", "another name")
        await cache.set_many(dict.fromkeys(pages, "an airport's page"), depends_on=[f"country:{_COUNTRY}"])
        await cache.set("list:europe", "a list of pages", depends_on=pages)
        await cache.set("list:alps", "another list", depends_on=["country:IT"])
        keys = [f"country:{_COUNTRY}", *pages, "list:europe", "country:IT", "list:alps"]
        before = len(await reader.get_many(keys))
        began = time.monotonic()
        published = await cache.publish("country.renamed", {"code": _COUNTRY})
        took_s = time.monotonic() - began
        left = await reader.get_many(keys)
    problems = []
    if before != len(keys):
        problems.append(f"Only {before} of {len(keys)} values were there before the event.")
    if set(left) != {"country:IT", "list:alps"}:
        problems.append(f"After the event {len(left)} values were left, which should have been 2.")
    named = len(published.invalidations)
    return Act(
        "cascade",
        "An event cascades through what was made of a value",
        (
            f'"country.renamed" names {named} key; {_PAGES} pages were made of it, and a list of those.',
            f"{before - len(left)} of {before} values were untrue after {1e3 * took_s:.1f} ms, in near caches too.",
        ),
        tuple(problems),
        {"before": before, "left": len(left), "took_ms": round(1e3 * took_s, 2)},
    )


async def _flood(address: str, ledger: Path) -> Act:
    """Ask for airports that do not exist."""
    strangers = [f"?{number:03d}" for number in range(_STRANGERS)]
    began, found = time.monotonic(), 0
    async with CacheClient(address, namespace="airports") as cache:

        async def ask(first: int) -> None:
            nonlocal found
            for number in range(first, _FLOOD, _CALLERS):
                found += await cache.get(strangers[number * 7 % _STRANGERS]) is not None

        await asyncio.gather(*(ask(first) for first in range(_CALLERS)))
    seconds = time.monotonic() - began
    made = sum(count for code, count in loads(ledger).items() if code.startswith("?"))
    problems = []
    if found:
        problems.append(f"{found} airports that do not exist were found.")
    if made > 2 * _STRANGERS:
        problems.append(f"The origin was asked {made} times for {_STRANGERS} airports that do not exist.")
    return Act(
        "negative_flood",
        "A flood of keys that do not exist is absorbed",
        (
            f"{_FLOOD:,} reads of {_STRANGERS} airports that do not exist, in {seconds:.1f} s.",
            f"The origin was asked {made} times; that there is nothing is remembered.",
        ),
        tuple(problems),
        {"reads": _FLOOD, "loads": made, "seconds": round(seconds, 2)},
    )
