"""The cluster as a client sees it: the newest view, its ring, and a session per member.

The first session to any seed brings a view; from then on there is a session to each member, redialled for as long as
it is one. A key goes to its owner's session; while that is down, to any other: that node asks the owner, or L2 in its
place. If every session is lost, the seeds are dialled again.

Who leaves the view is not dialled again: a node that restarts is there at once, at the same address, as another member
with a dialler of its own. A session of the former one would be ended with it, and the calls under way
(``test_member_that_restarts_is_dialled_as_the_new_one``).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from cachenode_api.errors import InvalidView
from cachenode_api.ring import Ring
from cachenode_api.view import Member, View
from cachenode_client._backoff import Schedule
from cachenode_client._channels import Channels
from cachenode_client._session import Session
from cachenode_client.errors import CacheError, CacheUnavailable

if TYPE_CHECKING:
    from cachenode_api.v1 import common_pb2
    from cachenode_api.v1.session_pb2 import ServerFrame
    from cachenode_client._address import Addresses
    from cachenode_client._near import Covers, NearCache

__all__ = ["Router"]

_REDIAL = Schedule(first_s=0.1, max_s=2.0, retries=None)
_LEAVE_S = 5.0
_NEXT_SEED_S = 0.25
_SPREAD_S = 0.5
"""All clients hear of a new member at the same moment: each dials it within so long."""


class Router:
    """Keeps sessions to the members and says which one a key goes to.

    Args:
        addresses: Where to begin.
        client_name: Told to the nodes.
        sdk_version: Told to the nodes.
        on_reply: Called when calls have ended.
        near: Gets copies of what is read.
        channels: Connects to the nodes.
    """

    def __init__(
        self,
        addresses: Addresses,
        *,
        client_name: str,
        sdk_version: str,
        on_reply: Callable[[], None],
        near: NearCache | None = None,
        channels: Channels | None = None,
    ) -> None:
        self.view: View | None = None
        self.view_listeners: list[Callable[[View], None]] = []
        """Called with each view, once it is in force."""
        self._addresses = addresses
        self._client_name = client_name
        self._sdk_version = sdk_version
        self._on_reply = on_reply
        self.near = near
        self.channels = channels or Channels()
        self._ring: Ring | None = None
        self._ready: dict[str, Session] = {}
        self._any: Session | None = None
        self.only: Session | None = None
        """The session that every key goes to, if there is one member."""
        self._changed = asyncio.Event()
        self._dialers: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        """Those of former members, for a moment: what is under way there may still be answered."""
        self._sessions: dict[Session, asyncio.Task[Any] | None] = {}
        """Each with the dialler that holds it."""
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret
        self._last_error = "No node has answered yet"

    def start(self) -> None:
        """Begin to dial the seeds."""
        self._dialers["seeds"] = asyncio.create_task(self._find())

    async def close(self) -> None:
        """End all sessions."""
        dialers = [*self._dialers.values(), *self._leaving]
        self._dialers.clear()
        for task in dialers:
            task.cancel()
        await asyncio.gather(*dialers, return_exceptions=True)
        self._ready.clear()
        self._any = None

    # Routing.

    def route(self, key: bytes) -> Session | None:
        """Return the session of the key's owner, else any that is ready, else None."""
        if self._ring is None:
            return self._any
        return self._ready.get(self._ring.owner(key) or "") or self._any

    async def wait_route(self, key: bytes, timeout_s: float) -> Session:
        """Return a session for the key, waiting for one to become ready.

        Raises:
            CacheUnavailable: None did in time.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    session = self.route(key)
                    if session is not None:
                        return session
                    self._changed.clear()
                    await self._changed.wait()
        raise CacheUnavailable(
            f"No node can be reached. {self._last_error}. Check the client's address and that the nodes run.",
            reason="no_node",
        )

    async def wait_view(self) -> None:
        """Return once there is a view."""
        await self._until(lambda: self.view is not None)

    async def _until(self, holds: Callable[[], bool]) -> None:
        """Return once something holds of the view and the sessions that are ready."""
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    @property
    def ready_count(self) -> int:
        """Sessions that are ready."""
        return len(self._ready)

    @property
    def frames_sent(self) -> int:
        """Frames sent over the sessions that are open now."""
        return sum(session.frames_sent for session in self._sessions)

    def _refresh(self) -> None:
        self._any = next((session for session in self._ready.values() if session.ready), None)
        self.only = self._any if self.view is not None and len(self.view.members) == 1 else None
        self._changed.set()

    # Sessions.

    async def _find(self) -> None:
        """Dial the seeds, and the members known before, until one answers; again whenever no session is left.

        The next address is tried when the one before has not answered within a quarter of a second, so that a dead
        seed costs no more than that.
        """
        attempt = 0
        holding: set[asyncio.Task[bool]] = set()
        try:
            while True:
                for address in [] if self._ready else await self._candidates():
                    holding.add(asyncio.create_task(self._hold(address)))
                    self._changed.clear()
                    with contextlib.suppress(TimeoutError):
                        # Not wait_for: in Python 3.11 it swallows a cancellation that comes with the event, and `close`
                        # would then wait for this task for ever.
                        async with asyncio.timeout(_NEXT_SEED_S):
                            await self._changed.wait()
                    if self._ready:
                        break
                attempt = 0 if self._ready else attempt + 1
                holding = {task for task in holding if not task.done()}
                await self._until(lambda: not self._ready)
                await asyncio.sleep(_REDIAL.limit_s(min(attempt, 3)) * self._rng.uniform(0.5, 1.0))
        finally:
            for task in holding:
                task.cancel()
            await asyncio.gather(*holding, return_exceptions=True)

    async def _candidates(self) -> list[str]:
        known = [member.address for member in self.view.members] if self.view else []
        seeds = list(self._addresses.seeds)
        if self._addresses.dns is not None:
            host, port = self._addresses.dns
            try:
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=1)
            except OSError as error:
                self._last_error = f"The DNS look-up failed: {error.strerror or type(error).__name__}"
                found = []
            hosts = [str(address[0]) for *_, address in found]
            named = [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in hosts]
            self.channels.names = dict.fromkeys(named, host)
            seeds += named
        self._rng.shuffle(seeds)
        return list(dict.fromkeys(seeds + known))

    async def _keep(self, member: Member, joined: bool) -> None:
        """Hold a session to a member for as long as it is one. If it has `joined` only now, not at once."""
        attempt = 0
        if joined:
            await asyncio.sleep(_SPREAD_S * self._rng.random())
        while _name(member) in self._dialers:
            if self._not_mine_to_dial(member):
                await self._until(lambda: not self._not_mine_to_dial(member) or _name(member) not in self._dialers)
            else:
                lasted = await self._hold(member.address)
                attempt = 0 if lasted else attempt + 1
            await asyncio.sleep(_REDIAL.limit_s(min(attempt, 5)) * self._rng.uniform(0.5, 1.0))

    def _not_mine_to_dial(self, member: Member) -> bool:
        """Return True if a member is connected over a session that was dialled as a seed's, or is about to be.

        As long as no session is left the seeds are dialled, and the members among them. Who dialled a lone node beside
        that would meet it twice when it restarts, the second time in vain: as a member that is none any more, whose
        session ends and takes the calls under way with it (``test_node_restarts_on_its_port``).
        """
        return not self._ready or member.id in self._ready

    async def _hold(self, address: str) -> bool:
        """Hold one session until it ends. Return True if it was ever ready."""
        session = Session(
            address,
            client_name=self._client_name,
            sdk_version=self._sdk_version,
            on_frame=self._frame,
            on_end=self._ended,
            on_reply=self._on_reply,
            near=self.near,
            channels=self.channels,
        )
        self._sessions[session] = asyncio.current_task()
        greeted = False
        try:
            await session.run()
        except CacheError as error:
            self._last_error = str(error).rstrip(".")
        finally:
            del self._sessions[session]
            greeted = bool(session.node_id)
        return greeted

    def _ended(self, session: Session) -> None:
        if self._ready.get(session.node_id) is session:
            del self._ready[session.node_id]
        self._refresh()

    def _frame(self, session: Session, frame: ServerFrame) -> None:
        if frame.HasField("hello"):
            self._ready[session.node_id] = session
        if frame.HasField("view"):
            former = self._ring
            self._take_view(frame.view)
            self._bar_moved(self._sessions if self._ring is not former else (session,))
        if frame.draining and self._ready.get(session.node_id) is session and len(self._ready) > 1:
            del self._ready[session.node_id]
        self._refresh()

    def _take_view(self, message: common_pb2.View) -> None:
        if self.view is not None and message.epoch <= self.view.epoch and self._ready_elsewhere():
            return
        try:
            view = View(
                epoch=message.epoch,
                ring_seed=message.ring_seed,
                ring_hash=message.ring_hash,
                vnodes=message.vnodes,
                members=tuple(
                    Member(m.id, m.incarnation, m.address, m.http_address, m.weight or 1) for m in message.members
                ),
            )
        except InvalidView as error:
            self._last_error = str(error)
            return
        joined = self.view is not None and bool(self._ready)
        self.view, self._ring = view, Ring(view)
        self._adjust(view, joined)
        for listener in list(self.view_listeners):
            listener(view)

    def bar(self, covers: Covers) -> None:
        """Serve no copy any more that is covered: this client has declared it untrue itself."""
        for session in self._sessions:
            session.shelf.bar(covers)

    def _bar_moved(self, sessions: Iterable[Session]) -> None:
        """Serve no copy any more of a key whose owner is another than the node it came from.

        Also over the session that told the view, if others had told it before: its node went on meanwhile, by right.
        """
        ring = self._ring
        if self.near is None or ring is None:
            return
        for session in sessions:
            session.shelf.bar(_moved_from(session.node_id, ring))

    def _ready_elsewhere(self) -> bool:
        """Return True if a member of the present view is connected, so that an older epoch elsewhere is only late.

        If none is, this may be another life of the cluster, whose epochs began anew: its nodes may have the same ids,
        but not the same incarnations.
        """
        return self.view is not None and any(
            member.id in self._ready and self._ready[member.id].incarnation == member.incarnation
            for member in self.view.members
        )

    def _adjust(self, view: View, joined: bool) -> None:
        """Hold a session to each member, and to no others. Those that have `joined` are dialled within a while."""
        for member in view.members:
            if _name(member) not in self._dialers:
                self._dialers[_name(member)] = asyncio.create_task(self._keep(member, joined))
        for name in set(self._dialers) - {_name(member) for member in view.members} - {"seeds"}:
            dialer = self._dialers.pop(name)
            self._leaving.add(dialer)
            dialer.add_done_callback(self._leaving.discard)
            if any(held_by is dialer and session.node_id for session, held_by in self._sessions.items()):
                asyncio.get_running_loop().call_later(_LEAVE_S, dialer.cancel)
            else:
                dialer.cancel()

    def __repr__(self) -> str:
        epoch = self.view.epoch if self.view else 0
        return f"<Router epoch={epoch} ready={len(self._ready)}>"


def _name(member: Member) -> str:
    return f"{member.id} {member.incarnation} {member.address}"


def _moved_from(node_id: str, ring: Ring) -> Covers:
    return lambda _namespace, key, _tags: ring.owner(key) != node_id
