"""The links of a node to all its peers: who dials, which of two links stays, and forwarding over them.

There is one link per pair. Under a view the member with the smaller id dials; but who is in its first view dials all
of them, for the others have not heard of it yet, and its keys wait for their word. With seeds, where ids are not known
before somebody answers, everybody dials every seed; of two links between the same incarnations the one that the
smaller id dialled stays. Seeds may be few or old, as DNS is for a while: who is told a view of others by one of them
dials all of its members, until it has a newer view itself (``test_members_of_a_view_that_a_seed_tells_are_dialled``).

A member that leaves on purpose is soon out of the view, but still hands its entries over: the link to it stays for a
moment and is not dialled again.

A dialled stream is always cancelled when its link ends: grpcio 1.83 and later keep the handler of a dropped stream
running on the other side.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

import structlog
from grpc import aio

from cachenode.adapters.link import Link
from cachenode.adapters.tls import NodeTls
from cachenode.core.entries import Batch, BatchResult
from cachenode.errors import PeerUnavailable
from cachenode.ports import Clock, PeerEvents
from cachenode_api.errors import ContractError
from cachenode_api.metadata import AUTHORIZATION_KEY, BEARER
from cachenode_api.v1 import peer_pb2, peer_pb2_grpc
from cachenode_api.view import Member, View

__all__ = ["PeerLinks"]

_log = structlog.get_logger(__name__)

_REDIAL_S = (0.1, 1.0)
_DIAL_TIMEOUT_S = 2.0
_FAREWELL_S = 0.5
_LINGER_S = 4.0
"""Longer than any hand-over. As a rule the one that leaves ends the link first."""
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
]


class PeerLinks:
    """The links of one node.

    Args:
        me: This node.
        cluster: Name of the cluster; links to another are refused.
        clock: For liveness.
        execute: Executes a peer's batch.
        heartbeat_s: Time between heartbeats.
        tls: How to connect; None for plainly.
        token: Shown to the peers; empty where they ask for none.
    """

    def __init__(
        self,
        *,
        me: Member,
        cluster: str,
        clock: Clock,
        execute: Callable[[Batch, Callable[[BatchResult], None]], Awaitable[None] | None],
        heartbeat_s: float = 0.5,
        tls: NodeTls | None = None,
        token: str = "",
    ) -> None:
        self.me = me
        self.cluster = cluster
        self.clock = clock
        self.execute = execute
        self._tls = tls
        self._metadata = ((AUTHORIZATION_KEY, BEARER + token),) if token else ()
        self.events: PeerEvents | None = None
        self._view: View | None = None
        self._settled = 0
        self._nonces = itertools.count(1)
        self._heartbeat_s = heartbeat_s
        self._links: dict[str, Link] = {}
        self._heard: dict[str, float] = {}
        self._dialers: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        """Dialers of former members, as long as something is under way."""
        self._parted: set[str] = set()
        """Addresses of those that have said that they leave."""
        self._seeds: set[str] = set()
        self._told_of: set[str] = set()
        """Addresses of members of a view that does not name this node, which a peer has told."""
        self._own_addresses = {self.me.address}
        self._beating: asyncio.Task[None] | None = None
        self._stopped = False

    # As the port `Peers`.

    async def forward(self, owner: str, batch: Batch) -> BatchResult:
        """Let the owner execute a batch (see `cachenode.ports.Peers`)."""
        link = self._links.get(owner)
        if link is None:
            raise PeerUnavailable("there is no link to the peer", sent=False)
        return await link.request(batch)

    def silences(self) -> Mapping[str, float]:
        """Return for each other member of the view the seconds since it was heard from, negative if never."""
        view, now = self._view, self.clock.now()
        silent = {member.id: -1.0 for member in (view.members if view else ()) if member.id != self.me.id}
        for peer in silent:
            link = self._links.get(peer)
            heard = link.heard_at if link is not None else self._heard.get(peer)
            if heard is not None:
                silent[peer] = now - heard
        return silent

    def linked(self) -> list[Member]:
        """Return the peers with a live link."""
        return [link.peer for link in self._links.values() if link.peer is not None and not link.closed]

    # Life.

    def start(self) -> None:
        """Begin to send heartbeats."""
        self._beating = asyncio.create_task(self._beat())

    async def stop(self) -> None:
        """End all links. Whether this node leaves on purpose is said by `say_leaving`, by whoever knows."""
        self._stopped = True  # who still listens must not be met: it would count as live again after a while
        if self._beating is not None:
            self._beating.cancel()
        drained = [asyncio.create_task(link.drained()) for link in self._links.values()]
        if drained:
            await asyncio.wait(drained, timeout=_FAREWELL_S)
        dialers = [*self._dialers.values(), *self._leaving]
        for task in [*drained, *dialers]:
            task.cancel()
        for link in list(self._links.values()):
            link.close()
        await asyncio.gather(*drained, *dialers, return_exceptions=True)

    async def say_leaving(self) -> None:
        """Tell the peers that this node leaves, with nothing left that it or its clients might serve."""
        links = list(self._links.values())
        if links:
            await asyncio.wait([asyncio.create_task(link.say_leaving()) for link in links], timeout=_FAREWELL_S)

    def set_seeds(self, addresses: Iterable[str]) -> None:
        """Dial these addresses too, whoever answers there."""
        self._seeds = set(addresses) - self._own_addresses
        self._adjust_dialers()

    def unanswered_seeds(self) -> set[str]:
        """Return the seeds at which nobody has been met yet."""
        met = {member.address for member in self.linked()}
        return self._seeds - met - self._own_addresses

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            nonce = next(self._nonces)
            for link in list(self._links.values()):
                if not link.beat(nonce):
                    _log.warning("peer_silent", peer=link.peer.id if link.peer else "?")

    # As the owner of links.

    def present_view(self) -> View | None:
        """Return the view in force."""
        return self._view

    def greeted(self, link: Link) -> bool:
        """Keep a link whose peer is known now, unless it is this node itself, a twin, or the lesser of two links."""
        peer = link.peer
        assert peer is not None
        if peer.id == self.me.id:
            if peer.incarnation == self.me.incarnation:
                self._own_addresses.add(peer.address)
            else:
                _log.error("twin_refused", id=peer.id, address=peer.address)
            return False
        other = self._links.get(peer.id)
        if other is not None and not other.closed and other.peer == peer and self._rank(other) <= self._rank(link):
            return False
        self._links[peer.id] = link
        self._parted.discard(peer.address)
        if other is not None and other.peer == peer:
            other.retire()
        elif other is not None:
            other.close()
        if self.events is not None:
            self.events.peer_up(peer)
        link.beat(next(self._nonces))  # an ownership lease may rest on the answer
        return True

    def _rank(self, link: Link) -> int:
        """Return 0 for a link that the smaller id dialled, 1 for the other."""
        assert link.peer is not None
        return 0 if link.dialled == (self.me.id < link.peer.id) else 1

    def viewed(self, peer: Member, view: View) -> None:
        """Pass a peer's view on. With seeds, meet the members of one that does not name this node."""
        if self._seeds and self.me.id not in view.by_id:
            self._told_of.update(member.address for member in view.members)
            self._adjust_dialers()
        if self.events is not None:
            self.events.peer_view(peer, view)

    def present_settled(self) -> int:
        """Return the epoch under which this node acts with nothing left from before."""
        return self._settled

    def settled(self, peer: Member, epoch: int) -> None:
        """Pass on that nothing is left at a peer from before an epoch."""
        if self.events is not None:
            self.events.peer_settled(peer, epoch)

    def alive(self, peer: Member, sent_at: float) -> None:
        """Pass on that a peer has answered a heartbeat."""
        if self.events is not None:
            self.events.peer_alive(peer, sent_at)

    def parting(self, peer: Member) -> None:
        """Pass on that a peer leaves."""
        self._parted.add(peer.address)
        if self.events is not None:
            self.events.peer_leaving(peer)

    def _ended(self, link: Link) -> None:
        peer = link.peer
        if peer is None or self._links.get(peer.id) is not link:
            return
        del self._links[peer.id]
        self._heard[peer.id] = link.heard_at
        if self.events is not None:
            self.events.peer_down(peer)

    # Accepting and dialling.

    async def accept(self, frames: AsyncIterator[peer_pb2.PeerFrame], context: aio.ServicerContext[Any, Any]) -> None:
        """Serve a stream that a peer has opened."""
        if self._stopped:
            return
        link = Link(self, context.write, dialled=False)
        try:
            await link.run(frames)
        except (ContractError, ValueError) as error:  # of another release, or no node at all; it dials again
            _log.warning("peer_not_understood", error_type=type(error).__name__)
        finally:
            self._ended(link)

    def view_changed(self, former: View | None, view: View) -> None:
        """Dial the members of a new view, and tell it to the peers. To be called whenever a view comes in force."""
        self._view = view
        self._told_of.clear()
        self._adjust_dialers(joining=former is None)
        for link in self._links.values():
            link.send_view(view)
        self._heard = {peer: at for peer, at in self._heard.items() if peer in view.by_id}

    def epoch_settled(self, epoch: int) -> None:
        """Tell the peers that nothing is left at this node from before an epoch."""
        self._settled = epoch
        for link in self._links.values():
            link.send_settled(epoch)

    def _adjust_dialers(self, *, joining: bool = False) -> None:
        """Dial seeds and members with larger ids; and, once dialled, the others as long as they are members."""
        wanted = self._seeds | self._told_of
        for member in self._view.members if self._view is not None else ():
            if joining or member.id > self.me.id or member.address in self._dialers:
                wanted.add(member.address)
        wanted -= self._own_addresses
        for address in wanted - set(self._dialers):
            self._dialers[address] = asyncio.create_task(self._keep_dialled(address))
        for address in set(self._dialers) - wanted:
            dialer = self._dialers.pop(address)
            link = next((link for link in self._links.values() if link.held_by is dialer), None)
            if link is None:
                dialer.cancel()
                continue
            self._leaving.add(dialer)
            dialer.add_done_callback(self._leaving.discard)
            if address in self._parted:  # it hands its entries over
                asyncio.get_running_loop().call_later(_LINGER_S, link.retire)
            else:  # its last answers may be on the way
                link.retire()
        self._parted &= wanted

    async def _keep_dialled(self, address: str) -> None:
        """Keep a link to an address, whoever dialled it."""
        wait_s, longest_s = _REDIAL_S
        while address not in self._own_addresses and self._dialers.get(address) is asyncio.current_task():
            if any(member.address == address for member in self.linked()):
                await asyncio.sleep(self._heartbeat_s)
                wait_s = _REDIAL_S[0]
                continue
            await self._dial(address)
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            wait_s = min(longest_s, wait_s * 2)

    def _channel(self, address: str) -> aio.Channel:
        if self._tls is None:
            return aio.insecure_channel(address, options=_OPTIONS)
        credentials, options = self._tls.channel_credentials(), self._tls.channel_options()
        return aio.secure_channel(address, credentials, options=_OPTIONS + options)

    async def _dial(self, address: str) -> None:
        async with self._channel(address) as channel:
            try:
                async with asyncio.timeout(_DIAL_TIMEOUT_S):
                    await channel.channel_ready()
            except TimeoutError:
                return
            call = peer_pb2_grpc.PeerServiceStub(channel).Link(metadata=self._metadata)
            link = Link(self, call.write, dialled=True, held_by=asyncio.current_task())
            try:
                await link.run(call)
            except Exception as error:  # noqa: BLE001 - whatever a peer sends or gRPC raises, the address is dialled again
                _log.info("link_ended", address=address, error_type=type(error).__name__)
            finally:
                call.cancel()
                self._ended(link)
