"""A node whose every answer the test writes.

Real gRPC with no cache behind it, for schedules that a real node cannot be brought to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc import aio

from cachenode_api.records import HEADER
from cachenode_api.v1 import common_pb2 as pb
from cachenode_api.v1 import session_pb2, session_pb2_grpc

__all__ = ["ScriptedNode", "record", "scripted_node", "view_message"]

_WAIT_S = 10.0


def record(value: bytes, *, version: int = 1) -> bytes:
    """Return the record of a value that is bytes and does not expire."""
    return HEADER.pack(0, 0, version, float("inf")) + value


def view_message(epoch: int, *members: tuple[str, str]) -> pb.View:
    """Return a view of members given as (id, address)."""
    return pb.View(
        epoch=epoch,
        ring_seed=b"0123456789abcdef",
        ring_hash="blake2b-64",
        vnodes=160,
        members=[pb.Member(id=name, incarnation="1", address=address, weight=1) for name, address in sorted(members)],
    )


class ScriptedNode(session_pb2_grpc.SessionServiceServicer):
    """Takes batches and waits for the test to say what to answer.

    Attributes:
        address: Where it listens.
        view: Sent with the greeting; its own alone unless the test changes it.
        max_frame_bytes: Told to the clients.
        beats: Cleared, it answers no heartbeats.
        drops: So many of the next batches end their session instead of being handed to the test.
        dropped: The batches that did.
        sessions: Sessions opened so far.
        hellos: The clients' greetings.
        lease_ms: What its answers to heartbeats grant to near caches.
        nonces: Of the heartbeats that came.
        acknowledged: The numbers that clients have acknowledged, each once.
        goodbyes: Clients that have said goodbye.
        sequence: Number of the last invalidation, in every frame.
        greets: Cleared, it greets nobody until it is set again.
    """

    def __init__(self, name: str) -> None:
        self._writing = asyncio.Lock()
        self.name = name
        self.address = ""
        self.view: pb.View | None = None
        self.max_frame_bytes = 4 << 20
        self.beats = True
        self.drops = 0
        self.dropped: list[pb.Batch] = []
        self.sessions = 0
        self.hellos: list[session_pb2.ClientHello] = []
        self.lease_ms = 0
        self.nonces: list[int] = []
        self.acknowledged: list[int] = []
        self.goodbyes = 0
        self.sequence = 0
        self.batches: asyncio.Queue[pb.Batch] = asyncio.Queue()
        self.greets = asyncio.Event()
        self.greets.set()
        self._taken: list[pb.Batch] = []  # keeps them alive, since they are known by identity
        self._origins: dict[int, aio.ServicerContext[session_pb2.ClientFrame, session_pb2.ServerFrame]] = {}
        self._reader: asyncio.Task[Any] | None = None
        self._hung_up = False
        self._context: aio.ServicerContext[session_pb2.ClientFrame, session_pb2.ServerFrame] | None = None

    async def Session(  # type: ignore[override]  # noqa: N802 - the wire's name; writes through the context
        self,
        request_iterator: AsyncIterator[session_pb2.ClientFrame],
        context: aio.ServicerContext[session_pb2.ClientFrame, session_pb2.ServerFrame],
    ) -> None:
        self.sessions += 1
        self.sequence = 0
        self._context = context
        hello = session_pb2.ServerHello(node_id=self.name, incarnation="1", max_frame_bytes=self.max_frame_bytes)
        view = view_message(1, (self.name, self.address)) if self.view is None else self.view
        await self.greets.wait()
        await self._write(context, session_pb2.ServerFrame(hello=hello, view=view))
        self._reader = asyncio.current_task()
        try:
            await self._read(request_iterator, context)
        except asyncio.CancelledError:
            if not self._hung_up:
                raise
        if self._hung_up:
            self._hung_up = False
            await context.abort(grpc.StatusCode.UNAVAILABLE, "as the test says")

    async def _read(
        self,
        request_iterator: AsyncIterator[session_pb2.ClientFrame],
        context: aio.ServicerContext[session_pb2.ClientFrame, session_pb2.ServerFrame],
    ) -> None:
        async for frame in request_iterator:
            if frame.HasField("hello"):
                self.hellos.append(frame.hello)
            for batch in frame.batches:
                if self.drops:
                    self.drops -= 1
                    self.dropped.append(batch)
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "as the script says")
                self._taken.append(batch)
                self._origins[id(batch)] = context
                self.batches.put_nowait(batch)
            if frame.acknowledged and frame.acknowledged not in self.acknowledged:
                self.acknowledged.append(frame.acknowledged)
            if frame.goodbye:
                self.goodbyes += 1
                return
            if frame.HasField("heartbeat"):
                self.nonces.append(frame.heartbeat.nonce)
            if frame.HasField("heartbeat") and self.beats:
                beat = pb.Heartbeat(nonce=frame.heartbeat.nonce, answer=True, lease_ms=self.lease_ms)
                await self._write(context, session_pb2.ServerFrame(heartbeat=beat))

    async def next_batch(self) -> pb.Batch:
        """Return the next batch that a client sent."""
        return await asyncio.wait_for(self.batches.get(), _WAIT_S)

    async def _write(self, context: Any, frame: session_pb2.ServerFrame) -> None:
        self.sequence = frame.sequence = frame.sequence or self.sequence
        async with self._writing:  # gRPC takes one write at a time, and heartbeats are answered meanwhile
            await context.write(frame)

    async def send(self, **fields: Any) -> None:
        """Send a frame to the client that connected last."""
        await self._write(self._context, session_pb2.ServerFrame(**fields))

    def hang_up(self) -> None:
        """End the session of the client that connected last."""
        self._hung_up = True
        self._reader.cancel()

    async def reply(self, batch: pb.Batch, **columns: Any) -> None:
        """Answer some or all keys of a batch."""
        await self._write(self._origins[id(batch)], session_pb2.ServerFrame(replies=[pb.Reply(id=batch.id, **columns)]))

    async def answer(self, values: Sequence[bytes], **fields: Any) -> pb.Batch:
        """Answer the next read with these values."""
        batch = await self.next_batch()
        await self.reply(batch, records=[record(value) for value in values], **fields)
        return batch


@asynccontextmanager
async def scripted_node(
    name: str = "node-0", *, also: Callable[[aio.Server], None] | None = None
) -> AsyncIterator[ScriptedNode]:
    """Run a scripted node until the block ends.

    Args:
        name: Its id.
        also: Adds other services.
    """
    node = ScriptedNode(name)
    server = aio.server()
    if also is not None:
        also(server)
    session_pb2_grpc.add_SessionServiceServicer_to_server(node, server)
    node.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield node
    finally:
        await server.stop(0)
