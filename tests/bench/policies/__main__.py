"""``python -m tests.bench.policies``: policies beside hand-written cache-aside, on the same workload in one run."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from rich.console import Console

from tests.bench import machine
from tests.bench.policies.contenders import HOT, ITEMS, Contender, ours, peer
from tests.bench.policies.origin import LATENCY_S, Database, database
from tests.bench.policies.report import Round, missed, print_table, rows, write_json, write_plot
from tests.bench.policies.runs import Plan, run_hot_key, run_mixed
from tests.bench.stats import round_order

_FOLDER = Path(__file__).parents[3] / "build" / "bench"
_PLAN = Plan(keys=2_000, rate=2_000, updates=2, seconds=40, ttl_s=30, hot_seconds=20, hot_ttl_s=3)
_QUICK = Plan(keys=500, rate=1_000, updates=1, seconds=8, ttl_s=8, hot_seconds=8, hot_ttl_s=2)
_PLAIN_WIDTH = 120

Start = Callable[[Path, str, dict[str, int]], AbstractAsyncContextManager[Contender]]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.policies", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half a minute, with coarser numbers")
    parser.add_argument("--rounds", type=int, default=None, help="rounds of both sides (default 3, quick 1)")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 3)
    if not 1 <= options.rounds <= 20:
        parser.error("--rounds must be 1 to 20")
    return options


async def _round(start: Start, plan: Plan, seed: int) -> Round:
    ttls_s = {ITEMS: plan.ttl_s, HOT: plan.hot_ttl_s}
    async with (
        _folder() as folder,
        database(folder) as path,
        Database(path) as origin,
        start(folder, path, ttls_s) as contender,
    ):
        gc.collect()
        mixed = await run_mixed(contender, origin, plan, seed)
        return Round(mixed, await run_hot_key(contender, origin, plan))


@contextlib.asynccontextmanager
async def _folder() -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cachenode-bench-") as folder:
        yield Path(folder)


async def _measure(plan: Plan, rounds: int, console: Console) -> tuple[list[Round], list[Round]]:
    """Return the rounds of both sides, which take turns."""
    sides: tuple[tuple[str, Start, list[Round]], ...] = (("cachenode", ours, []), ("redis-py", peer, []))
    for number, order in enumerate(round_order(len(sides), rounds)):
        for name, start, found in (sides[at] for at in order):
            found.append(await _round(start, plan, seed=number))
            seen = found[-1].mixed.seen
            console.print(
                f"{name}, round {number + 1}: {len(seen.latencies_s):,} requests, hit ratio {seen.hit_ratio:.2%}"
            )
    return sides[0][2], sides[1][2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 0 if every figure was reached, else 1."""
    options = _parse(arguments)
    plan = _QUICK if options.quick else _PLAN
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    known = machine.describe(machine.use_cores(2))
    workload = (
        f"{plan.rate:,.0f} requests/s on {plan.keys:,} keys by Zipf(1.0), {plan.updates:g} updates/s, "
        f"TTL {plan.ttl_s} s, origin {LATENCY_S * 1e3:.0f} ms; one hot key, TTL {plan.hot_ttl_s} s; "
        f"rounds: {options.rounds}"
    )
    _FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        mine, other = asyncio.run(_measure(plan, options.rounds, console))
    except KeyboardInterrupt:
        console.print("interrupted; nothing was written")
        return 130
    found = rows(mine, other)
    print_table(console, found, known, workload)
    write_json(_FOLDER / "policies.json", found, known, workload)
    write_plot(_FOLDER / "policies.png", mine[-1], other[-1])
    if problems := missed(found):
        console.print(f"missed: {', '.join(problems)}", style="red")
        return 1
    console.print("every figure was reached", style="green")
    return 0


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
