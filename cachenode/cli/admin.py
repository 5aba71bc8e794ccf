"""Asks nodes about themselves, all of them side by side; one that does not answer is a result, not a failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from grpc import aio

from cachenode.cli.connection import channel as channel_to
from cachenode.cli.connection import status_of
from cachenode.cli.errors import CliError, ExitCode, unreachable
from cachenode.rpc.status import FINAL
from cachenode.wire import view_from_wire
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import admin_pb2_grpc
from cachenode_api.view import View
from cachenode_client import Tls
from cachenode_client._address import parse_address

__all__ = [
    "Asked",
    "ask_advice",
    "ask_all",
    "ask_big_keys",
    "ask_blooms",
    "ask_dependents",
    "ask_events",
    "ask_explanations",
    "ask_hot_keys",
    "ask_members",
    "ask_one",
    "ask_stats",
    "ask_views",
    "ask_warming",
    "ask_write_behind",
    "cancel_warming",
    "drain_steps",
    "first_view",
    "rebuild_bloom",
    "snapshot",
    "targets_of",
]

"""How a node answers what no other node would answer otherwise."""

_DRAIN_S = 60.0
"""Longer than leaving takes by itself with the default grace; the node goes on anyway."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """A view and who showed it."""

    view: View
    node_id: str
    target: str


async def ask_views(
    address: str, timeout_s: float, tls: Tls | None = None, token: Path | None = None
) -> tuple[Asked, Mapping[str, pb.GetViewResponse | None]]:
    """Return the view of the first node that answers, and every member's own answer, None for those without.

    Raises:
        CliError: No node answers, or the one that does has no view.
    """
    asked, first = await first_view(address, timeout_s, tls, token)
    others = [member.id for member in asked.view.members if member.id != asked.node_id]
    replies = await asyncio.gather(
        *(_view_of(asked.view.by_id[name].address, timeout_s, tls, token) for name in others)
    )
    answers: dict[str, pb.GetViewResponse | None] = dict(zip(others, replies, strict=True))
    answers[asked.node_id] = first
    return asked, answers


async def ask_stats(address: str, timeout_s: float) -> tuple[Asked, Mapping[str, pb.GetStatsResponse | None]]:
    """Return the view of the first node that answers, and every member's counters, None for those without an answer.

    Raises:
        CliError: No node answers, or the one that does has no view.
    """
    asked, _ = await first_view(address, timeout_s)
    targets = targets_of(asked)
    replies = await asyncio.gather(
        *(_answer_of(target, "GetStats", pb.GetStatsRequest(), timeout_s) for target in targets.values())
    )
    return asked, dict(zip(targets, replies, strict=True))


async def ask_explanations(
    address: str, namespace: str, key: bytes, timeout_s: float
) -> tuple[Asked, Mapping[str, pb.ExplainResponse | None]]:
    """Return the view of the first node that answers, and what every member knows about a key, None for no answer.

    Raises:
        CliError: No node answers, the one that does has no view, or the nodes cannot say anything about this key.
    """
    asked, _ = await first_view(address, timeout_s)
    request = pb.ExplainRequest(namespace=namespace, key=key)
    targets = targets_of(asked)
    replies = await asyncio.gather(*(_answer_of(target, "Explain", request, timeout_s) for target in targets.values()))
    return asked, dict(zip(targets, replies, strict=True))


async def ask_advice(
    address: str, namespace: str, timeout_s: float
) -> tuple[Asked, Mapping[str, pb.AdviseResponse | None]]:
    """Return what every member has counted over the last minutes, None for no answer.

    Raises:
        CliError: No node answers, the one that does has no view, or there is no such namespace.
    """
    asked, _ = await first_view(address, timeout_s)
    request, targets = pb.AdviseRequest(namespace=namespace), targets_of(asked)
    replies = await asyncio.gather(*(_answer_of(target, "Advise", request, timeout_s) for target in targets.values()))
    return asked, dict(zip(targets, replies, strict=True))


async def ask_dependents(
    asked: Asked, keys: Sequence[tuple[str, bytes]], timeout_s: float
) -> Mapping[str, pb.DependentsResponse | None]:
    """Return what depends on keys as each member knows it: the owner of each does. None for no answer.

    Raises:
        CliError: A node is of an older release.
    """
    request = pb.DependentsRequest(keys=[pb.KeyName(namespace=name, key=key) for name, key in keys])
    targets = targets_of(asked)
    replies = await asyncio.gather(
        *(_answer_of(target, "Dependents", request, timeout_s) for target in targets.values())
    )
    return dict(zip(targets, replies, strict=True))


async def ask_blooms(
    address: str, namespace: str, timeout_s: float
) -> tuple[Asked, Mapping[str, pb.BloomStatusResponse | None]]:
    """Return the view of the first node that answers, and every member's Bloom filters, None for no answer.

    Args:
        address: Of one node or several.
        namespace: Of the filters; empty for all.
        timeout_s: Longest wait for each answer.

    Raises:
        CliError: No node answers, the one that does has no view, or there is no such namespace.
    """
    asked, answers = await ask_all(address, "BloomStatus", pb.BloomStatusRequest(namespace=namespace), timeout_s)
    return asked, answers


async def ask_hot_keys(
    address: str, namespace: str, limit: int, timeout_s: float
) -> tuple[Asked, Mapping[str, pb.HotKeysResponse | None]]:
    """Return the view of the first node that answers, and every member's hottest keys, None for no answer.

    Raises:
        CliError: No node answers, the one that does has no view, or there is no such namespace.
    """
    asked, answers = await ask_all(address, "HotKeys", pb.HotKeysRequest(namespace=namespace, limit=limit), timeout_s)
    return asked, answers


async def ask_big_keys(
    address: str, namespace: str, limit: int, timeout_s: float
) -> tuple[Asked, Mapping[str, pb.BigKeysResponse | None]]:
    """Return the view of the first node that answers, and every member's largest values, None for no answer.

    Raises:
        CliError: As `ask_hot_keys`.
    """
    asked, answers = await ask_all(address, "BigKeys", pb.BigKeysRequest(namespace=namespace, limit=limit), timeout_s)
    return asked, answers


async def ask_all(
    address: str,
    method: str,
    request: Any,  # noqa: ANN401 - of any call
    timeout_s: float,
) -> tuple[Asked, Mapping[str, Any]]:
    """Return the view of the first node that answers, and every member's answer to a call, None for no answer.

    Raises:
        CliError: No node answers, the one that does has no view, or the nodes refuse.
    """
    asked, _ = await first_view(address, timeout_s)
    targets = targets_of(asked)
    replies = await asyncio.gather(*(_answer_of(target, method, request, timeout_s) for target in targets.values()))
    return asked, dict(zip(targets, replies, strict=True))


async def ask_members(
    address: str,
    node: str,
    method: str,
    request: Any,  # noqa: ANN401 - of any call
    timeout_s: float,
) -> Mapping[str, Any]:
    """Return the answer of one member to a call, or of all if none is named; None for no answer.

    Raises:
        CliError: As `ask_all`, or there is no such member.
    """
    asked, _ = await first_view(address, timeout_s)
    targets = targets_of(asked)
    if node and node not in targets:
        hint = "`cachenode view` shows the members."
        raise CliError(f"no member is called {node}", hint=hint, code=ExitCode.NOT_FOUND)
    chosen = {node: targets[node]} if node else targets
    replies = await asyncio.gather(*(_answer_of(target, method, request, timeout_s) for target in chosen.values()))
    return dict(zip(chosen, replies, strict=True))


async def ask_events(address: str, timeout_s: float) -> tuple[Asked, Mapping[str, pb.ListEventsResponse | None]]:
    """Return the view of the first node that answers, and every member's rules of events, None for no answer.

    Raises:
        CliError: No node answers, or the one that does has no view.
    """
    asked, _ = await first_view(address, timeout_s)
    request, targets = pb.ListEventsRequest(), targets_of(asked)
    replies = await asyncio.gather(
        *(_answer_of(target, "ListEvents", request, timeout_s) for target in targets.values())
    )
    return asked, dict(zip(targets, replies, strict=True))


async def ask_write_behind(
    address: str, namespace: str, timeout_s: float
) -> tuple[Asked, Mapping[str, pb.WriteBehindStatusResponse | None]]:
    """Return the view of the first node that answers, and every member's word about the queues, None for no answer.

    Raises:
        CliError: No node answers, the one that does has no view, or the namespace does not write behind.
    """
    asked, _ = await first_view(address, timeout_s)
    request, targets = pb.WriteBehindStatusRequest(namespace=namespace), targets_of(asked)
    replies = await asyncio.gather(
        *(_answer_of(target, "WriteBehindStatus", request, timeout_s) for target in targets.values())
    )
    return asked, dict(zip(targets, replies, strict=True))


async def ask_one(address: str, method: str, request: Any, timeout_s: float) -> Any:  # noqa: ANN401 - of any call
    """Return the answer of the first node that has a view.

    Raises:
        CliError: There is none, or it refuses.
    """
    asked, _ = await first_view(address, timeout_s)
    async with channel_to(asked.target) as channel:
        try:
            return await getattr(admin_pb2_grpc.AdminServiceStub(channel), method)(request, timeout=timeout_s)
        except aio.AioRpcError as error:
            raise _refusal(error, timeout_s) from None


async def snapshot(target: str, request: pb.SnapshotRequest, timeout_s: float) -> AsyncIterator[pb.SnapshotPart]:
    """Yield the keys in a node's memory, a part at a time.

    Raises:
        CliError: The node is gone meanwhile, or refuses.
    """
    async with channel_to(target) as channel:
        call = admin_pb2_grpc.AdminServiceStub(channel).Snapshot(request, timeout=timeout_s)
        try:
            async for part in call:
                yield part
        except aio.AioRpcError as error:
            raise _refusal(error, timeout_s) from None
        finally:
            call.cancel()


async def rebuild_bloom(asked: Asked, namespace: str, timeout_s: float) -> AsyncIterator[pb.RebuildBloomProgress]:
    """Have the node that was asked rebuild a filter; yield how far that is.

    Raises:
        CliError: The node is gone, or has no such filter.
    """
    async with channel_to(asked.target) as channel:
        call = admin_pb2_grpc.AdminServiceStub(channel).RebuildBloom(
            pb.RebuildBloomRequest(namespace=namespace), timeout=timeout_s
        )
        try:
            async for progress in call:
                yield progress
        except aio.AioRpcError as error:
            raise _refusal(error, timeout_s) from None
        finally:
            call.cancel()


async def drain_steps(address: str, node: str, flush_s: float, timeout_s: float) -> AsyncIterator[pb.DrainProgress]:
    """Have a node leave; yield how far that is. Without an id it is the one at the address, member or not.

    Raises:
        CliError: It does not answer or refuses, there is no such member, or the address may be that of several nodes.
    """
    if node:
        asked, _ = await first_view(address, timeout_s)
        if node not in asked.view.by_id:
            text = f"no member is called {node}: it has left, or never was one"
            raise CliError(text, hint="`cachenode view` shows the members.", code=ExitCode.NOT_FOUND)
        target = targets_of(asked)[node]
    else:
        targets = _targets(address)
        if len(targets) > 1 or targets[0].startswith("dns:"):
            text = "which node is to leave? The address may lead to several"
            raise CliError(text, hint="Say --node ID, or give the address of one.", code=ExitCode.USAGE)
        [target] = targets
    async with channel_to(target) as channel:
        call = admin_pb2_grpc.AdminServiceStub(channel).Drain(
            pb.DrainRequest(node_id=node, flush_s=flush_s), timeout=flush_s + timeout_s + _DRAIN_S
        )
        try:
            async for progress in call:
                yield progress
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise unreachable(target, _why(error, timeout_s)) from None
            raise _refusal(error, timeout_s) from None
        finally:
            call.cancel()


async def ask_warming(
    address: str, namespace: str, timeout_s: float
) -> tuple[Asked, Mapping[str, pb.WarmStatusResponse | None]]:
    """Return the view of the first node that answers, and every member's warming jobs, None for no answer.

    Raises:
        CliError: As `ask_blooms`.
    """
    asked, _ = await first_view(address, timeout_s)
    request, targets = pb.WarmStatusRequest(namespace=namespace), targets_of(asked)
    replies = await asyncio.gather(
        *(_answer_of(target, "WarmStatus", request, timeout_s) for target in targets.values())
    )
    return asked, dict(zip(targets, replies, strict=True))


async def cancel_warming(address: str, namespace: str, timeout_s: float) -> bool:
    """End the job of a namespace; return False if there is none.

    Raises:
        CliError: As `ask_blooms`.
    """
    asked, _ = await first_view(address, timeout_s)
    request, targets = pb.CancelWarmRequest(namespace=namespace), targets_of(asked)
    replies = await asyncio.gather(
        *(_answer_of(target, "CancelWarm", request, timeout_s) for target in targets.values())
    )
    return any(reply is not None and reply.cancelled for reply in replies)


def _refusal(error: aio.AioRpcError, timeout_s: float) -> CliError:
    """Return what a node's refusal is for people."""
    text = error.details() or _why(error, timeout_s)
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return CliError(text, hint="`cachenode stats` lists the namespaces in use.", code=ExitCode.USAGE)
    if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
        return CliError(text, code=ExitCode.USAGE)
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return CliError("a node of an older release cannot do that", hint="Update the nodes to this release.")
    if error.code() in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}:
        return CliError(text, hint="Name the file of another token with --token-file.")
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return CliError(text, hint="`cachenode view` shows which nodes there are.", code=ExitCode.UNREACHABLE)
    return CliError(text)


async def _answer_of(target: str, method: str, request: Any, timeout_s: float) -> Any:  # noqa: ANN401 - of any call
    """Return a node's answer to a call, None if it gives none."""
    async with channel_to(target) as channel:
        try:
            return await getattr(admin_pb2_grpc.AdminServiceStub(channel), method)(request, timeout=timeout_s)
        except aio.AioRpcError as error:
            if error.code() in FINAL:
                raise _refusal(error, timeout_s) from None
            return None


async def first_view(
    address: str, timeout_s: float, tls: Tls | None = None, token: Path | None = None
) -> tuple[Asked, pb.GetViewResponse]:
    """Return the view of the first node that answers, and its answer.

    Raises:
        CliError: No node answers, or the one that does has no view.
    """
    why = ""
    for target in _targets(address):
        async with channel_to(target, tls, token) as channel:
            try:
                reply = await admin_pb2_grpc.AdminServiceStub(channel).GetView(pb.GetViewRequest(), timeout=timeout_s)
            except aio.AioRpcError as error:
                why = _why(error, timeout_s)
                continue
        if not reply.view.members:
            text = f"node {reply.header.node_id} has not joined its cluster yet"
            hint = "It serves once it is in a view. If this lasts, its log says what it waits for."
            raise CliError(text, hint=hint, code=ExitCode.UNREACHABLE)
        return Asked(view_from_wire(reply.view), reply.header.node_id, target), reply
    raise unreachable(address, why)


def targets_of(asked: Asked) -> dict[str, str]:
    """Return where each member is asked.

    The node that answered is asked again where it was found: its own address may lead nowhere from here.
    """
    members = asked.view.members
    return {member.id: asked.target if member.id == asked.node_id else member.address for member in members}


def _targets(address: str) -> list[str]:
    parsed = parse_address(address)
    return list(parsed.seeds) if parsed.dns is None else [f"dns:///{parsed.dns[0]}:{parsed.dns[1]}"]


def _why(error: aio.AioRpcError, timeout_s: float) -> str:
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {timeout_s:g} s"
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return "something else than a cachenode listens there"
    status = status_of(error)
    return "the connection failed" if status == error.code().name else status


async def _view_of(target: str, timeout_s: float, tls: Tls | None, token: Path | None) -> pb.GetViewResponse | None:
    async with channel_to(target, tls, token) as channel:
        try:
            return await admin_pb2_grpc.AdminServiceStub(channel).GetView(pb.GetViewRequest(), timeout=timeout_s)
        except aio.AioRpcError:
            return None
