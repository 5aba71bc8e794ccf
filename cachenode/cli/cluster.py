"""``cluster``: several nodes and a Valkey on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cachenode.cli.errors import CliError, ExitCode, reports

if TYPE_CHECKING:
    from cachenode.cli.local_cluster import LocalCluster

__all__ = ["cluster"]

_LOOK_S = 1.0


@reports
def cluster(
    nodes: Annotated[int, typer.Option("--nodes", min=1, max=64, help="How many nodes.")] = 3,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="For logs and cluster.json; made if it does not exist.")
    ] = Path("cachenode-cluster"),
    port: Annotated[
        int, typer.Option("--port", min=0, max=65_000, help="Of the first node, the next ones two apart; 0: free ones.")
    ] = 0,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Of each node, such as 64MiB.", show_default=False)] = "",
    l2_url: Annotated[
        str,
        typer.Option(
            envvar="CACHENODE_L2_URL",
            metavar="URL",
            help="A Redis or Valkey of your own; without it one is started.",
            show_default=False,
        ),
    ] = "",
    cluster_name: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Clusters of other names stay apart; without it one is made up.", show_default=False
        ),
    ] = "",
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="TOML file for every node.")
    ] = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="Let nodes and clients talk TLS, with certificates made in DIR/certs.")
    ] = False,
    region: Annotated[
        str, typer.Option("--region", metavar="NAME", help="Of the region that this cluster is.", show_default=False)
    ] = "",
    peer: Annotated[
        list[str] | None,
        typer.Option(
            "--peer",
            metavar="NAME=HOST:PORT,…",
            help="Another region, and its nodes; may be repeated.",
            show_default=False,
        ),
    ] = None,
    log_level: Annotated[
        str, typer.Option(metavar="debug|info|warning|error", help="Least severe lines in the nodes' logs.")
    ] = "info",
) -> None:
    """Run a cluster on this machine until Ctrl-C: nodes, and a Valkey behind them.

    When all nodes are ready, one line of JSON on standard output says where they are; DIR/cluster.json holds the
    same. Nothing is left running afterwards, and nothing is stored on disk but the logs.
    """
    from cachenode.cli.local_cluster import LocalCluster

    if peer and not region:
        raise CliError("--peer needs --region: other regions know this one by its name", code=ExitCode.USAGE)
    arguments = ["--log-level", log_level, *(["--config", str(config.absolute())] if config is not None else [])]
    local = LocalCluster(
        directory=directory,
        nodes=nodes,
        l2_url=l2_url or None,
        memory=memory,
        name=cluster_name,
        port=port,
        arguments=arguments,
        tls=tls,
        region=region,
        peers=";".join(peer or ()),
        on_exit=lambda node_id, code: _say(_obituary(node_id, code, directory)),
    )
    asyncio.run(_run(local))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the command line's own output


def _obituary(node_id: str, code: int, directory: Path) -> str:
    from cachenode.cli.child import ended

    return f"cachenode: {node_id} is gone: {ended(code)}; the others go on. Its log: {directory / node_id}.log"


async def _run(local: LocalCluster) -> None:
    """Start, announce, wait for a signal, stop. A second signal does not wait for the nodes to leave in good order."""
    asked = asyncio.Event()

    def on_signal() -> None:
        if asked.is_set():
            local.kill_all()
        asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    stopping = asyncio.create_task(asked.wait())
    starting = asyncio.create_task(local.start())
    try:
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            _announce(local)
            await _watch(local, stopping)
    finally:
        starting.cancel()
        await asyncio.wait([starting])
        stopping.cancel()
        await local.stop()


async def _watch(local: LocalCluster, stopping: asyncio.Task[bool]) -> None:
    """Wait for a signal; say when the Valkey or the last node is gone."""
    valkey_said = False
    while not stopping.done():
        await asyncio.wait([stopping], timeout=_LOOK_S)
        if local.l2_pid is not None and not valkey_said and _is_gone(local.l2_pid):
            valkey_said = True
            _say(f"cachenode: the Valkey is gone; see {local.directory / 'valkey.log'}. Stop and start the cluster.")
        if not local.any_running:
            raise CliError("no node is left", hint=f"Their logs are in {local.directory}.", code=ExitCode.FAILURE)


def _is_gone(pid: int) -> bool:
    """Return whether a child has ended, without taking its exit code from whoever waits for it."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _announce(local: LocalCluster) -> None:
    """Write the line for programs on standard output, and what a person can do now on standard error."""
    import json

    from cachenode.cli.output import console, new_table

    print(json.dumps(local.describe()), flush=True)  # noqa: T201 - the result
    screen = console(stderr=True)
    table, scheme = new_table(), "http" if local.certs is None else "https"
    for heading in ("node", "address", "http", "pid"):
        table.add_column(heading, no_wrap=True)
    for node in local.nodes:
        table.add_row(node.id, node.address, f"{scheme}://{node.http}", str(node.pid))
    screen.print(table)
    note = "" if local.certs is None else f" (to look only; signed by {local.certs / 'ca.pem'})"
    screen.print(f"In a browser: {scheme}://{local.nodes[0].http}/ui/{note}\n", markup=False, soft_wrap=True)
    screen.print("In another terminal:\n", markup=False)
    screen.print(f"  export CACHENODE_ADDRESS={local.nodes[0].address}", markup=False, soft_wrap=True)
    if (certs := local.certs) is not None:
        files = {"CA": "ca.pem", "CERT": "client.pem", "KEY": "client-key.pem"}
        variables = " ".join(f"CACHENODE_TLS_{name}={certs / file}" for name, file in files.items())
        screen.print(f"  export {variables}", markup=False, soft_wrap=True)
    for line in ("set greeting hello --ttl 5m", "get greeting --meta", "view"):
        screen.print(f"  cachenode {line}", markup=False)
    screen.print(f"\nLogs: {local.directory}. Ctrl-C stops everything.", markup=False, soft_wrap=True)
