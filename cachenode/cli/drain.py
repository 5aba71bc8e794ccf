"""``drain``: have a node leave the cluster, and see it leave."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cachenode.cli.errors import CliError, ExitCode, reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from cachenode.cli.options import Address, Format, Output, Timeout, parse_duration
from cachenode.cli.output import console, count, print_json

if TYPE_CHECKING:
    from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["drain"]

_STAGES = ("", "flushing", "unready", "releasing", "ending work", "leaving the view", "handing over", "done")
_LONGEST_S = 3_600.0


@reports
def drain(
    node: Annotated[
        str, typer.Option("--node", metavar="ID", help="Which one; without it, the one at the address.")
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Return when it has left, or as soon as it begins.")
    ] = True,
    flush: Annotated[
        str,
        typer.Option(
            "--flush", metavar="DURATION", help="Wait so long for queued writes to reach their origins; 0: do not."
        ),
    ] = "5s",
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Have a node leave the cluster: clients and peers are told, its hottest entries go to the new owners.

    It is not ready from then on, ends what is under way, gives its lease back and stays up without doing anything, so
    that SIGTERM ends it at once. A second call sees the same. There is no way back but a restart. Ctrl-C ends only the
    display. Queued writes that have not reached their origin by then are not lost: the other nodes, or those that come
    later, bring them. With -o json each step is a line. Exit code 3: no member of the view has this id.
    """
    flush_s = 0.0 if flush.strip() == "0" else _flush_of(flush)
    last = asyncio.run(_follow(address, node, flush_s, timeout, output, wait=wait))
    if output is Format.TABLE:
        console().print(_summary(last, wait=wait), markup=False, soft_wrap=True)


def _flush_of(text: str) -> float:
    try:
        return min(parse_duration(text), _LONGEST_S)
    except CliError:
        raise CliError("--flush: must be a duration such as 5s or 1m, or 0", code=ExitCode.USAGE) from None


async def _follow(
    address: str, node: str, flush_s: float, timeout_s: float, output: Format, *, wait: bool
) -> pb.DrainProgress:
    """Have it leave, and show how far that is; return the last step seen."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from cachenode.cli.admin import drain_steps

    step: pb.DrainProgress | None = None
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[more]}"), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), disable=output is Format.JSON) as bar:
        shown = bar.add_task("draining", total=len(_STAGES) - 1, more="")
        async for step in drain_steps(address, node, flush_s, timeout_s):
            if output is Format.JSON:
                print_json(_document(step))
                sys.stdout.flush()
            done = _STAGES.index(step.stage) if step.stage in _STAGES else 0
            bar.update(shown, description=f"{step.header.node_id}: {step.stage}", completed=done, more=_more(step))
            if not wait and step.stage:
                break
    if step is None:
        raise CliError("the node has said nothing")
    return step


def _document(step: pb.DrainProgress) -> dict[str, object]:
    return {
        "node": step.header.node_id,
        "stage": step.stage,
        "seconds": round(step.seconds, 3),
        "sessions": step.sessions,
        "handed_over": step.handed_over,
        "unwritten": step.unwritten,
        "unfinished": list(step.unfinished),
    }


def _more(step: pb.DrainProgress) -> str:
    if step.stage == "flushing":
        return f"{count(step.unwritten)} queued writes"
    return f"{count(step.sessions)} clients, {count(step.handed_over)} entries handed over"


def _summary(step: pb.DrainProgress, *, wait: bool) -> str:
    name = step.header.node_id
    if not wait and step.stage != "done":
        return f"{name} leaves. See it with `cachenode drain --node {name}`."
    parts = [f"{name} has left in {step.seconds:.1f} s: {count(step.handed_over)} entries handed over"]
    parts += [f"{count(step.unwritten)} queued writes stay in the queue, for the other nodes"] if step.unwritten else []
    parts += [f"cut short: {', '.join(step.unfinished)}"] if step.unfinished else []
    return f"{', '.join(parts)}. It can be stopped now."
