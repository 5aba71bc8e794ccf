"""Says at the end of a test run what the simulator has covered."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

_TOTALS = "simulated"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what a test has counted; it comes over from a worker process with the report."""
    for name, counts in report.user_properties:
        if name == _TOTALS and report.when == "call":
            assert isinstance(counts, dict), "see `record_totals`"
            for kind, more in counts.items():
                _SUMS[kind].update(more)


_SUMS: dict[str, Counter[str]] = {"counts": Counter(), "faults": Counter()}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the sums."""
    counts, faults = _SUMS["counts"], _SUMS["faults"]
    if not counts:
        return
    terminalreporter.section("simulation")
    terminalreporter.line(
        f"{counts['seeds']:,} seeds, {counts['seconds']:,} virtual seconds: {counts['reads']:,} reads checked "
        f"({counts['misses']:,} misses) beside {counts['acknowledged']:,} acknowledged and {counts['uncertain']:,} "
        f"uncertain writes, {counts['loads']:,} loads"
    )
    terminalreporter.line("faults: " + ", ".join(f"{count:,} {kind}" for kind, count in faults.most_common()))
