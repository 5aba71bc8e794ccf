"""``warm``: load keys before anybody asks for them, see how far that is, and end it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachenode.cli.errors import CliError, ExitCode, reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from cachenode.cli.options import Address, Format, Namespace, Output, Timeout, examples
from cachenode.cli.output import console, count, new_table, print_json

if TYPE_CHECKING:
    from cachenode_api.v1 import admin_pb2 as pb
    from cachenode_client import WarmStep

__all__ = ["app"]

app = typer.Typer(
    invoke_without_command=True,
    epilog=examples(
        "cachenode warm --keys keys.txt -n users",
        "cachenode warm --loader -n users --rate 2000",
        "cachenode warm --top 1000 -n users -o json",
        "cachenode warm status",
        "cachenode warm cancel -n users",
    ),
)


@app.callback()
@reports
def warm(
    context: typer.Context,
    keys: Annotated[
        str | None,
        typer.Option("--keys", metavar="FILE", help="Keys, one on a line; - for standard input.", show_default=False),
    ] = None,
    loader: Annotated[bool, typer.Option("--loader", help="All keys that the namespace's loader lists.")] = False,
    top: Annotated[int, typer.Option("--top", metavar="N", min=0, help="So many of the keys that were read most.")] = 0,
    rate: Annotated[
        float, typer.Option("--rate", metavar="KEYS", min=0.001, max=1_000_000, help="At most so many a second.")
    ] = 500.0,
    address: Address = DEFAULT_ADDRESS,
    namespace: Namespace = "default",
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Load keys of a namespace that has an origin before anybody asks for them.

    Values that are there are left as they are. Readers go first, and lives end spread out. One job of a namespace runs
    at a time; if its node dies another goes on. Ctrl-C cancels. With -o json each step is a line.
    """
    if context.invoked_subcommand is not None:
        return
    if (keys is not None) + loader + bool(top) != 1:
        text = "say which keys: one of --keys FILE, --loader and --top N"
        raise CliError(text, hint="`cachenode warm --help` has examples.", code=ExitCode.USAGE)
    listed = None if keys is None else _read(keys)
    try:
        last = asyncio.run(_follow(address, namespace, timeout, output, listed, origin=loader, top=top, rate=rate))
    except KeyboardInterrupt:
        raise CliError("cancelled", code=ExitCode.INTERRUPTED) from None
    if last.state != "done":
        raise CliError(f"the job ended early: {last.error or last.state}")
    if output is Format.TABLE:
        console().print(_summary(namespace, last), markup=False)


def _read(path: str) -> list[bytes]:
    """Return the keys in a file."""
    try:
        text = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise CliError(f"--keys: cannot be read: {error.strerror}", code=ExitCode.USAGE) from None
    return [key for line in text.split(b"\n") if (key := line.rstrip(b"\r"))]


async def _follow(
    address: str,
    namespace: str,
    timeout_s: float,
    output: Format,
    keys: list[bytes] | None,
    *,
    origin: bool,
    top: int,
    rate: float,
) -> WarmStep:
    """Run a job and show how far it is; return its last step."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from cachenode.cli.connection import client as new_client

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} keys"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    step: WarmStep | None = None
    async with new_client(address, timeout_s=timeout_s) as client:
        with Progress(*columns, console=console(stderr=True), disable=output is Format.JSON) as bar:
            shown = bar.add_task("warming", total=None)
            job = client.warm(keys, origin=origin, top=top, rate_per_s=rate, namespace=namespace)
            async with job as steps:
                async for step in steps:
                    if output is Format.JSON:
                        print_json(asdict(step))
                        sys.stdout.flush()
                    bar.update(shown, description=_described(step), completed=step.done, total=step.total or None)
    assert step is not None, "a job has a last step"
    return step


def _described(step: WarmStep) -> str:
    where = f" on {step.node_id}" if step.node_id else ""
    return f"{'waiting for another node' if step.state == 'stopped' else 'warming'}{where}"


def _summary(namespace: str, step: WarmStep) -> str:
    parts = [f"{count(step.loaded)} loaded", f"{count(step.fresh)} were there"]
    parts += [f"{count(step.absent)} have no value"] if step.absent else []
    parts += [f"{count(step.failed)} failed"] if step.failed else []
    return f"Warmed namespace {namespace}: {count(step.done)} keys, {', '.join(parts)}."


@app.command(epilog=examples("cachenode warm status", "cachenode warm status -n users -o json"))
@reports
def status(
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", metavar="NAME", help="Only this one.", show_default=False)
    ] = "",
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Show the last job of each namespace on each node."""
    from cachenode.cli.admin import ask_warming

    asked, answers = asyncio.run(ask_warming(address, namespace, timeout))
    if output is Format.JSON:
        jobs = [_document(job) for answer in answers.values() if answer for job in answer.jobs]
        print_json({"epoch": asked.view.epoch, "jobs": jobs})
        return
    _print(answers)


def _document(job: pb.WarmProgress) -> dict[str, Any]:
    return {field.name: getattr(job, field.name) for field in job.DESCRIPTOR.fields}


def _print(answers: Mapping[str, pb.WarmStatusResponse | None]) -> None:
    screen, table = console(), new_table()
    for heading in ("namespace", "node", "job", "keys from", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("done", "of", "loaded", "there", "absent", "failed"):
        table.add_column(heading, justify="right", no_wrap=True)
    jobs = sorted(
        ((job.namespace, name, job) for name, answer in answers.items() if answer for job in answer.jobs),
        key=lambda row: row[:2],
    )
    for namespace, name, job in jobs:
        total = count(job.total) if job.total else "?"
        counts = (count(number) for number in (job.loaded, job.fresh, job.absent, job.failed))
        state = f"{job.state}: {job.error}" if job.error else job.state
        table.add_row(namespace, name, job.job_id, job.source, state, count(job.done), total, *counts)
    screen.print(table if jobs else "No node has run a job since it started.")
    for name in (name for name, answer in answers.items() if answer is None):
        screen.print(f"{name} does not answer.")


@app.command(epilog=examples("cachenode warm cancel -n users"))
@reports
def cancel(
    address: Address = DEFAULT_ADDRESS, namespace: Namespace = "default", timeout: Timeout = DEFAULT_TIMEOUT_S
) -> None:
    """End the job of a namespace, wherever it runs."""
    from cachenode.cli.admin import cancel_warming

    if not asyncio.run(cancel_warming(address, namespace, timeout)):
        raise CliError(f"no job of namespace {namespace} is running", code=ExitCode.NOT_FOUND)
    console().print(f"The job of namespace {namespace} ends.", markup=False)
