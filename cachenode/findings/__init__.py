"""What is wrong with a cluster, from what its nodes say at two moments: the runbook's questions, asked by a program.

Nothing here is asked of anybody. The answers come as arguments, so the command line and the console come to the same
findings, and each check can be tried on answers that are made up. A new check is a function of two moments, in the
module of what it is about, an entry in its table, and one in `SECTIONS`.
"""

from __future__ import annotations

from dataclasses import replace

from cachenode.findings import cluster, namespaces, origins, regions, times
from cachenode.findings.measured import measured
from cachenode.findings.moments import Check, Finding, Moment, Severity
from cachenode.findings.sections import SECTIONS

__all__ = ["CHECKS", "Check", "Finding", "Moment", "Severity", "examine", "measured"]

CHECKS: tuple[Check, ...] = (
    *cluster.CHECKS,
    *namespaces.CHECKS,
    *origins.CHECKS,
    *regions.CHECKS,
    *times.CHECKS,
)


def examine(before: Moment, after: Moment) -> list[Finding]:
    """Return all findings, critical ones first. Rates are those between the two moments."""
    found = [
        replace(finding, section=SECTIONS.get(check.__name__, ""))
        for check in CHECKS
        for finding in check(before, after)
    ]
    return sorted(found, key=lambda finding: finding.severity is not Severity.CRITICAL)
