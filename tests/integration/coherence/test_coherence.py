"""The contract, from outside: real processes, real faults, and a checker that knows nothing of how it works.

Scenarios 1, 5, 7, 10, 21-24, 30 and 33, in random order and at random moments.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.coherence.run import run

SEED = int(os.environ.get("SEED", "20261123"))
FAULTS = int(os.environ.get("FAULTS", "30"))
READS = 200_000


@pytest.mark.timeout(900)
async def test_no_read_is_older_than_an_acknowledged_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nodes, clients and L2 are killed, frozen and restarted; no read is stale, and no client goes back."""
    outcome = await run(tmp_path, seed=SEED, faults=FAULTS, reads=READS)
    with capsys.disabled():
        print(f"\n  seed {SEED}: {outcome.verdict}; {sum(outcome.faults.values())} faults: {dict(outcome.faults)}")
    assert not outcome.failed
    assert not outcome.verdict.stale, "\n".join(map(str, [*outcome.verdict.stale[:20], *outcome.log]))
    assert outcome.verdict.reads >= READS
    assert sum(outcome.faults.values()) >= FAULTS
