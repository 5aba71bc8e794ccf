"""Copies of other nodes' hot keys: each owner is read as a near-cached client reads it.

For each node that has hot keys this one opens a session, as the SDK does, and keeps in a near cache what comes over it.
So a copy lives by the rules of all copies: it is served under the owner's lease, the owner tells this node before it
answers a write, and a lost stream drops everything (`cachenode_client._near`).

What the owner counts as hot is asked for once over that session, and again when a write has dropped it and a forwarded
read says that it is still hot. `KEEP_S` after the owner last said so, the copy fades, and the reads are forwarded.

A view comes in the owner's stream, before its word to acknowledge: what moved away in it is barred by then, so no copy
outlives its owner's right (``test_copies_of_moved_keys_are_not_served``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from cachenode.adapters.tls import TlsFiles
from cachenode.core.hot_keys import KEEP_S
from cachenode.wire import view_from_wire
from cachenode_api.errors import InvalidView
from cachenode_api.ring import Ring
from cachenode_client._batches import GET, Group
from cachenode_client._channels import Channels, Tls
from cachenode_client._near import ENCODED, NearCache, boot_clock, everything, keyed
from cachenode_client._session import Session
from cachenode_client.errors import CacheError

if TYPE_CHECKING:
    from cachenode_api.v1.session_pb2 import ServerFrame
    from cachenode_api.view import Member, View

__all__ = ["PeerCopies"]

_READ_S = 2.0
_AGAIN_S = 2.0
"""Time after the loss of a session before the next one is opened."""
_MOST_WANTED = 10_000


class PeerCopies:
    """The copies that a node keeps.

    Args:
        node_id: Told to the owners, for people.
        max_bytes: Budget.
        tls: Where the certificates are; None for plain connections.
        token: Shown to the owners; empty where they ask for none.
    """

    def __init__(self, node_id: str, max_bytes: int, tls: TlsFiles | None = None, token: str = "") -> None:
        self._channels = Channels(_client_tls(tls) if tls is not None else None, token or None)
        self._name = f"copies of {node_id}"
        self._near = NearCache(max_bytes, decode=lambda _record: ENCODED, clock=boot_clock)
        self._wanted: dict[tuple[str, bytes], float] = {}
        self._members: dict[str, Member] = {}
        self._sessions: dict[str, Session] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._near)

    def find(self, namespace: str, key: bytes) -> bytes:
        """Return a copy that may be served now; empty if there is none."""
        if not self._wanted:
            return b""
        name = keyed(key)
        entry = self._near.entries(namespace).get(name)
        if entry is None:
            return b""
        now = boot_clock()
        if now >= self._wanted.get((namespace, key), 0.0):  # it has cooled
            self._wanted.pop((namespace, key), None)
            self._near.drop(namespace, key)
            return b""
        if now < entry.deadline and now < entry.lease.until:
            entry.marked = True
            return entry.record
        revived = self._near.revive(namespace, name, entry, now)
        return revived.record if revived is not None else b""

    def want(self, owner: str, namespace: str, keys: Sequence[bytes]) -> None:
        """Get copies of an owner's keys; keep them until they have cooled."""
        now = boot_clock()
        more = sum((namespace, key) not in self._wanted for key in keys)
        if len(self._wanted) + more > _MOST_WANTED:
            self._wanted = {wanted: until for wanted, until in self._wanted.items() if until > now}
        if len(self._wanted) + more > _MOST_WANTED:
            return
        for key in keys:
            self._wanted[namespace, key] = now + KEEP_S
        session = self._sessions.get(owner)
        if session is not None and session.ready:
            group: Group = (GET, namespace, _READ_S, False, 0, False, b"")
            for key in keys:
                waiter = asyncio.get_running_loop().create_future()
                waiter.add_done_callback(_forget)  # what counts is what the session has kept by then
                session.join(group, key, waiter)
        elif session is None and owner in self._members and owner not in self._tasks:
            self._tasks[owner] = asyncio.create_task(self._hold(self._members[owner]))

    def view_changed(self, _former: View | None, view: View) -> None:
        """Leave those who are no members any more."""
        members = {member.id: member for member in view.members}
        for name, member in self._members.items():
            if members.get(name) != member and name in self._tasks:
                self._tasks.pop(name).cancel()
        self._members = members

    async def stop(self) -> None:
        """End all sessions, and keep nothing."""
        self._members = {}
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _hold(self, member: Member) -> None:
        session = Session(
            member.address,
            client_name=self._name,
            sdk_version="",
            on_frame=partial(self._heard, member.id),
            on_end=partial(self._ended, member.id),
            on_reply=lambda: None,
            near=self._near,
            channels=self._channels,
        )
        self._sessions[member.id] = session
        try:
            with contextlib.suppress(CacheError):
                await session.run()
            await asyncio.sleep(_AGAIN_S)
        finally:
            if self._tasks.get(member.id) is asyncio.current_task():
                del self._tasks[member.id]

    def _heard(self, owner: str, session: Session, frame: ServerFrame) -> None:
        if not frame.HasField("view"):
            return
        try:
            ring = Ring(view_from_wire(frame.view))
        except InvalidView:
            session.shelf.bar(everything)
            return
        session.shelf.bar(lambda _namespace, key, _tags: ring.owner(key) != owner)

    def _ended(self, owner: str, session: Session) -> None:
        if self._sessions.get(owner) is session:
            del self._sessions[owner]


def _client_tls(files: TlsFiles) -> Tls:
    return Tls(files.for_peers or None, files.cert_file, files.key_file, files.server_name)


def _forget(waiter: asyncio.Future[object]) -> None:
    if not waiter.cancelled():
        waiter.exception()
