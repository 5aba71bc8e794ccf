"""``bloom``: what the Bloom filters of the nodes do, and their rebuild."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachenode.cli.errors import CliError, reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from cachenode.cli.options import Address, Format, Namespace, Output, Timeout, examples
from cachenode.cli.output import console, count, new_table, percent, print_json, seconds, size

if TYPE_CHECKING:
    from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Bloom filters of keys that have a value: what they answer, and their rebuild."
)

_STATES = {"ready": "[green]ready[/]", "partial": "[yellow]partial[/]", "suspended": "[red]suspended[/]"}
_REBUILD_S = 3_600.0


@app.command(epilog=examples("cachenode bloom status", "cachenode bloom status -n users -o json"))
@reports
def status(
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", metavar="NAME", help="Only this one.", show_default=False)
    ] = "",
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Show each node's filters: how many reads they answered, how often they were wrong, how full they are.

    Wrong are loads that found nothing, as a part of the reads that the filter let pass. Partial is a filter that says
    nothing about keys which have moved since it was begun; the next one is on its way then. It is built from the keys
    that the origin lists, merged from what the nodes know, or saved: read from what was saved before a restart. Its age
    counts from when the origin listed its keys.
    """
    from cachenode.cli.admin import ask_blooms

    asked, answers = asyncio.run(ask_blooms(address, namespace, timeout))
    if output is Format.JSON:
        nodes = [_document(name, answer) for name, answer in answers.items()]
        print_json({"epoch": asked.view.epoch, "nodes": nodes})
        return
    _print(answers)


def _document(name: str, answer: pb.BloomStatusResponse | None) -> dict[str, Any]:
    if answer is None:
        return {"id": name, "answers": False}
    return {"id": name, "answers": True, "filters": [_of_filter(each) for each in answer.filters]}


def _of_filter(each: pb.BloomFilter) -> dict[str, Any]:
    found = {field.name: getattr(each, field.name) for field in each.DESCRIPTOR.fields}
    found["age_s"] = round(each.age_s, 3) if each.HasField("age_s") else None
    found["fill"] = round(each.fill, 6)
    found["false_positive_rate"] = round(each.false_positives / each.passed, 6) if each.passed else None
    return found


def _print(answers: Mapping[str, pb.BloomStatusResponse | None]) -> None:
    screen, table = console(), new_table()
    for heading in ("namespace", "node", "state", "source"):
        table.add_column(heading, no_wrap=True)
    for heading in ("absent", "passed", "wrong", "keys", "room", "full", "size", "age"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = [(each.namespace, name, each) for name, answer in answers.items() if answer for each in answer.filters]
    for namespace, name, each in sorted(rows, key=lambda row: row[:2]):
        state = _STATES.get(each.state, each.state)
        table.add_row(
            namespace,
            name,
            f"{state}, building" if each.building else state,
            each.source or "-",
            count(each.absences),
            count(each.passed),
            percent(each.false_positives, each.passed),
            count(each.listed),
            count(each.expected),
            f"{each.fill:.0%}",
            size(each.bytes),
            seconds(each.age_s) if each.HasField("age_s") else "never built",
        )
    if rows:
        screen.print(table)
    else:
        screen.print(
            "No namespace has a Bloom filter. namespaces.<name>.bloom = true turns it on; see the docs: bloom-filter."
        )
    for name in (name for name, answer in answers.items() if answer is None):
        screen.print(f"{name} does not answer.")


@app.command(epilog=examples("cachenode bloom rebuild -n users", "cachenode bloom rebuild -n users -o json"))
@reports
def rebuild(
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = "default",
    timeout: Timeout = _REBUILD_S,
    output: Output = Format.TABLE,
) -> None:
    """Rebuild a namespace's filter on all nodes, from the keys that its origin lists and those in L2.

    The filter in use goes on meanwhile. Ctrl-C ends only the display. With -o json each step is a line.
    """
    if asyncio.run(_rebuild(address, namespace, timeout, output)) == "failed":
        raise CliError("the filter was not rebuilt", hint="The one in use goes on. The node's log says more.")


async def _rebuild(address: str, namespace: str, timeout_s: float, output: Format) -> str:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from cachenode.cli.admin import ask_blooms, rebuild_bloom

    asked, _ = await ask_blooms(address, namespace, DEFAULT_TIMEOUT_S)
    stage = "failed"
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} keys"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(stderr=True), disable=output is Format.JSON) as bar:
        shown = bar.add_task("beginning", total=None)
        async for step in rebuild_bloom(asked, namespace, timeout_s):
            stage = step.stage
            if output is Format.JSON:
                line = {"namespace": namespace, "stage": stage, "keys": step.keys, "error": step.error or None}
                print_json(line)
                sys.stdout.flush()
            total = max(step.expected, step.keys) if step.expected or stage == "done" else None
            bar.update(shown, description=stage, completed=step.keys, total=total)
            if step.error:
                raise CliError(f"the filter was not rebuilt: {step.error}", hint="The one in use goes on.")
    return stage
