"""``regions``: how far behind other regions are, and whether anything is sent to them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachenode.cli.errors import reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from cachenode.cli.options import Address, Format, Output, Timeout, examples
from cachenode.cli.output import console, count, new_table, print_json, seconds

if TYPE_CHECKING:
    from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Other regions: how far behind they are, and whether anything is sent to them."
)

Region = Annotated[str, typer.Argument(metavar="REGION", help="Name of the other region.")]
_STATES = {"connected": "[green]connected[/]", "paused": "[yellow]paused[/]", "nobody": "[red]nobody sends[/]"}


@app.command(epilog=examples("cachenode regions status", "cachenode regions status -o json | jq '.remotes[].lag_s'"))
@reports
def status(
    address: Address = DEFAULT_ADDRESS, timeout: Timeout = DEFAULT_TIMEOUT_S, output: Output = Format.TABLE
) -> None:
    """Show each other region: who sends to it, what it has not heard yet and for how long, and what came from it.

    Lag is what has changed here and the other region has not acted on. Told are entries, each of one call's keys or
    selectors, since the sending node started. A gap means that not everything could be told, so that all that is shared
    became untrue there.
    """
    from cachenode.cli.admin import ask_stats

    _, answers = asyncio.run(ask_stats(address, timeout))
    document = summary({name: answer for name, answer in answers.items() if answer is not None})
    document["silent"] = sorted(name for name, answer in answers.items() if answer is None)
    if output is Format.JSON:
        print_json(document)
    else:
        _print(document)


def summary(answers: Mapping[str, pb.GetStatsResponse]) -> dict[str, Any]:
    """Return what the nodes of a cluster know together: of each region the sender knows most."""
    remotes: dict[str, dict[str, Any]] = {}
    for node, stats in sorted(answers.items()):
        for link in stats.regions:
            known = remotes.setdefault(link.name, _unsent(link.name))
            known["told"] += link.sent
            known["gaps_told"] += link.gaps
            if link.sending:
                known |= {"sender": node, "state": link.state, "why": link.why or None, "lag_entries": link.lag_entries}
                known |= {"lag_s": round(link.lag_s, 3), "outbox": link.outbox, "head": link.head, "acted": link.acted}
            elif not known["sender"] and link.state in {"no_store", "starting"}:
                known |= {"state": link.state, "why": link.why or None}
        for origin in stats.origin_regions:
            known = remotes.setdefault(origin.name, _unsent(origin.name))
            known["heard"] += origin.applied
            known["heard_again"] += origin.known
            known["gaps_heard"] += origin.gaps
            known["ignored"] += origin.ignored
    names = {stats.region for stats in answers.values() if stats.region}
    owed = sum(stats.regions_owed for stats in answers.values())
    return {"region": ", ".join(sorted(names)) or None, "owed": owed, "remotes": list(remotes.values())}


def _unsent(name: str) -> dict[str, Any]:
    zeros = dict.fromkeys(("lag_entries", "head", "acted", "told", "gaps_told", "heard", "heard_again"), 0)
    zeros |= {"gaps_heard": 0, "ignored": 0}
    return {"name": name, "sender": None, "state": "nobody", "why": None, "lag_s": 0.0, "outbox": None, **zeros}


def _print(document: Mapping[str, Any]) -> None:
    screen = console()
    if document["region"] is None:
        screen.print("This cluster belongs to no region. regions.name makes it one; see the docs: regions.")
        return
    table = new_table()
    for heading in ("region", "state", "sender"):
        table.add_column(heading, no_wrap=True)
    for heading in ("behind", "for", "cursor", "told", "gaps", "heard", "gaps", "ignored"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in document["remotes"]:
        known = each["sender"] is not None
        table.add_row(
            each["name"],
            _STATES.get(each["state"], f"[red]{each['state']}[/]"),
            each["sender"] or "-",
            count(each["lag_entries"]) if known else "?",
            seconds(each["lag_s"]) if known else "?",
            f"{each['acted']:,} of {each['head']:,}" if known else "?",
            *(count(each[name]) for name in ("told", "gaps_told", "heard", "gaps_heard", "ignored")),
        )
    screen.print(f"This is region {document['region']}.\n", markup=False)
    screen.print(table)
    for each in document["remotes"]:
        if each["why"]:
            screen.print(f"{each['name']}: {each['why']}", markup=False)
    if document["owed"]:
        text = "The outbox did not take {:,} entries; the nodes still have them: see l2 in `cachenode stats`."
        screen.print(text.format(document["owed"]), markup=False)
    for name in document["silent"]:
        screen.print(f"{name} does not answer.", markup=False)


@app.command(epilog=examples("cachenode regions pause west"))
@reports
def pause(region: Region, address: Address = DEFAULT_ADDRESS, timeout: Timeout = DEFAULT_TIMEOUT_S) -> None:
    """Have nothing sent to a region any more. What it is to be told waits, as far as the outbox goes.

    The other region serves on, with values that may be untrue. What it tells this one still comes.
    """
    asyncio.run(_set(address, region, timeout, paused=True))
    console().print(f"Nothing is sent to {region} any more. `cachenode regions resume {region}` goes on.", markup=False)


@app.command(epilog=examples("cachenode regions resume west"))
@reports
def resume(region: Region, address: Address = DEFAULT_ADDRESS, timeout: Timeout = DEFAULT_TIMEOUT_S) -> None:
    """Let things be sent to a region again, beginning with what waits."""
    asyncio.run(_set(address, region, timeout, paused=False))
    console().print(f"What waits is sent to {region} again. `cachenode regions status` shows how far.", markup=False)


async def _set(address: str, region: str, timeout_s: float, *, paused: bool) -> None:
    from cachenode.cli.admin import ask_one
    from cachenode_api.v1 import admin_pb2 as pb

    await ask_one(address, "SetRegion", pb.SetRegionRequest(name=region, paused=paused), timeout_s)
