"""``serve``: one node."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from cachenode.cli.errors import reports
from cachenode.cli.options import CLIENT_VARIABLES, ConfigFile

__all__ = ["serve"]

_NODE, _CLUSTER, _STORE, _LOG = "This node", "Cluster", "Memory and L2", "Logs"


@reports
def serve(
    config: ConfigFile = None,
    node_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            "--node-id",
            metavar="NAME",
            help="Unique in the cluster; else the machine's.",
            rich_help_panel=_NODE,
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="For clients and peers. Default: 127.0.0.1:7401.", rich_help_panel=_NODE
        ),
    ] = None,
    http_listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help='Metrics and probes; "" is off. Default: 127.0.0.1:7402.', rich_help_panel=_NODE
        ),
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where others reach this node, if elsewhere.", rich_help_panel=_NODE),
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option(
            "--insecure", help="Let other machines in without TLS: for networks you trust.", rich_help_panel=_NODE
        ),
    ] = None,
    reflection: Annotated[
        bool | None,
        typer.Option("--reflection", help="Let gRPC tools list the services.", rich_help_panel=_NODE),
    ] = None,
    cluster_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Nodes of other names stay apart.", rich_help_panel=_CLUSTER),
    ] = None,
    discovery: Annotated[
        str | None,
        typer.Option(
            metavar="none|static|dns|redis|kubernetes",
            help="How nodes find each other. Default: none.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    seeds: Annotated[
        list[str] | None,
        typer.Option(
            "--seeds",
            "--seed",
            metavar="HOST:PORT,…",
            help="The nodes, for discovery static; may be repeated.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    dns_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:PORT", help="Its addresses are the nodes, for discovery dns.", rich_help_panel=_CLUSTER
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="For entries, such as 2GiB. Default: 256MiB.", rich_help_panel=_STORE),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(metavar="s3fifo|sieve|lru", help="What goes first when memory is short.", rich_help_panel=_STORE),
    ] = None,
    l2_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Redis or Valkey: redis://host:port/0. A password is safer in CACHENODE_L2_URL.",
            rich_help_panel=_STORE,
        ),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="debug|info|warning|error", help="Least severe lines.", rich_help_panel=_LOG),
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(metavar="auto|json|text", help="auto: text on a terminal, else JSON.", rich_help_panel=_LOG),
    ] = None,
    ready_json: Annotated[
        bool,
        typer.Option("--ready-json", help="Print a line with id, address, http and pid once the node is in a view."),
    ] = False,
    parent: Annotated[
        int | None, typer.Option("--parent", hidden=True, help="End when this process, the parent, does.")
    ] = None,
) -> None:
    """Run a node.

    It runs until Ctrl-C or SIGTERM, which let it leave its cluster in good order; the second one ends it at once.
    Flags go before environment variables, and these before the file. `cachenode config fields` lists all settings.
    """
    if parent is not None:
        from cachenode.cli.parent import end_with_parent

        end_with_parent(parent)
    from cachenode.config import load_config

    flags = {
        "node.id": node_id,
        "node.listen": listen,
        "node.http_listen": http_listen,
        "node.advertise": advertise,
        "node.insecure": insecure,
        "node.reflection": reflection,
        "cluster.name": cluster_name,
        "cluster.discovery": discovery,
        "cluster.seeds": ",".join(seeds) if seeds else None,
        "cluster.dns_name": dns_name,
        "memory.max_bytes": memory,
        "memory.policy": policy,
        "l2.url": l2_url,
        "log.level": log_level,
        "log.format": log_format,
    }
    settings = load_config(flags=flags, environ=os.environ, file=config, ignore=CLIENT_VARIABLES)
    from cachenode.process import run

    raise typer.Exit(run(settings, ready_json=ready_json))
