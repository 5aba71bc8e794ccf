"""Asks the members, all of them side by side, with the token of whoever looks at the console.

The node's own certificate opens the connections, as it does those to its peers; what a caller may do is decided by each
node's gate from the caller's token, never by the console.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from grpc import aio

from cachenode.adapters.tls import NodeTls
from cachenode.console.refusals import Refused, refusal_of
from cachenode.findings import Moment
from cachenode.rpc.status import FINAL
from cachenode_api.metadata import AUTHORIZATION_KEY, BEARER
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import admin_pb2_grpc, cache_pb2_grpc
from cachenode_api.view import Member, View

__all__ = ["Fleet"]

_LOOK_S = 1.5
_CALL_S = 5.0
_RENEW_S = 300.0
"""A connection is made anew after so long, with the certificates of then."""


class Fleet:
    """The members of the view in force.

    Args:
        me: Id of this node.
        view: Returns the view, None before the first.
        tls: How peers are met; None for plain connections.
    """

    def __init__(self, me: str, view: Callable[[], View | None], tls: NodeTls | None = None) -> None:
        self.me = me
        self._view = view
        self._tls = tls
        self._channels: dict[str, tuple[aio.Channel, float]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def view(self) -> View:
        """The view in force.

        Raises:
            Refused: The node is in none.
        """
        view = self._view()
        if view is None:
            hint = "It serves once it is in a view. If this lasts, its log says what it waits for."
            raise Refused(503, f"{self.me} has not joined its cluster yet", hint)
        return view

    async def moment(self, token: str) -> tuple[View, Moment]:
        """Return what every member says about itself, None where it does not answer.

        Raises:
            Refused: The token does not allow that.
        """
        view = self.view
        views, stats = await asyncio.gather(
            self._all(view, "GetView", pb.GetViewRequest(), token, _LOOK_S),
            self._all(view, "GetStats", pb.GetStatsRequest(), token, _LOOK_S),
        )
        return view, Moment(time.monotonic(), views, stats)

    async def all(self, method: str, request: object, token: str, timeout_s: float = _CALL_S) -> Mapping[str, Any]:
        """Return every member's answer to an admin call, None where it does not answer.

        Raises:
            Refused: A node refuses in a way in which each would.
        """
        return await self._all(self.view, method, request, token, timeout_s)

    async def one(self, method: str, request: object, token: str, timeout_s: float = _CALL_S, node: str = "") -> Any:  # noqa: ANN401 - of any call
        """Return one node's answer to an admin call: this node's, or that of the member named.

        Raises:
            Refused: It refuses, or does not answer.
        """
        member = self._member(node)
        try:
            return await self._call(member, method, request, token, timeout_s)
        except aio.AioRpcError as error:
            raise refusal_of(error, member.id) from None

    async def cache(self, method: str, request: object, token: str, timeout_s: float = _CALL_S) -> Any:  # noqa: ANN401 - of any call
        """Return this node's answer to a call of the cache service.

        Raises:
            Refused: It refuses, or does not answer.
        """
        stub = cache_pb2_grpc.CacheServiceStub(self._channel(self._member("").address))
        try:
            return await getattr(stub, method)(request, timeout=timeout_s, metadata=_shown(token))
        except aio.AioRpcError as error:
            raise refusal_of(error, self.me) from None

    async def first_of(self, method: str, request: object, token: str, timeout_s: float = _CALL_S) -> Any:  # noqa: ANN401 - of any call
        """Return the first message of this node's stream, which is left after that.

        Raises:
            Refused: It refuses, or does not answer.
        """
        stub = admin_pb2_grpc.AdminServiceStub(self._channel(self._member("").address))
        call = getattr(stub, method)(request, timeout=timeout_s, metadata=_shown(token))
        try:
            async for message in call:
                return message
        except aio.AioRpcError as error:
            raise refusal_of(error, self.me) from None
        finally:
            call.cancel()
        raise Refused(503, f"{self.me} said nothing")

    async def close(self) -> None:
        """Close all connections."""
        channels, self._channels = self._channels, {}
        await asyncio.gather(*(channel.close() for channel, _ in channels.values()), *self._closing)

    def _member(self, node: str) -> Member:
        member = self.view.by_id.get(node or self.me)
        if member is None:
            raise Refused(503, f"{node or self.me} is not in the view", "Look again in a few seconds.")
        return member

    async def _all(self, view: View, method: str, request: object, token: str, timeout_s: float) -> dict[str, Any]:
        self._leave(view)
        members = view.members
        replies = await asyncio.gather(*(self._answer(each, method, request, token, timeout_s) for each in members))
        return {member.id: reply for member, reply in zip(members, replies, strict=True)}

    async def _answer(self, member: Member, method: str, request: object, token: str, timeout_s: float) -> Any:  # noqa: ANN401 - of any call
        try:
            return await self._call(member, method, request, token, timeout_s)
        except aio.AioRpcError as error:
            if error.code() in FINAL:
                raise refusal_of(error, member.id) from None
            return None

    async def _call(self, member: Member, method: str, request: object, token: str, timeout_s: float) -> Any:  # noqa: ANN401 - of any call
        stub = admin_pb2_grpc.AdminServiceStub(self._channel(member.address))
        return await getattr(stub, method)(request, timeout=timeout_s, metadata=_shown(token))

    def _channel(self, address: str) -> aio.Channel:
        known = self._channels.get(address)
        now = time.monotonic()
        if known is not None and now < known[1]:
            return known[0]
        if known is not None:
            self._retire(known[0])
        channel = self._opened(address)
        self._channels[address] = channel, now + _RENEW_S
        return channel

    def _opened(self, address: str) -> aio.Channel:
        if self._tls is None:
            return aio.insecure_channel(address, options=_OPTIONS)
        try:
            credentials = self._tls.channel_credentials()
        except OSError:
            raise Refused(503, "a certificate of this node cannot be read", "See tls.* in its configuration.") from None
        return aio.secure_channel(address, credentials, options=_OPTIONS + self._tls.channel_options())

    def _leave(self, view: View) -> None:
        """Close connections to who is no member any more."""
        for address in self._channels.keys() - {member.address for member in view.members}:
            self._retire(self._channels.pop(address)[0])

    def _retire(self, channel: aio.Channel) -> None:
        """Close a connection once the calls on it have ended."""
        task = asyncio.create_task(channel.close(_CALL_S))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


_OPTIONS: list[tuple[str, Any]] = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


def _shown(token: str) -> tuple[tuple[str, str], ...]:
    return ((AUTHORIZATION_KEY, BEARER + token),) if token else ()
