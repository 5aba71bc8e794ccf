"""One writer per stream: what is put during a write leaves together in the next frame.

gRPC allows one write at a time on a stream, and a frame costs a few hundred microseconds whatever it carries. So
whoever puts something also pumps, unless somebody is already pumping; the pump goes on until nothing is left. No task
is needed, and a lone reply is written in the turn in which it was put.

A reader that is slow makes the write wait, and with it the pumping side. When that side is the one that reads
requests, the stream stops reading: back-pressure without a queue that grows. A side that reads while others pump
waits for them with `quiet`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ["Outbox"]

Frame = TypeVar("Frame")


class Outbox(Generic[Frame]):
    """The outgoing side of one stream.

    Args:
        compose: Takes what is waiting and returns it as one frame, or None when nothing is.
        write: Writes a frame to the stream.
    """

    __slots__ = ("_compose", "_quiet", "_write", "writing")

    def __init__(self, compose: Callable[[], Frame | None], write: Callable[[Frame], Awaitable[object]]) -> None:
        self._compose = compose
        self._write = write
        self._quiet: asyncio.Future[None] | None = None
        self.writing = False
        """True while a frame is under way: what is put meanwhile follows without another pump."""

    async def pump(self) -> None:
        """Write until nothing is waiting. Returns at once if another caller is at it.

        Raises:
            Exception: Whatever the write raises; what was composed for that write is lost with the stream.
        """
        if self.writing:
            return
        self.writing = True
        try:
            while (frame := self._compose()) is not None:
                await self._write(frame)
        finally:
            self.writing = False
            if self._quiet is not None:
                if not self._quiet.done():
                    self._quiet.set_result(None)
                self._quiet = None

    async def quiet(self) -> None:
        """Wait until nobody is writing. For one waiter at a time."""
        while self.writing:
            self._quiet = asyncio.get_running_loop().create_future()
            await self._quiet
