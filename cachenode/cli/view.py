"""``view``: the members, their parts of the ring, and who hears whom."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cachenode.cli.errors import reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from cachenode.cli.options import Address, Format, Output, Timeout
from cachenode.cli.output import bar, console, new_table, print_json

if TYPE_CHECKING:
    from cachenode.cli.admin import Asked
    from cachenode_api.v1 import admin_pb2 as pb
    from cachenode_api.view import View

__all__ = ["view"]

_BAR = 12


@reports
def view(
    address: Address = DEFAULT_ADDRESS, timeout: Timeout = DEFAULT_TIMEOUT_S, output: Output = Format.TABLE
) -> None:
    """Show the members of the cluster, their parts of the ring, and the state of the links between them."""
    from cachenode.cli.admin import ask_views

    asked, answers = asyncio.run(ask_views(address, timeout))
    shares = _shares(asked.view)
    if output is Format.JSON:
        print_json(_document(asked, answers, shares))
    else:
        _print(asked, answers, shares)


def _shares(view: View) -> dict[str, float]:
    from cachenode_api.ring import Ring

    return Ring(view).shares()


def _document(
    asked: Asked, answers: Mapping[str, pb.GetViewResponse | None], shares: Mapping[str, float]
) -> dict[str, Any]:
    members = []
    for member in asked.view.members:
        answer = answers[member.id]
        peers = answer.peers if answer is not None else ()
        members.append(
            {
                "id": member.id,
                "address": member.address,
                "http": member.http_address,
                "incarnation": member.incarnation,
                "weight": member.weight,
                "ring_share": round(shares[member.id], 6),
                "answers": answer is not None,
                "epoch": answer.header.view_epoch if answer is not None else None,
                "links": [
                    {"node_id": peer.node_id, "linked": peer.linked, "silent_s": round(peer.silent_s, 3)}
                    for peer in peers
                ],
            }
        )
    return {
        "epoch": asked.view.epoch,
        "seen_by": asked.node_id,
        "ring": {"hash": asked.view.ring_hash, "vnodes": asked.view.vnodes},
        "members": members,
    }


def _print(asked: Asked, answers: Mapping[str, pb.GetViewResponse | None], shares: Mapping[str, float]) -> None:
    screen = console()
    members = asked.view.members
    noun = "member" if len(members) == 1 else "members"
    screen.print(f"View [bold]{asked.view.epoch}[/]: {len(members)} {noun}, seen by {asked.node_id}")
    table = new_table()
    for heading in ("node", "address", "http", "ring", "", "view", "links"):
        table.add_column(heading, justify="right" if heading in {"", "view"} else "left", no_wrap=heading != "links")
    largest, ascii_only = max(shares.values()), screen.options.ascii_only
    for member in members:
        answer = answers[member.id]
        table.add_row(
            member.id,
            member.address,
            member.http_address or "-",
            bar(shares[member.id], largest, _BAR, ascii_only=ascii_only),
            f"{shares[member.id]:.1%}",
            str(answer.header.view_epoch) if answer is not None else "-",
            _links(answer),
        )
    screen.print(table)
    epochs = {answer.header.view_epoch for answer in answers.values() if answer is not None}
    if len(epochs) > 1:
        screen.print("[yellow]The nodes hold different views: one is on its way. Look again in a few seconds.[/]")
    if None in answers.values():
        text = "What does not answer is taken out of the view when its lease has run out, if it is gone."
        screen.print(f"[yellow]{text}[/]")


def _links(answer: pb.GetViewResponse | None) -> str:
    if answer is None:
        return "[red]does not answer[/]"
    down = [
        f"{peer.node_id} " + (f"silent for {peer.silent_s:.1f} s" if peer.silent_s >= 0 else "never heard")
        for peer in answer.peers
        if not peer.linked
    ]
    if down:
        return f"[red]{', '.join(down)}[/]"
    return f"[green]{len(answer.peers)} of {len(answer.peers)} up[/]" if answer.peers else "alone"
