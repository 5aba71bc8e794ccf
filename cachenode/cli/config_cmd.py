"""``config``: what a node's configuration would be, and whether it is valid, without starting anything."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cachenode.cli.errors import ExitCode, reports
from cachenode.cli.options import CLIENT_VARIABLES, ConfigFile, Format, Output, examples
from cachenode.cli.output import console, new_table, print_json

if TYPE_CHECKING:
    from cachenode.config import NodeConfig

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Check and show the configuration of a node, without starting one.",
    epilog=examples("cachenode config check --config node.toml", "cachenode config print > node.toml"),
)


def _load(file: Path | None) -> NodeConfig:
    from cachenode.config import load_config

    return load_config(flags={}, environ=os.environ, file=file, ignore=CLIENT_VARIABLES)


@app.command(epilog=examples("cachenode config check --config node.toml"))
@reports
def check(config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Say everything that is wrong with a configuration: file, environment and what they mean together.

    Loaders and sinks are imported and made with their options, as nodes do when they start; they are not called. The
    exit code is 2 if something is wrong.
    """
    from cachenode.adapters.clock import BootClock
    from cachenode.assembly import make_origins
    from cachenode.errors import ConfigError

    try:
        make_origins(_load(config), BootClock())
    except ConfigError as error:
        if output is Format.TABLE:
            raise
        print_json({"valid": False, "problems": list(error.problems)})
        raise typer.Exit(ExitCode.USAGE) from None
    if output is Format.JSON:
        print_json({"valid": True, "problems": []})
    else:
        console().print("The configuration is valid.")


@app.command("print", epilog=examples("cachenode config print", "CACHENODE_MEMORY=2GiB cachenode config print -o json"))
@reports
def show(config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Show the settings that a node would run with, defaults included, as TOML. Passwords are starred out."""
    from cachenode.config import describe

    text = describe(_load(config))
    if output is Format.JSON:
        print_json(tomllib.loads(text))
    else:
        print(text, end="")  # noqa: T201 - the result


@app.command(epilog=examples("cachenode config fields"))
@reports
def fields(output: Output = Format.TABLE) -> None:
    """List every setting: its name in the file, its default, its environment variable, and what it is for."""
    from cachenode.config import fields_help

    if output is Format.JSON:
        rows = [
            {"setting": item.path, "default": item.default, "variables": list(item.variables), "help": item.text}
            for item in fields_help()
        ]
        print_json({"fields": rows})
        return
    table = new_table()
    table.add_column("setting", no_wrap=True, style="bold")
    for heading in ("default", "what it is for"):
        table.add_column(heading)
    for item in fields_help():
        table.add_row(item.path, item.default or "-", item.text)
    screen = console()
    screen.print(table, markup=False)
    screen.print("In the environment: node.listen is CACHENODE_NODE__LISTEN, and so on.", markup=False)
