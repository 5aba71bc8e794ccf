"""How the settings of a namespace are changed at all members, so that all have the same or none has changed.

A change is checked by all nodes before one makes it: the one that has the newest settings. The others are told what it
has answered. Nodes are reached as the caller says: the command line and the console each have their own connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["ChangeRefused", "Changed", "NotAnswered", "SetAt", "change_everywhere"]

SetAt = Callable[[str, pb.SetNamespaceRequest], Awaitable[pb.SetNamespaceResponse | None]]
"""Asks one node to set; returns its answer, None for none; raises what a refusal is to the caller."""


class ChangeRefused(Exception):
    """Nodes refuse a change, and nothing was changed.

    Attributes:
        problems: Every problem, once.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class NotAnswered(Exception):
    """The node that was to make the change does not answer any more; whether it has made it is not known."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change has led to.

    Attributes:
        settings: What the namespace's settings are now.
        nodes: By node, whether it follows them; None if it does not answer.
        kept: Nodes that start later follow them too.
    """

    settings: pb.NamespaceSettings
    nodes: Mapping[str, bool | None]
    kept: bool


async def change_everywhere(
    found: Mapping[str, pb.GetNamespaceResponse | None],
    request: pb.SetNamespaceRequest,
    set_at: SetAt,
    refusal: type[Exception],
) -> Changed:
    """Change settings at every member.

    Args:
        found: What each member has now, None where it does not answer; one of them does.
        request: The change.
        set_at: Asks one node.
        refusal: What `set_at` raises if a node refuses.

    Raises:
        ChangeRefused: Nothing was changed.
        NotAnswered: The node that was to begin is gone.
    """
    request.check_only = True
    await _checked(request, [node for node, answer in found.items() if answer is not None], set_at, refusal)
    request.check_only = False
    newest = max((node for node, answer in found.items() if answer is not None), key=lambda node: _rank(found[node]))
    made = await set_at(newest, request)
    if made is None:
        raise NotAnswered(newest)
    telling = pb.SetNamespaceRequest(namespace=request.namespace, live=made.settings.live)
    others = [node for node in found if node != newest]
    replies = await asyncio.gather(*(set_at(node, telling) for node in others))
    follows: dict[str, bool | None] = {newest: True}
    for node, reply in zip(others, replies, strict=True):
        follows[node] = None if reply is None else reply.settings.live == made.settings.live
    return Changed(made.settings, {node: follows[node] for node in found}, made.kept)


def _rank(answer: pb.GetNamespaceResponse | None) -> int:
    return answer.settings.live.version if answer is not None else -1


async def _checked(
    request: pb.SetNamespaceRequest, nodes: Sequence[str], set_at: SetAt, refusal: type[Exception]
) -> None:
    outcomes = await asyncio.gather(*(set_at(node, request) for node in nodes), return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    for error in errors:
        if not isinstance(error, refusal):
            raise error
    if errors:
        raise ChangeRefused(tuple(dict.fromkeys(problem for error in errors for problem in str(error).splitlines())))
