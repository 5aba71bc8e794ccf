"""``doctor``: what is wrong with the cluster, and what to do."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cachenode.cli.errors import reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from cachenode.cli.options import Address, Format, Output, Timeout
from cachenode.cli.output import console, print_json

if TYPE_CHECKING:
    from cachenode.findings import Finding, Moment

__all__ = ["doctor"]

_CRITICAL, _WARNING = 1, 5
_STYLES = {"critical": "bold red", "warning": "yellow"}


@reports
def doctor(
    during: Annotated[
        float, typer.Option("--during", metavar="SECONDS", min=0.1, max=600, help="How long to watch the counters.")
    ] = 2.0,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Ask every node how it is, twice, and say what is wrong, how that shows, and what to do.

    The exit code is 1 if something is critical, 5 if there are only warnings, 0 if all is well. Rates are those of the
    time between the two looks: watch for longer where little happens.
    """
    from cachenode.findings import Severity, examine

    found = examine(*asyncio.run(_look(address, during, timeout)))
    if output is Format.JSON:
        print_json({"ok": not found, "findings": [asdict(finding) for finding in found]})
    else:
        _print(found)
    if found:
        raise typer.Exit(_CRITICAL if found[0].severity is Severity.CRITICAL else _WARNING)


async def _look(address: str, during_s: float, timeout_s: float) -> tuple[Moment, Moment]:
    before = await _moment(address, timeout_s)
    await asyncio.sleep(during_s)
    return before, await _moment(address, timeout_s)


async def _moment(address: str, timeout_s: float) -> Moment:
    from cachenode.cli.admin import ask_stats, ask_views
    from cachenode.findings import Moment

    (_, views), (_, stats) = await asyncio.gather(ask_views(address, timeout_s), ask_stats(address, timeout_s))
    return Moment(time.monotonic(), views, stats)


def _print(found: list[Finding]) -> None:
    screen = console()
    if not found:
        screen.print("All is well: nothing to report.", style="green")
        return
    for finding in found:
        where = f" ({finding.where})" if finding.where else ""
        screen.print(f"{finding.severity.value}: {finding.what}{where}", style=_STYLES[finding.severity], markup=False)
        screen.print(f"  {finding.evidence}", markup=False, soft_wrap=True)
        screen.print(f"  → {finding.remedy}", markup=False, soft_wrap=True)
        if finding.section:
            screen.print(f"  runbook: {finding.section}", style="dim", markup=False)
