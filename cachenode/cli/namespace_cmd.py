"""``namespace``: what the settings of namespaces are, and changing them while the cluster runs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachenode.cli.errors import CliError, ExitCode, reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from cachenode.cli.options import Address, Format, Output, Timeout, examples
from cachenode.cli.output import console, new_table, print_json

if TYPE_CHECKING:
    from cachenode.cli.namespace_admin import Changed
    from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Show the settings of namespaces, and change them while the cluster runs.",
    epilog=examples(
        "cachenode namespace list",
        "cachenode namespace set users ttl_s=10m stale_s=30s",
        "cachenode docs live-policies",
    ),
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The namespace.", show_default=False)]


@app.command("list", epilog=examples("cachenode namespace list", "cachenode namespace list -o json"))
@reports
def show_all(
    address: Address = DEFAULT_ADDRESS, timeout: Timeout = DEFAULT_TIMEOUT_S, output: Output = Format.TABLE
) -> None:
    """List the namespaces that are configured, used or changed, with the settings that are not the defaults."""
    from cachenode.cli.namespace_admin import ask_namespaces

    asked, answers = asyncio.run(ask_namespaces(address, timeout))
    found: dict[str, dict[str, pb.NamespaceSettings]] = {}
    for node, answer in answers.items():
        for each in answer.namespaces if answer is not None else ():
            found.setdefault(each.name, {})[node] = each
    newest = {name: _newest(nodes) for name, nodes in sorted(found.items())}
    if output is Format.JSON:
        spaces = [_document(settings, found[name]) for name, settings in newest.items()]
        print_json({"epoch": asked.view.epoch, "namespaces": spaces})
        return
    table = new_table()
    for heading in ("namespace", "configured", "changes", "settings that are not the defaults"):
        table.add_column(heading, justify="right" if heading == "changes" else "left")
    for name, settings in newest.items():
        other = [f"{each.name}={each.value}" for each in settings.settings if each.source != "default"]
        configured = "yes" if settings.configured else "no: as default"
        table.add_row(name, configured, str(settings.live.version or "-"), ", ".join(other) or "-")
    screen = console()
    screen.print(table, markup=False)
    _say_who_differs(found, answers)


@app.command("get", epilog=examples("cachenode namespace get users", "cachenode namespace get users -o json"))
@reports
def show(
    name: Name, address: Address = DEFAULT_ADDRESS, timeout: Timeout = DEFAULT_TIMEOUT_S, output: Output = Format.TABLE
) -> None:
    """Show every setting of a namespace, and where its value comes from: default, file (or environment), or live."""
    from cachenode.cli.namespace_admin import ask_namespace

    asked, answers = asyncio.run(ask_namespace(address, name, timeout))
    nodes = {node: answer.settings for node, answer in answers.items() if answer is not None}
    if not nodes:
        raise CliError("no node answers any more", hint="Try again in a moment.", code=ExitCode.UNREACHABLE)
    settings = _newest(nodes)
    if output is Format.JSON:
        print_json({"epoch": asked.view.epoch, **_document(settings, nodes)})
        return
    _print(settings)
    _say_who_differs({name: nodes}, answers)


@app.command(
    "set",
    epilog=examples(
        "cachenode namespace set users ttl_s=10m stale_s=30s",
        "cachenode namespace set users --reset stale_s",
        "cachenode namespace set users --reset-all",
    ),
)
@reports
def change(
    name: Name,
    fields: Annotated[
        list[str] | None,
        typer.Argument(metavar="SETTING=VALUE", help="As in the file; seconds also as 30s, 10m, 2h or 1d."),
    ] = None,
    reset: Annotated[
        list[str] | None, typer.Option("--reset", metavar="SETTING", help="Let its configured value apply again.")
    ] = None,
    reset_all: Annotated[bool, typer.Option("--reset-all", help="Let all configured values apply again.")] = False,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Change settings of a namespace at every node, for what is stored from then on.

    All nodes check the change before one makes it. It is kept in the Redis that the nodes share, so that a node that is
    away or starts later follows it too; without one such a node has what its configuration says.
    """
    from cachenode.cli.namespace_admin import change_namespace

    texts = dict(map(_field, fields or ()))
    if not texts and not reset and not reset_all:
        text = "name a setting and its value, or what to reset"
        raise CliError(text, hint="For example: cachenode namespace set users ttl_s=10m", code=ExitCode.USAGE)
    changed = asyncio.run(change_namespace(address, name, texts, None if reset_all else reset or [], timeout))
    if output is Format.JSON:
        document = _document(changed.settings, {})
        document["nodes"] = {node: _STATES[follows] for node, follows in changed.nodes.items()}
        print_json({**document, "kept": changed.kept})
    else:
        _print_change(changed, {*texts, *(reset or ())}, everything=reset_all)
    if False in changed.nodes.values() or (None in changed.nodes.values() and not changed.kept):
        raise typer.Exit(ExitCode.FAILURE)


_STATES = {True: "follows", False: "differs", None: "does not answer"}


def _field(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise CliError(f"{text}: must be SETTING=VALUE, such as ttl_s=10m", code=ExitCode.USAGE)
    return name.strip(), value


def _newest(nodes: Mapping[str, pb.NamespaceSettings]) -> pb.NamespaceSettings:
    return max(nodes.values(), key=lambda settings: settings.live.version)


def _document(settings: pb.NamespaceSettings, nodes: Mapping[str, pb.NamespaceSettings]) -> dict[str, Any]:
    return {
        "name": settings.name,
        "configured": settings.configured,
        "version": settings.live.version,
        "settings": {
            each.name: {"value": each.value or None, "source": each.source, "live": not each.fixed}
            for each in settings.settings
        },
        "nodes": {node: each.live.version for node, each in nodes.items()},
    }


def _print(settings: pb.NamespaceSettings, only: Sequence[str] = ()) -> None:
    table = new_table()
    for heading in ("setting", "value", "source", "can be changed live"):
        table.add_column(heading, no_wrap=heading != "can be changed live")
    for each in settings.settings:
        if not only or each.name in only:
            table.add_row(each.name, each.value or "-", each.source, f"no: {each.fixed}" if each.fixed else "yes")
    screen = console()
    screen.print(table, markup=False)


def _print_change(changed: Changed, names: set[str], *, everything: bool) -> None:
    _print(changed.settings, () if everything else sorted(names))
    following = sum(follows is True for follows in changed.nodes.values())
    lines = [f"Version {changed.settings.live.version}, followed by {following} of {len(changed.nodes)} nodes."]
    for node, follows in changed.nodes.items():
        if follows is None:
            then = (
                "it follows when it is back"
                if changed.kept
                else "it keeps its settings; run this again when it is back"
            )
            lines.append(f"{node} does not answer: {then}.")
        elif not follows:
            lines.append(f"{node} has other settings: somebody else changes them. Look at them, and try again.")
    if not changed.kept:
        lines.append(
            "It is not kept: there is no Redis, or it does not answer. A node that starts has its configuration."
        )
    for line in lines:
        console().print(line, markup=False, soft_wrap=True)


def _say_who_differs(
    found: Mapping[str, Mapping[str, pb.NamespaceSettings]], answers: Mapping[str, object | None]
) -> None:
    screen = console()
    for name, nodes in found.items():
        newest = _newest(nodes).live
        behind = [node for node, settings in nodes.items() if settings.live != newest]
        if behind:
            verb = "does" if len(behind) == 1 else "do"
            text = f"{name}: {', '.join(behind)} {verb} not follow version {newest.version}."
            screen.print(text, markup=False, soft_wrap=True)
    for node, answer in answers.items():
        if answer is None:
            screen.print(f"{node} does not answer.", markup=False, soft_wrap=True)
