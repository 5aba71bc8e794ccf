"""``events``: tell a cluster that something has happened, and see what its rules make of that."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachenode.cli.errors import CliError, ExitCode, reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, call
from cachenode.cli.options import CLIENT_VARIABLES, Address, ConfigFile, Format, Output, Timeout, examples
from cachenode.cli.output import console, count, new_table, print_json, shown

if TYPE_CHECKING:
    from cachenode_api.selectors import Selector

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Tell the cluster what has happened, and see what its rules make untrue then.",
    epilog=examples(
        """cachenode events publish user.deleted '{"userId": 7}'""",
        "cachenode events list",
        """cachenode events test user.deleted '{"userId": 7}' --config node.toml""",
        "cachenode docs events",
    ),
)

_PUBLISH_TIMEOUT_S = 5.0
"""As that of `invalidate`."""

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the event, as rules have it.", show_default=False)]
Fields = Annotated[str, typer.Argument(metavar="JSON", help="Its fields: a JSON object.")]


@app.command(
    epilog=examples(
        """cachenode events publish user.deleted '{"userId": 7}'""",
        """cachenode events publish price.changed '{"sku": "a-1"}' --id change-4711""",
    )
)
@reports
def publish(
    name: Name,
    fields: Fields = "{}",
    event_id: Annotated[
        str | None, typer.Option("--id", metavar="TEXT", help="Unique to this event: it is not done twice.")
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = _PUBLISH_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Tell the cluster of an event; what the rules say is untrue everywhere once the command has ended.

    The exit code is 3 if no rule names the event. After an error part may have been done: repeat the command.
    """
    told = _parsed(fields)
    done = call(
        lambda client: client.publish(name, told, event_id=event_id),
        address=address,
        namespace="default",
        timeout_s=timeout,
    )
    places = [_place(each.namespace, each.mode, each.keys, each.selectors) for each in done.invalidations]
    if output is Format.JSON:
        document = {"event": name, "known": done.known, "duplicate": done.duplicate, "found": done.found}
        print_json(document | {"invalidations": places})
    else:
        _print(places, "Invalidated" if not done.duplicate else "Done before, for an event of this id:", done.known)
    if not done.known:
        raise typer.Exit(ExitCode.NOT_FOUND)


@app.command("list", epilog=examples("cachenode events list", "cachenode events list -o json | jq '.rules[].name'"))
@reports
def show_rules(
    address: Address = DEFAULT_ADDRESS, timeout: Timeout = DEFAULT_TIMEOUT_S, output: Output = Format.TABLE
) -> None:
    """List the rules of the node that is asked, and say which nodes have others."""
    from cachenode.cli.admin import ask_events

    asked, answers = asyncio.run(ask_events(address, timeout))
    mine = answers[asked.node_id]
    if mine is None:
        raise CliError("the node does not answer any more", hint="Try again.", code=ExitCode.UNREACHABLE)
    rules = [_rule(each) for each in mine.rules]
    others = [node for node, answer in answers.items() if answer is not None and list(answer.rules) != list(mine.rules)]
    if output is Format.JSON:
        print_json({"rules": rules, "unknown": mine.unknown, "min_prefix": mine.min_prefix, "differing": others})
        return
    screen = console()
    if not rules:
        screen.print("There are no rules. `cachenode docs events` shows how they are written.")
    else:
        table = new_table()
        for heading in ("event", "namespace", "mode", "makes untrue"):
            table.add_column(heading)
        for rule in rules:
            texts = [*rule["invalidates"], *(f"tag {tag}" for tag in rule["tags"])]
            table.add_row(rule["name"], rule["namespace"], rule["mode"], ", ".join(texts))
        screen.print(table, markup=False)
    if others:
        screen.print(f"Other rules: {', '.join(others)}. Give all nodes the same.", markup=False)


@app.command(
    "test",
    epilog=examples(
        """cachenode events test user.deleted '{"userId": 7}' --config node.toml""",
        "cachenode events test user.deleted --config node.toml   # without its fields",
    ),
)
@reports
def try_out(name: Name, fields: Fields = "{}", config: ConfigFile = None, output: Output = Format.TABLE) -> None:
    """Show what an event would make untrue by a configuration. Nothing is sent, and no node is needed.

    The exit code is 3 if no rule names the event, and 2 if it would be refused.
    """
    from cachenode.config import load_config
    from cachenode.config.events import event_rules
    from cachenode.errors import EventRefused

    _parsed(fields)
    loaded = load_config(flags={}, environ=os.environ, file=config, ignore=CLIENT_VARIABLES)
    try:
        plan = event_rules(loaded.event, loaded.events).plan(name, fields.encode())
    except EventRefused as error:
        raise CliError(str(error), code=ExitCode.USAGE) from None
    places = [
        _place(each.namespace, "expire" if each.expire else "remove", each.keys, each.selectors) for each in plan or ()
    ]
    if output is Format.JSON:
        print_json({"event": name, "known": plan is not None, "invalidations": places})
    else:
        _print(places, "Would invalidate", known=plan is not None)
    if plan is None:
        raise typer.Exit(ExitCode.NOT_FOUND)


def _parsed(fields: str) -> dict[str, Any]:
    try:
        found = json.loads(fields)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        hint = """For example: '{"userId": 7}'"""
        raise CliError("JSON: must be a JSON object", hint=hint, code=ExitCode.USAGE)
    return found


def _rule(rule: Any) -> dict[str, Any]:  # noqa: ANN401 - a message
    mode = "expire" if rule.mode else "remove"
    return {
        "name": rule.name,
        "namespace": rule.namespace,
        "mode": mode,
        "invalidates": list(rule.invalidates),
        "tags": list(rule.tags),
    }


def _place(namespace: str, mode: str, keys: Iterable[bytes], selectors: Iterable[Selector]) -> dict[str, Any]:
    return {
        "namespace": namespace,
        "mode": mode,
        "keys": [shown(key) for key in keys],
        "selectors": [{"kind": each.kind.name.lower(), "text": shown(each.text)} for each in selectors],
    }


def _print(places: Sequence[dict[str, Any]], did: str, known: bool) -> None:
    screen = console()
    if not known:
        screen.print("No rule names this event: nothing is invalidated. `cachenode events list` shows those there are.")
        return
    table = new_table()
    for heading in ("namespace", "mode", "what", "text"):
        table.add_column(heading)
    total = 0
    for place in places:
        rows = [("key", key) for key in place["keys"]] + [(each["kind"], each["text"]) for each in place["selectors"]]
        total += len(rows)
        for kind, text in rows:
            table.add_row(place["namespace"], place["mode"], kind, text)
    screen.print(f"{did} {count(total)} {'thing' if total == 1 else 'things'}:", markup=False)
    screen.print(table, markup=False)
