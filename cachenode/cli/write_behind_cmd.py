"""``writebehind``: what waits for its origin, and what was given up."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachenode.cli.errors import CliError, ExitCode, reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from cachenode.cli.options import Address, Format, Output, Timeout, examples
from cachenode.cli.output import console, count, new_table, print_json, seconds, shown, size, version

if TYPE_CHECKING:
    from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Writes that wait for their origin, and those that it has refused.",
    epilog=examples(
        "cachenode writebehind status", "cachenode writebehind dead -n orders", "cachenode docs write-behind"
    ),
)

Required = Annotated[str, typer.Option("--namespace", "-n", metavar="NAME", help="Whose.", show_default=False)]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[IDS]...", help="Ids as `dead` shows them.", show_default=False)
]
Everything = Annotated[bool, typer.Option("--all", help="All of the namespace.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
_SLOW_S = 60.0


@app.command(epilog=examples("cachenode writebehind status", "cachenode writebehind status -n orders -o json"))
@reports
def status(
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", metavar="NAME", help="Only this one.", show_default=False)
    ] = "",
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Show how many keys wait for their origin and since when, and what the nodes have written and given up.

    Exits with 1 if there are dead letters or no more keys may wait: look with `cachenode writebehind dead`.
    """
    from cachenode.cli.admin import ask_write_behind

    asked, answers = asyncio.run(ask_write_behind(address, namespace, timeout))
    if not any(answers.values()):
        hint = "The queue's server may be away: `cachenode stats` shows the state of L2."
        raise CliError("no node can tell what waits", hint=hint, code=ExitCode.UNREACHABLE)
    queues = _together(answers)
    if output is Format.JSON:
        silent = [name for name, answer in answers.items() if answer is None]
        print_json({"epoch": asked.view.epoch, "queues": list(queues.values()), "silent": silent})
    else:
        _print_status(queues, answers)
    if any(queue["dead_letters"] or queue["full"] for queue in queues.values()):
        raise typer.Exit(ExitCode.FAILURE)


def _together(answers: Mapping[str, pb.WriteBehindStatusResponse | None]) -> dict[str, dict[str, Any]]:
    """Return each namespace's queue, which all nodes share, with what they have done for it."""
    queues: dict[str, dict[str, Any]] = {}
    for answer in answers.values():
        for each in answer.queues if answer is not None else ():
            queue = queues.setdefault(
                each.namespace,
                {
                    "namespace": each.namespace,
                    "waiting": each.waiting,
                    "oldest_s": round(each.oldest_s, 3),
                    "dead_letters": each.dead_letters,
                    "max_backlog": each.max_backlog,
                    "full": each.waiting + each.dead_letters >= each.max_backlog,
                    "applied": 0,
                    "coalesced": 0,
                    "retries": 0,
                    "given_up": 0,
                },
            )
            for name in ("applied", "coalesced", "retries", "given_up"):
                queue[name] += getattr(each, name)
    return dict(sorted(queues.items()))


def _print_status(
    queues: Mapping[str, Mapping[str, Any]], answers: Mapping[str, pb.WriteBehindStatusResponse | None]
) -> None:
    screen, table = console(), new_table()
    table.add_column("namespace", no_wrap=True)
    for heading in ("waiting", "of at most", "oldest", "dead letters", "written", "coalesced", "tried again"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, queue in queues.items():
        table.add_row(
            name,
            f"[red]{count(queue['waiting'])}[/]" if queue["full"] else count(queue["waiting"]),
            count(queue["max_backlog"]),
            seconds(queue["oldest_s"]) if queue["waiting"] else "-",
            f"[red]{count(queue['dead_letters'])}[/]" if queue["dead_letters"] else "0",
            count(queue["applied"]),
            count(queue["coalesced"]),
            count(queue["retries"]),
        )
    if queues:
        screen.print(table)
    else:
        screen.print('No namespace writes behind. namespaces.<name>.write = "behind" makes one do so.', markup=False)
    for name in (name for name, answer in answers.items() if answer is None):
        screen.print(f"{name} does not answer.")


@app.command(
    epilog=examples(
        "cachenode writebehind dead -n orders",
        "cachenode writebehind dead -n orders -o json | jq -r '.letters[].id'",
    )
)
@reports
def dead(
    namespace: Required,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Show so many at most.")] = 100,
    after: Annotated[str, typer.Option("--after", metavar="ID", help="Begin after this one.", show_default=False)] = "",
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Show the writes that the origin has refused, and why; never their values."""
    from cachenode.cli.admin import ask_one
    from cachenode_api.v1 import admin_pb2 as pb

    request = pb.ListDeadLettersRequest(namespace=namespace, after=after, limit=limit)
    letters = asyncio.run(ask_one(address, "ListDeadLetters", request, timeout)).letters
    if output is Format.JSON:
        print_json({"namespace": namespace, "letters": [_document(letter) for letter in letters]})
        return
    screen = console()
    if not letters:
        screen.print(f"Namespace {namespace} has no dead letters.", markup=False)
        return
    table = new_table()
    for heading in ("id", "key", "what", "size", "attempts", "age", "why"):
        table.add_column(heading, justify="right" if heading in {"size", "attempts", "age"} else "left")
    for letter in letters:
        what = "delete" if letter.removal else "set"
        age = seconds(letter.age_s)
        key, why = shown(letter.key), letter.reason
        table.add_row(letter.id, key, what, size(letter.size), count(letter.attempts), age, why)
    screen.print(table, markup=False)
    if len(letters) == limit:
        screen.print(f"There may be more: --after {letters[-1].id}", markup=False)


def _document(letter: pb.DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "key": shown(letter.key),
        "operation": "delete" if letter.removal else "set",
        "version": version(letter.version),
        "size": letter.size,
        "attempts": letter.attempts,
        "age_s": round(letter.age_s, 3),
        "reason": letter.reason,
    }


@app.command(
    epilog=examples(
        "cachenode writebehind replay -n orders 1700000000000-0", "cachenode writebehind replay -n orders --all --yes"
    )
)
@reports
def replay(
    namespace: Required,
    ids: Ids = None,
    everything: Everything = False,
    yes: Yes = False,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = _SLOW_S,
    output: Output = Format.TABLE,
) -> None:
    """Queue dead letters again, once the origin can take them.

    One whose key has a newer write in the queue is dropped instead. A sink that keeps no versions may write an older
    value over a newer one that it has had since.
    """
    from cachenode.cli.admin import ask_one
    from cachenode_api.v1 import admin_pb2 as pb

    _sure(ids, everything, yes, f"Queue all dead letters of namespace {namespace} again?")
    request = pb.ReplayDeadLettersRequest(namespace=namespace, ids=ids or [])
    reply = asyncio.run(ask_one(address, "ReplayDeadLetters", request, timeout))
    if output is Format.JSON:
        print_json({"namespace": namespace, "queued": reply.queued, "outdated": reply.outdated})
    else:
        text = f"Queued {count(reply.queued)} again; dropped {count(reply.outdated)} that a newer write has overtaken."
        console().print(text, markup=False)
    _missing(ids, reply.queued + reply.outdated)


@app.command(
    epilog=examples(
        "cachenode writebehind drop -n orders 1700000000000-0", "cachenode writebehind drop -n orders --all --yes"
    )
)
@reports
def drop(
    namespace: Required,
    ids: Ids = None,
    everything: Everything = False,
    yes: Yes = False,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = _SLOW_S,
    output: Output = Format.TABLE,
) -> None:
    """Remove dead letters for ever: the origin never gets these writes."""
    from cachenode.cli.admin import ask_one
    from cachenode_api.v1 import admin_pb2 as pb

    _sure(ids, everything, yes, f"Remove all dead letters of namespace {namespace} for ever?")
    request = pb.DropDeadLettersRequest(namespace=namespace, ids=ids or [])
    reply = asyncio.run(ask_one(address, "DropDeadLetters", request, timeout))
    if output is Format.JSON:
        print_json({"namespace": namespace, "dropped": reply.dropped})
    else:
        console().print(f"Dropped {count(reply.dropped)}.", markup=False)
    _missing(ids, reply.dropped)


def _sure(ids: list[str] | None, everything: bool, yes: bool, question: str) -> None:
    if bool(ids) == everything:
        hint = "`cachenode writebehind dead -n NAME` shows the ids."
        raise CliError("name dead letters by their ids, or say --all", hint=hint, code=ExitCode.USAGE)
    if everything and not yes and sys.stdin.isatty():
        typer.confirm(question, abort=True)


def _missing(ids: list[str] | None, found: int) -> None:
    """Fail if some of the letters that were named are not there."""
    if ids and found < len(set(ids)):
        raise CliError(f"{count(len(set(ids)) - found)} of the dead letters are not there (any more)")
