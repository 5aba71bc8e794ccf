"""``ring``: how the keys are spread over the members, and who has one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from cachenode.cli.errors import reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from cachenode.cli.options import Address, Format, Output, Timeout
from cachenode.cli.output import bar, console, count, new_table, print_json, shown

if TYPE_CHECKING:
    from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["ring"]

_BAR = 24
_LINE = 60
_UNEVEN = 1.25


@reports
def ring(
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="Where this key belongs.", show_default=False)
    ] = None,
    sample: Annotated[
        int, typer.Option("--sample", metavar="KEYS", min=1, max=100_000, help="How many made-up keys are looked up.")
    ] = 10_000,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Show each member's part of the ring: by its weight, of all hashes, of made-up keys, and of the entries in memory.

    With a key, who owns it and who follows: the first that follows takes it over if the owner goes.
    """
    from cachenode.cli.admin import ask_one, ask_stats
    from cachenode_api.v1 import admin_pb2 as pb

    request = pb.RingRequest(key=key.encode() if key is not None else None, sample=sample)

    async def ask() -> tuple[pb.RingResponse, Mapping[str, int | None]]:
        answer = await ask_one(address, "Ring", request, timeout)
        if key is not None:
            return answer, {}
        return answer, _entries((await ask_stats(address, timeout))[1])

    answer, entries = asyncio.run(ask())
    if output is Format.JSON:
        print_json(_document(key, answer, entries))
    elif key is not None:
        _print_key(key, answer)
    else:
        _print(answer, entries)


def _entries(answers: Mapping[str, pb.GetStatsResponse | None]) -> dict[str, int | None]:
    return {
        name: None if answer is None else sum(space.entries for space in answer.namespaces)
        for name, answer in answers.items()
    }


def _document(key: str | None, answer: pb.RingResponse, entries: Mapping[str, int | None]) -> dict[str, object]:
    members = [
        {
            "id": each.node_id,
            "ideal": round(each.ideal, 6),
            "space": round(each.space, 6),
            "sample": round(each.sample, 6),
            "points": each.points,
        }
        | ({"entries": entries.get(each.node_id)} if key is None else {})
        for each in answer.members
    ]
    found: dict[str, object] = {"epoch": answer.header.view_epoch, "seen_by": answer.header.node_id}
    if key is not None:
        found |= {"key": key, "position": answer.position, "owners": list(answer.owners)}
    return found | {"sample": answer.sample, "members": members}


def _print_key(key: str, answer: pb.RingResponse) -> None:
    screen = console()
    part = answer.position / 2**64
    at = int(part * _LINE)
    owner, *others = answer.owners
    screen.print(f"{shown(key.encode())} is {part:.1%} round the ring", markup=False, soft_wrap=True)
    line = ("-", "o") if screen.options.ascii_only else ("─", "●")
    screen.print(f"0 {line[0] * at}{line[1]}{line[0] * (_LINE - at - 1)} 1", markup=False)
    screen.print(f"owner  {owner}", markup=False)
    screen.print(f"then   {', '.join(others) or 'nobody: it is the only member'}", markup=False, soft_wrap=True)


def _print(answer: pb.RingResponse, entries: Mapping[str, int | None]) -> None:
    screen = console()
    screen.print(f"Ring of view [bold]{answer.header.view_epoch}[/], seen by {answer.header.node_id}")
    table = new_table()
    for heading in ("node", "part of the ring", "space", "by weight", f"of {count(answer.sample)} keys", "entries"):
        left = heading in {"node", "part of the ring"}
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    largest = max((each.space for each in answer.members), default=0.0)
    for each in answer.members:
        held = entries.get(each.node_id)
        table.add_row(
            each.node_id,
            bar(each.space, largest, _BAR, ascii_only=screen.options.ascii_only),
            f"{each.space:.1%}",
            f"{each.ideal:.1%}",
            f"{each.sample:.1%}",
            "-" if held is None else count(held),
        )
    screen.print(table)
    worst = max(answer.members, key=lambda each: each.space / each.ideal)
    if worst.space > _UNEVEN * worst.ideal:
        times = worst.space / worst.ideal
        screen.print(f"[yellow]{worst.node_id} has {times:.2f} times what its weight promises.[/]")
