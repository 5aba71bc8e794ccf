"""Options that several commands share, and how their values are written."""

from __future__ import annotations

import math
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cachenode.cli.errors import CliError, ExitCode

__all__ = [
    "CLIENT_VARIABLES",
    "Address",
    "ConfigFile",
    "Format",
    "Namespace",
    "Output",
    "Timeout",
    "examples",
    "parse_duration",
]

CLIENT_VARIABLES = frozenset(
    {
        "CACHENODE_ADDRESS",
        "CACHENODE_GRPC_TUNING",
        "CACHENODE_TLS_CA",
        "CACHENODE_TOKEN_FILE",
        "CACHENODE_TLS_CERT",
        "CACHENODE_TLS_KEY",
        "CACHENODE_TLS_NAME",
    }
)
"""Environment variables of commands and of the transport, which are no settings of a node."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)?\Z")


class Format(StrEnum):
    """How a result is written."""

    TABLE = "table"
    JSON = "json"


Output = Annotated[Format, typer.Option("--output", "-o", help="Write for people (table) or for programs (json).")]
Address = Annotated[
    str,
    typer.Option(
        "--address",
        "-a",
        envvar="CACHENODE_ADDRESS",
        metavar="HOST:PORT",
        help="A node, several separated by commas, or dns:///name:port. The others are learned from it.",
    ),
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", metavar="NAME", help="Namespace of the key.")]
Timeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0.001, max=3_600, help="Longest wait for an answer.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="TOML file; without it the one that CACHENODE_CONFIG names."),
]


def examples(*lines: str) -> str:
    """Return the end of a command's help."""
    return "\n".join(["[bold]Examples[/bold]", *(f"  [cyan]$ {escape(line)}[/cyan]" for line in lines)])


def parse_duration(text: str) -> float:
    """Return the seconds that "30s", "5m", "2h", "1d", "500ms" or "45" stand for; infinity for "never".

    Raises:
        CliError: It is none of these.
    """
    if text == "never":
        return math.inf
    match = _DURATION.match(text.strip())
    seconds = float(match[1]) * _UNITS[match[2] or "s"] if match else 0.0
    if not seconds:
        text = "--ttl: must be a duration above zero such as 30s, 5m, 2h, 1d or 500ms, or never"
        raise CliError(text, code=ExitCode.USAGE)
    return seconds
