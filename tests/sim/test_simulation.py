"""Whole clusters of cachenode's own code in virtual time, under faults from a seed, judged by what clients saw.

``make test-sim`` runs 500 seeds, ``make test`` a few of each profile. ``SEED=n`` runs one and prints what happened
around whatever went wrong, ``PROFILE=name`` chooses the profile, ``SEEDS=n`` how many. ``python -m tests.sim`` goes on
until told to stop.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.sim.runner import PROFILES, brief, profile_of, report, run_seed, shrink

_CHUNK = 4
_COUNT = int(os.environ.get("SEEDS", "24"))
_ONE = os.environ.get("SEED")
_CHOSEN = PROFILES.get(os.environ.get("PROFILE", ""))
_CHUNKS = (
    [[int(_ONE)]] if _ONE else [list(range(first, min(first + _CHUNK, _COUNT))) for first in range(0, _COUNT, _CHUNK)]
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seeds", _CHUNKS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_promises_hold_under_faults(seeds: list[int], record_property: Any) -> None:
    """Whatever is broken, no client sees what the contract excludes.

    Scenarios 1, 4, 5, 7, 10, 18, 19, 21 to 24, 26, 27, 33 and 38, in the order and at the moments that a seed decides.
    """
    counts: dict[str, int] = {}
    faults: dict[str, int] = {}
    for seed in seeds:
        outcome = run_seed(seed, brief(_CHOSEN or profile_of(seed)))
        for sums, more in ((counts, outcome.counts), (faults, outcome.faults)):
            for name, count in more.items():
                sums[name] = sums.get(name, 0) + count
        if not outcome.good:
            pytest.fail(report(shrink(outcome) if _ONE else outcome, tracing=bool(_ONE)), pytrace=False)
    record_property("simulated", {"counts": counts, "faults": faults})


def test_seed_decides_everything() -> None:
    """Two processes with different hash seeds do and see exactly the same."""
    code = "from tests.sim.runner import *; print([run_seed(seed).digest for seed in (5, 10)])"
    top = Path(__file__).parents[2]
    runs = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{top}:{top / 'client'}"},
            cwd=top,
            capture_output=True,
            text=True,
            check=True,
        )
        for hash_seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout != ""
