"""The tree of commands. What a command needs is imported when it runs, so that help and completion stay quick."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from cachenode.cli import bloom, config_cmd, events_cmd, namespace_cmd, regions_cmd, warm, write_behind_cmd
from cachenode.cli.advise import advise
from cachenode.cli.certs import certs
from cachenode.cli.cluster import cluster
from cachenode.cli.connection import TlsCa, TlsCert, TlsKey, TlsName, TokenFile, set_tls, set_token
from cachenode.cli.console_cmd import web_console
from cachenode.cli.demo import demo
from cachenode.cli.dependents import dependents
from cachenode.cli.docs import docs
from cachenode.cli.doctor import doctor
from cachenode.cli.drain import drain
from cachenode.cli.errors import set_debug
from cachenode.cli.explain import explain
from cachenode.cli.hot_and_big import bigkeys, hotkeys
from cachenode.cli.invalidate import invalidate
from cachenode.cli.keys import delete, get, put
from cachenode.cli.loglevel import loglevel
from cachenode.cli.options import examples
from cachenode.cli.ring import ring
from cachenode.cli.serve import serve
from cachenode.cli.snapshot import snapshot
from cachenode.cli.stats import stats
from cachenode.cli.token import token
from cachenode.cli.top import top
from cachenode.cli.view import view
from cachenode.cli.watch import watch

__all__ = ["app"]

_RUN, _USE, _LOOK = "Run", "Use", "Look"

_EXIT_CODES = """[bold]Exit codes[/bold]
  0  done
  1  failed
  2  wrong usage, or a configuration that is not valid
  3  there is no such key (get)
  4  the cluster does not answer"""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="A cache cluster that services share: nodes, and commands to use and watch them.",
    epilog=examples("cachenode cluster", "cachenode set user:7 Ada --ttl 5m", "cachenode get user:7", "cachenode stats")
    + "\n\n"
    + _EXIT_CODES,
)


def _print_version(asked: bool) -> None:
    if asked:
        from cachenode import __version__

        typer.echo(f"cachenode {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_name: TlsName = "",
    token_file: TokenFile = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options that go before a command."""
    del version
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # its own lines on failed handshakes go to standard error
    set_debug(on=debug)
    set_tls(tls_ca, tls_cert, tls_key, tls_name)
    set_token(token_file)


app.command(
    "serve",
    rich_help_panel=_RUN,
    epilog=examples(
        "cachenode serve",
        "cachenode serve --memory 2GiB --l2-url redis://localhost:6379/0 --discovery redis",
        "cachenode serve --config node.toml --listen 0.0.0.0:7401 --insecure",
    ),
)(serve)
app.command(
    "cluster",
    rich_help_panel=_RUN,
    epilog=examples(
        "cachenode cluster --nodes 3 --dir build/cluster",
        "cachenode cluster --port 7401",
        "cachenode cluster --dir east --port 7501 --region east --peer west=127.0.0.1:7601 --config shared.toml",
    ),
)(cluster)
app.command(
    "demo", rich_help_panel=_RUN, epilog=examples("cachenode demo", "cachenode demo --no-kill --json > report.json")
)(demo)
app.command(
    "certs",
    rich_help_panel=_RUN,
    epilog=examples("cachenode certs", "cachenode certs --dir certs --host cache-0.example --host 10.0.0.7 --days 30"),
)(certs)
app.command(
    "token",
    rich_help_panel=_RUN,
    epilog=examples("cachenode token shop --role write -n users", "cachenode token nodes --role peer -o json"),
)(token)
app.command(
    "get",
    rich_help_panel=_USE,
    epilog=examples("cachenode get user:7", "cachenode get user:7 --meta", "cachenode get logo -n images > logo.png"),
)(get)
app.command(
    "set",
    rich_help_panel=_USE,
    epilog=examples(
        "cachenode set user:7 Ada --ttl 5m",
        "cachenode set cart:7 tea --tag user:7 --tag eu",
        """cachenode set user:7 '{"name": "Ada"}' --json""",
        "cachenode set logo -n images --file logo.png --ttl never",
        "date | cachenode set started --file -",
    ),
)(put)
app.command("delete", rich_help_panel=_USE, epilog=examples("cachenode delete user:7"))(delete)
app.command(
    "invalidate",
    rich_help_panel=_USE,
    epilog=examples(
        "cachenode invalidate user:7 user:8",
        "cachenode invalidate --prefix user:7:",
        "cachenode invalidate --pattern 'user:*:cart' --tag eu -n carts",
        "cachenode invalidate --tag prices -n shop --expire",
        "cachenode invalidate --all -n sessions --yes",
    ),
)(invalidate)
app.command(
    "watch",
    rich_help_panel=_LOOK,
    epilog=examples("cachenode watch", "cachenode watch -n carts -o json | jq -r '.keys[]'"),
)(watch)
app.command(
    "dependents",
    rich_help_panel=_LOOK,
    epilog=examples(
        "cachenode dependents user:7",
        "cachenode dependents user:7 -n users --depth 1 -o json",
        "cachenode dependents user:7 -o dot | dot -Tsvg > graph.svg",
    ),
)(dependents)
app.command(
    "explain",
    rich_help_panel=_LOOK,
    epilog=examples("cachenode explain user:7", "cachenode explain logo -n images -o json | jq '.nodes[].l1'"),
)(explain)
app.command(
    "view", rich_help_panel=_LOOK, epilog=examples("cachenode view", "cachenode view -a cache-0.cache:7401 -o json")
)(view)
app.command(
    "ring",
    rich_help_panel=_LOOK,
    epilog=examples("cachenode ring", "cachenode ring user:7", "cachenode ring user:7 -o json | jq -r .owners[0]"),
)(ring)
app.command(
    "snapshot",
    rich_help_panel=_LOOK,
    epilog=examples(
        "cachenode snapshot -n users --file users.jsonl",
        "cachenode snapshot -n users --keys-only --file keys.txt && cachenode warm -n users --keys keys.txt",
        "cachenode snapshot --node cache-2 --prefix user: | jq -r .key",
    ),
)(snapshot)
app.command(
    "loglevel",
    rich_help_panel=_RUN,
    epilog=examples(
        "cachenode loglevel",
        "cachenode loglevel debug --for 10m",
        "cachenode loglevel debug --logger cachenode.node.membership --node cache-2",
        "cachenode loglevel reset --logger cachenode.node.membership",
    ),
)(loglevel)
app.command(
    "console",
    rich_help_panel=_LOOK,
    epilog=examples(
        "cachenode console", "cachenode console --open", "cachenode console -o json | jq -r '.consoles[0].url'"
    ),
)(web_console)
app.command(
    "stats",
    rich_help_panel=_LOOK,
    epilog=examples("cachenode stats", "cachenode stats -o json | jq '.nodes[].used_bytes'"),
)(stats)
app.command(
    "advise",
    rich_help_panel=_LOOK,
    epilog=examples(
        "cachenode advise",
        "cachenode advise -n users --staleness 30s",
        "cachenode advise --load-cost 80ms -o json | jq '.namespaces[] | {name, cache, ttl_s, pattern}'",
    ),
)(advise)
app.command(
    "hotkeys",
    rich_help_panel=_LOOK,
    epilog=examples("cachenode hotkeys", "cachenode hotkeys -n users --limit 5 -o json | jq -r '.keys[].key'"),
)(hotkeys)
app.command(
    "bigkeys",
    rich_help_panel=_LOOK,
    epilog=examples("cachenode bigkeys", "cachenode bigkeys -n images --limit 5 -o json | jq '.keys[].size'"),
)(bigkeys)
app.command("top", rich_help_panel=_LOOK, epilog=examples("cachenode top", "cachenode top --every 5 -o json"))(top)
app.command(
    "doctor",
    rich_help_panel=_LOOK,
    epilog=examples("cachenode doctor", "cachenode doctor --during 30", "cachenode doctor -o json | jq .findings"),
)(doctor)
app.command(
    "drain",
    rich_help_panel=_RUN,
    epilog=examples(
        "cachenode drain -a localhost:7401",
        "cachenode drain --node cache-2 --flush 1m",
        "cachenode drain --node cache-2 --no-wait",
        "cachenode drain --node cache-2 -o json | jq -r .stage",
    ),
)(drain)
app.command(
    "docs",
    rich_help_panel=_LOOK,
    epilog=examples("cachenode docs", "cachenode docs read-through", "cachenode docs -o json"),
)(docs)
app.add_typer(events_cmd.app, name="events", rich_help_panel=_USE)
app.add_typer(warm.app, name="warm", rich_help_panel=_USE)
app.add_typer(bloom.app, name="bloom", rich_help_panel=_LOOK)
app.add_typer(write_behind_cmd.app, name="writebehind", rich_help_panel=_LOOK)
app.add_typer(regions_cmd.app, name="regions", rich_help_panel=_LOOK)
app.add_typer(namespace_cmd.app, name="namespace", rich_help_panel=_LOOK)
app.add_typer(config_cmd.app, name="config", rich_help_panel=_LOOK)
