"""Runs seeds until told to stop: ``python -m tests.sim --from 1000 --seconds 3600``."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator

from tests.sim.runner import AIMED, PROFILES, report, run_seed

_ALL = PROFILES | AIMED


def _one(task: tuple[int, str]) -> tuple[int, str, Counter[str], Counter[str]]:
    """Run a seed; return what went wrong, and the counts."""
    seed, profile = task
    outcome = run_seed(seed, _ALL.get(profile))
    return seed, "" if outcome.good else report(outcome, most=1), outcome.counts, outcome.faults


def _tasks(first: int, profile: str, until: float) -> Iterator[tuple[int, str]]:
    for seed in itertools.count(first):
        if time.monotonic() > until:
            return
        yield seed, profile


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="Simulate clusters under faults.")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for how long; without end if not given")
    parser.add_argument(
        "--profile", choices=sorted(_ALL), default="", help="what may go wrong; they take turns if not given"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    bad: list[int] = []
    began = time.monotonic()
    try:
        with multiprocessing.get_context("fork").Pool(chosen.jobs) as pool:
            tasks = _tasks(chosen.first, chosen.profile, began + chosen.seconds)
            for seed, wrong, more, struck in pool.imap_unordered(_one, tasks):
                counts += more
                faults += struck
                if wrong:
                    bad.append(seed)
                    print(wrong, flush=True)
    except KeyboardInterrupt:
        pass
    took = time.monotonic() - began
    print(f"{counts['seeds']:,} seeds in {took:.0f} s ({counts['seeds'] / took:.1f}/s): {dict(counts)}")
    print(f"faults: {dict(faults)}")
    print(f"{len(bad)} bad seeds: {sorted(bad)[:50]}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
