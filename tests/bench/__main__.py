"""``python -m tests.bench``: every contender in one run, as ratios. The exit code says whether all targets were met."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.bench import machine, report
from tests.bench.rows import APART, IDLE_NAME, MEMORY_NAME, ROWS, SCRAPE_NAME, SINGLE_FLIGHT_NAME, known_names
from tests.bench.runner import Plan, Result, run_invalidations, run_memory, run_rows, run_scrapes, run_single_flight

_FOLDER = Path(__file__).parents[2] / "build" / "bench"
_CORES = 2
_PLAIN_WIDTH = 120
_LIMIT_S = 900.0
_QUICK_LIMIT_S = 180.0
_ROUNDS = 15
_QUICK_ROUNDS = 5
_FLIGHT_ROUNDS = 3
_HIT_RATIO_REQUESTS = 400_000
_QUICK_HIT_RATIO_REQUESTS = 20_000


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    quick = "a minute: shorter rounds, only what has a target, no idle sessions unless named"
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--only", default="", metavar="NAME[,NAME]", help=f"one or more of {', '.join(known_names())}")
    parser.add_argument(
        "--rounds", type=int, default=None, help=f"rounds per contender (default {_ROUNDS}, quick {_QUICK_ROUNDS})"
    )
    parser.add_argument("--uvloop", action="store_true", help="uvloop in every client process, ours and the peers'")
    options = parser.parse_args(arguments)
    slow = {IDLE_NAME, *APART} if options.quick else set()  # five hundred clients, and servers of their own
    every = [name for name in known_names() if name not in slow]
    options.names = [name for name in options.only.split(",") if name] or every
    if unknown := sorted(set(options.names) - set(known_names())):
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(known_names())}")
    if options.rounds is None:
        options.rounds = _QUICK_ROUNDS if options.quick else _ROUNDS
    if not 1 <= options.rounds <= 100:
        parser.error("--rounds must be 1 to 100")
    return options


def _plan(options: argparse.Namespace) -> Plan:
    logs = _FOLDER / "logs"
    if options.quick:
        return Plan(options.rounds, 0.2, 0.1, 60_000, 1, 30, 500, logs, targets_only=True, uvloop=options.uvloop)
    return Plan(options.rounds, 0.6, 0.8, 500_000, min(options.rounds, 3), 100, 2_000, logs, uvloop=options.uvloop)


async def _measure(options: argparse.Namespace, console: Console) -> tuple[list[Result], str]:
    """Return the results, and why there are not more of them."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    results: list[Result] = []

    def done(result: Result) -> None:
        results.append(result)
        console.print(report.one_line(result))

    plan = _plan(options)
    limit_s, usual = (_QUICK_LIMIT_S, _QUICK_ROUNDS) if options.quick else (_LIMIT_S, _ROUNDS)
    limit_s *= max(1.0, options.rounds / usual)
    try:
        async with asyncio.timeout(limit_s):
            await run_rows([row for row in ROWS if row.name in options.names], plan, done=done)
            await run_invalidations(options.names, plan, done=done)
            if SCRAPE_NAME in options.names:
                await run_scrapes(plan, done=done)
            if MEMORY_NAME in options.names:
                await run_memory(plan, done=done)
            if SINGLE_FLIGHT_NAME in options.names and not options.quick:
                await run_single_flight(min(options.rounds, _FLIGHT_ROUNDS), done=done)
    except TimeoutError:
        return results, f"stopped after {limit_s:.0f} s"
    return results, ""


def _hit_ratios(options: argparse.Namespace, console: Console) -> str:
    """Measure and print the hit ratios; returns why that was not possible, or nothing."""
    try:
        from tests.bench import hit_ratio  # late: it needs packages that the rows do not
    except ImportError as error:
        return str(error)
    measured: list[dict[str, Any]] = hit_ratio.run(
        requests=_QUICK_HIT_RATIO_REQUESTS if options.quick else _HIT_RATIO_REQUESTS
    )
    report.print_hit_ratios(console, measured)
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 0 if everything ran and met its target, else 1."""
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    known = machine.describe(machine.use_cores(_CORES))
    _FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        results, cut_short = asyncio.run(_measure(options, console))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("interrupted; nothing was written")
        return 130
    if results:
        report.print_table(console, results, known)
        report.write_json(_FOLDER, results, known, quick=options.quick)
        report.write_plot(_FOLDER / "results.png", results)
    left_out = frozenset({"hit_ratio", SINGLE_FLIGHT_NAME} if options.quick else {"hit_ratio"})
    problems = _problems(options.names, results, cut_short, left_out)
    if "hit_ratio" in options.names and (reason := _hit_ratios(options, console)):
        problems.append(f"did not run: hit_ratio ({reason})")
    for problem in problems:
        console.print(problem, style="red", markup=False)
    if not problems:
        console.print("everything ran, and every target was met", style="green")
    return 1 if problems else 0


def _problems(names: Sequence[str], results: Sequence[Result], cut_short: str, left_out: frozenset[str]) -> list[str]:
    ran = {result.name for result in results}
    problems = [f"missed: {result.name}" for result in results if not result.error and not result.ok]
    problems += [f"failed: {result.name}: {result.error}" for result in results if result.error]
    wanted = [name for name in names if name not in ran and name not in left_out]
    return problems + [f"did not run: {name} ({cut_short or 'nothing to compare with'})" for name in wanted]


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
