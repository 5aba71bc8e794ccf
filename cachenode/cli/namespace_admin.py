"""Reads and changes the settings of namespaces at every node of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import grpc
from grpc import aio

from cachenode.changing import Changed, ChangeRefused, NotAnswered, change_everywhere
from cachenode.cli.admin import Asked, first_view, targets_of
from cachenode.cli.connection import channel as channel_to
from cachenode.cli.errors import CliError, ExitCode
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import admin_pb2_grpc

__all__ = ["Changed", "ask_namespace", "ask_namespaces", "change_namespace"]

A = TypeVar("A", pb.ListNamespacesResponse, pb.GetNamespaceResponse, pb.SetNamespaceResponse)


async def ask_namespaces(
    address: str, timeout_s: float
) -> tuple[Asked, Mapping[str, pb.ListNamespacesResponse | None]]:
    """Return every member's settings of all namespaces, None for no answer.

    Raises:
        CliError: No node answers, or the one that does has no view.
    """
    asked, _ = await first_view(address, timeout_s)
    targets = targets_of(asked)
    replies = await asyncio.gather(*(_list(target, timeout_s) for target in targets.values()))
    return asked, dict(zip(targets, replies, strict=True))


async def ask_namespace(
    address: str, name: str, timeout_s: float
) -> tuple[Asked, Mapping[str, pb.GetNamespaceResponse | None]]:
    """Return every member's settings of a namespace, None for no answer.

    Raises:
        CliError: No node answers, the one that does has no view, or there is no such namespace.
    """
    asked, _ = await first_view(address, timeout_s)
    targets = targets_of(asked)
    replies = await asyncio.gather(*(_get(target, name, timeout_s) for target in targets.values()))
    return asked, dict(zip(targets, replies, strict=True))


async def change_namespace(
    address: str, name: str, fields: Mapping[str, str], reset: Sequence[str] | None, timeout_s: float
) -> Changed:
    """Change settings at every member.

    Args:
        address: Where the cluster is.
        name: Of the namespace.
        fields: Texts by setting.
        reset: Settings that are to be as configured; None for all.
        timeout_s: Longest wait for each answer.

    Raises:
        CliError: Nothing was changed: nobody answers, or a node refuses; every problem is told.
    """
    asked, found = await ask_namespace(address, name, timeout_s)
    targets = targets_of(asked)
    request = pb.SetNamespaceRequest(namespace=name, fields=fields, reset=reset or (), reset_all=reset is None)
    try:
        return await change_everywhere(
            found, request, lambda node, each: _set(targets[node], each, timeout_s), CliError
        )
    except ChangeRefused as error:
        problems = error.problems
        heading = "the change has a problem" if len(problems) == 1 else f"the change has {len(problems)} problems"
        lines = "".join(f"\n  - {problem}" for problem in problems)
        hint = "Nothing was changed. `cachenode namespace get` lists every setting."
        raise CliError(f"{heading}:{lines}", hint=hint, code=ExitCode.USAGE) from None
    except NotAnswered as error:
        text = f"{error} does not answer any more; whether it has changed its settings is not known"
        raise CliError(text, hint="Look at them with `cachenode namespace get`.", code=ExitCode.UNREACHABLE) from None


async def _list(target: str, timeout_s: float) -> pb.ListNamespacesResponse | None:
    async with channel_to(target) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        return await _answered(stub.ListNamespaces(pb.ListNamespacesRequest(), timeout=timeout_s))


async def _get(target: str, name: str, timeout_s: float) -> pb.GetNamespaceResponse | None:
    async with channel_to(target) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        return await _answered(stub.GetNamespace(pb.GetNamespaceRequest(namespace=name), timeout=timeout_s))


async def _set(target: str, request: pb.SetNamespaceRequest, timeout_s: float) -> pb.SetNamespaceResponse | None:
    async with channel_to(target) as channel:
        return await _answered(admin_pb2_grpc.AdminServiceStub(channel).SetNamespace(request, timeout=timeout_s))


async def _answered(call: aio.UnaryUnaryCall[Any, A]) -> A | None:
    """Return an answer, None for none.

    Raises:
        CliError: The node refuses.
    """
    try:
        return await call
    except aio.AioRpcError as error:
        text = error.details() or "the node refuses"
        if error.code() is grpc.StatusCode.NOT_FOUND:
            hint = "`cachenode namespace list` shows those that there are."
            raise CliError(text, hint=hint, code=ExitCode.USAGE) from None
        if error.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}:
            raise CliError(text, code=ExitCode.USAGE) from None
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            text = "a node of an older release cannot show or change settings"
            raise CliError(text, hint="Update the nodes to this release.") from None
        return None
