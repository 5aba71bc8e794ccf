"""``loglevel``: how severe a line must be for the nodes' logs, looked at and changed while they run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from cachenode.cli.errors import CliError, ExitCode, reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from cachenode.cli.options import Address, Format, Output, Timeout, parse_duration
from cachenode.cli.output import console, new_table, print_json, seconds

if TYPE_CHECKING:
    from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["loglevel"]

_LEVELS = ("debug", "info", "warning", "error", "reset")


@reports
def loglevel(
    level: Annotated[
        str, typer.Argument(metavar="[LEVEL]", help="debug, info, warning, error, or reset; without it they are shown.")
    ] = "",
    logger: Annotated[
        str, typer.Option("--logger", metavar="NAME", help="A module such as cachenode.node.drain, or a package.")
    ] = "cachenode",
    period: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="Fall back after this, such as 10m; else when they stop.")
    ] = "",
    node: Annotated[str, typer.Option("--node", metavar="ID", help="Only this node; else all.")] = "",
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Show what the nodes log, or change it while they run.

    What is said of a package holds for its modules, unless more is said of them. Exit code 3: no member has this id; 4:
    a node did not answer.
    """
    from cachenode.cli.admin import ask_members
    from cachenode_api.v1 import admin_pb2 as pb

    if level and level not in _LEVELS:
        raise CliError(f"LEVEL: must be one of {', '.join(_LEVELS)}", code=ExitCode.USAGE)
    if period and level in {"", "reset"}:
        raise CliError("--for: takes a level", code=ExitCode.USAGE)
    if level:
        wanted = "" if level == "reset" else level
        request = pb.SetLogLevelRequest(logger=logger, level=wanted, seconds=_period(period))
        answers = asyncio.run(ask_members(address, node, "SetLogLevel", request, timeout))
    else:
        answers = asyncio.run(ask_members(address, node, "GetLogLevels", pb.GetLogLevelsRequest(), timeout))
    if output is Format.JSON:
        print_json({"nodes": [_document(name, answer) for name, answer in answers.items()]})
    else:
        _print(answers)
    if None in answers.values():
        raise typer.Exit(ExitCode.UNREACHABLE)


def _period(text: str) -> float:
    try:
        return parse_duration(text) if text else 0.0
    except CliError:
        raise CliError("--for: must be a duration such as 30s, 10m or 1h", code=ExitCode.USAGE) from None


def _document(name: str, answer: pb.GetLogLevelsResponse | None) -> dict[str, object]:
    if answer is None:
        return {"id": name, "answers": False}
    loggers = [
        {
            "logger": each.logger,
            "level": each.level,
            "seconds": round(each.seconds, 3) if each.HasField("seconds") else None,
        }
        for each in answer.loggers
    ]
    return {"id": name, "answers": True, "level": answer.level, "loggers": loggers}


def _print(answers: Mapping[str, pb.GetLogLevelsResponse | None]) -> None:
    table = new_table()
    for heading in ("node", "logger", "level", "until"):
        table.add_column(heading, no_wrap=True)
    for name, answer in answers.items():
        if answer is None:
            table.add_row(name, "-", "-", "does not answer")
            continue
        table.add_row(name, "all others" if answer.loggers else "all", answer.level, "")
        for each in answer.loggers:
            until = f"for {seconds(each.seconds)} more" if each.HasField("seconds") else "it stops"
            table.add_row(name, each.logger, each.level, until)
    console().print(table, markup=False)
