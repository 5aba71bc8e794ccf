"""Runs targets for a while, and keeps what was found: bytes in a file, which a test reads from then on."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path

import structlog
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.targets import LONGEST_S, TARGETS, Target

__all__ = ["CORPUS", "fuzz", "run_one"]

CORPUS = Path(__file__).parent / "corpus"
"""By target: input that has once been handled badly."""
_ROUND = 200


def run_one(target: Target, data: bytes) -> None:
    """Give a target bytes.

    Raises:
        AssertionError: It took too long.
        Exception: Whatever the target raises and does not say it raises.
    """
    began = time.monotonic()
    with structlog.testing.capture_logs() as logs:
        target.run(data)
    failed = [line for line in logs if line["log_level"] in {"error", "critical"}]
    assert not failed, f"the node speaks of a defect of its own: {failed}"
    assert time.monotonic() - began < LONGEST_S, "it took too long"


def fuzz(name: str, *, first_seed: int, seconds: float = 0.0, examples: int = _ROUND) -> tuple[int, bytes | None]:
    """Give a target generated input, round after round until the time is over.

    Args:
        name: Of the target.
        first_seed: The rounds' seeds count up from here.
        seconds: How long at least; one round in any case.
        examples: How many inputs a round has.

    Returns:
        How many inputs there were, and the smallest one that was handled badly, None for none.
    """
    target, tried, worst = TARGETS[name], 0, None
    until, number = time.monotonic() + seconds, first_seed

    def attempt(data: bytes) -> None:
        nonlocal tried, worst
        tried += 1
        try:
            run_one(target, data)
        except BaseException:  # libraries in Rust panic with what is no Exception
            worst = data  # Hypothesis ends with the smallest
            raise

    limits = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    while True:
        try:
            seed(number)(limits(given(target.inputs)(attempt)))()
        except KeyboardInterrupt:
            raise
        except BaseException:
            logging.getLogger(__name__).exception("target %s, seed %d", name, number)
            return tried, worst
        number += 1
        if time.monotonic() >= until:
            return tried, None


def keep(name: str, data: bytes) -> Path:
    """Put a finding where tests read it."""
    file = CORPUS / name / f"{hashlib.sha256(data).hexdigest()[:12]}.bin"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file
