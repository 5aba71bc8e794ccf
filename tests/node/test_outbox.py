from __future__ import annotations

import asyncio

import pytest

from cachenode.outbox import Outbox


class Stream:
    """The writing side of a stream, and what waits for it."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.frames: list[list[str]] = []
        self.writing = 0
        self.free = asyncio.Event()
        self.free.set()
        self.broken = False

    def compose(self) -> list[str] | None:
        taken, self.waiting = self.waiting, []
        return taken or None

    async def write(self, frame: list[str]) -> None:
        assert self.writing == 0, "gRPC allows one write at a time"
        self.writing += 1
        try:
            await self.free.wait()
            if self.broken:
                raise ConnectionError
            self.frames.append(frame)
        finally:
            self.writing -= 1


async def test_lone_item_is_written_in_its_turn() -> None:
    """With a stream that takes what it gets, what was put is written when `pump` returns."""
    stream = Stream()
    outbox = Outbox(stream.compose, stream.write)
    stream.waiting.append("a")
    await outbox.pump()
    assert stream.frames == [["a"]]


async def test_nothing_waiting_writes_nothing() -> None:
    """A pump without anything to write makes no frame."""
    stream = Stream()
    await Outbox(stream.compose, stream.write).pump()
    assert stream.frames == []


async def test_what_is_put_during_a_write_leaves_together() -> None:
    """While a write is under way others return at once, and what they put goes out in one further frame."""
    stream = Stream()
    outbox = Outbox(stream.compose, stream.write)
    stream.free.clear()
    stream.waiting.append("a")
    pumping = asyncio.create_task(outbox.pump())
    await asyncio.sleep(0)
    for item in "bcd":
        stream.waiting.append(item)
        await asyncio.wait_for(outbox.pump(), 1)
    assert stream.frames == []
    stream.free.set()
    await pumping
    assert stream.frames == [["a"], ["b", "c", "d"]]


async def test_slow_reader_holds_the_pumping_side() -> None:
    """Who pumps waits as long as the reader of the stream makes it."""
    stream = Stream()
    outbox = Outbox(stream.compose, stream.write)
    stream.free.clear()
    stream.waiting.append("a")
    pumping = asyncio.create_task(outbox.pump())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not pumping.done()
    stream.free.set()
    await pumping


async def test_failed_write_is_raised_and_frees_the_outbox() -> None:
    """The error of a write reaches who pumps; the outbox is not stuck afterwards."""
    stream = Stream()
    outbox = Outbox(stream.compose, stream.write)
    stream.broken = True
    stream.waiting.append("a")
    with pytest.raises(ConnectionError):
        await outbox.pump()
    stream.broken = False
    stream.waiting.append("b")
    await outbox.pump()
    assert stream.frames == [["b"]]


async def test_cancelled_pump_frees_the_outbox() -> None:
    """Who is cancelled while writing leaves the outbox to the next."""
    stream = Stream()
    outbox = Outbox(stream.compose, stream.write)
    stream.free.clear()
    stream.waiting.append("a")
    pumping = asyncio.create_task(outbox.pump())
    await asyncio.sleep(0)
    pumping.cancel()
    await asyncio.wait([pumping])
    stream.free.set()
    stream.waiting.append("b")
    await outbox.pump()
    assert stream.frames == [["b"]]


async def test_quiet_ends_with_the_writing() -> None:
    """Who waits for quiet goes on when all is written, also if the write failed, and at once if nobody writes."""
    stream = Stream()
    outbox = Outbox(stream.compose, stream.write)
    await outbox.quiet()
    stream.free.clear()
    stream.waiting.append("a")
    pumping = asyncio.create_task(outbox.pump())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(outbox.quiet())
    await asyncio.sleep(0)
    assert not waiting.done()
    stream.broken = True
    stream.free.set()
    with pytest.raises(ConnectionError):
        await pumping
    await asyncio.wait_for(waiting, 1)
