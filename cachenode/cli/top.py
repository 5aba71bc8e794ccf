"""``top``: what the cluster does right now, again and again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachenode.cli.errors import reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from cachenode.cli.options import Address, Format, Output, Timeout
from cachenode.cli.output import bar, console, new_table, percent, print_json, size

if TYPE_CHECKING:
    from rich.console import Group

    from cachenode.findings.rates import Answers, Rates

__all__ = ["top"]

_BAR = 12


@reports
def top(
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.2, max=60, help="Time between two looks.")
    ] = 1.0,
    count: Annotated[
        int, typer.Option("--count", metavar="N", min=0, help="Looks to take; 0: until Ctrl-C.", show_default=False)
    ] = 0,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Show what the cluster does, by node and by namespace, until Ctrl-C.

    On a terminal the picture renews itself; elsewhere each look is printed below the last. With -o json each look is a
    document of one line.
    """
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_watch(address, every, count or None, timeout, output))


async def _watch(address: str, every_s: float, left: int | None, timeout_s: float, output: Format) -> None:
    from rich.live import Live

    from cachenode.cli.admin import ask_stats
    from cachenode.findings.rates import rates

    screen = console()
    with contextlib.ExitStack() as stack:
        live: Live | None = None
        if output is Format.TABLE and screen.is_terminal:
            live = stack.enter_context(Live(console=screen, auto_refresh=False))
        _, before = await ask_stats(address, timeout_s)
        at = time.monotonic()
        while left is None or left > 0:
            await asyncio.sleep(every_s)
            asked, after = await ask_stats(address, timeout_s)
            now = time.monotonic()
            nodes, spaces = rates(before, after, now - at)
            if output is Format.JSON:
                print_json(_document(asked.view.epoch, nodes, spaces, after))
            elif live is not None:
                live.update(_picture(asked.view.epoch, nodes, spaces, after), refresh=True)
            else:
                screen.print(_picture(asked.view.epoch, nodes, spaces, after))
            before, at = after, now
            left = None if left is None else left - 1


def _picture(epoch: int, nodes: Mapping[str, Rates], spaces: Mapping[str, Rates], after: Answers) -> Group:
    from rich.console import Group
    from rich.text import Text

    reads, hits = sum(each.reads for each in nodes.values()), sum(each.hits for each in nodes.values())
    writes = sum(each.writes for each in nodes.values())
    heading = Text.assemble(
        (f"{reads:,.0f}", "bold"), " reads/s  ", (percent(round(hits), round(reads)), "bold"), " hits  ",
        (f"{writes:,.0f}", "bold"), f" writes/s  {len(nodes)} of {len(after)} nodes  view {epoch}",
    )  # fmt: skip
    by_node = new_table()
    for column in ("node", "reads/s", "hits", "writes/s", "memory", "", "keys", "clients", "L2"):
        by_node.add_column(column, justify="left" if column in {"node", "", "L2"} else "right", no_wrap=True)
    for name, stats in sorted(after.items()):
        if stats is None or name not in nodes:
            by_node.add_row(name, "[red]no answer[/]" if stats is None else "[yellow]just started[/]")
            continue
        rate, share = nodes[name], stats.used_bytes / stats.max_bytes if stats.max_bytes else 0.0
        by_node.add_row(
            name,
            f"{rate.reads:,.0f}",
            percent(round(rate.hits), round(rate.reads)),
            f"{rate.writes:,.0f}",
            size(stats.used_bytes),
            bar(share, 1.0, _BAR),
            f"{rate.entries:,}",
            f"{stats.sessions:,}",
            stats.l2_state,
        )
    return Group(heading, by_node, _of_namespaces(spaces))


def _of_namespaces(spaces: Mapping[str, Rates]) -> Any:  # noqa: ANN401 - a table of rich, which is imported late
    table = new_table()
    for column in (
        "namespace",
        "reads/s",
        "hits",
        "writes/s",
        "loads/s",
        "untrue/s",
        "evicted/s",
        "expired/s",
        "keys",
        "size",
    ):
        table.add_column(column, justify="left" if column == "namespace" else "right", no_wrap=True)
    for name, rate in sorted(spaces.items(), key=lambda item: (-item[1].reads, item[0])):
        each = [rate.counted[counter] for counter in ("loads", "invalidations", "evictions", "expirations")]
        table.add_row(
            name,
            f"{rate.reads:,.0f}",
            percent(round(rate.hits), round(rate.reads)),
            f"{rate.writes:,.0f}",
            *(f"{value:,.0f}" for value in each),
            f"{rate.entries:,}",
            size(rate.used_bytes),
        )
    return table


def _document(epoch: int, nodes: Mapping[str, Rates], spaces: Mapping[str, Rates], after: Answers) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "silent": sorted(name for name, stats in after.items() if stats is None),
        "nodes": {name: _rounded(rate) for name, rate in sorted(nodes.items())},
        "namespaces": {name: _rounded(rate) for name, rate in sorted(spaces.items())},
    }


def _rounded(rate: Rates) -> dict[str, Any]:
    per_s = {f"{name}_per_s": round(value, 1) for name, value in rate.counted.items()}
    return {**per_s, "entries": rate.entries, "used_bytes": rate.used_bytes}
