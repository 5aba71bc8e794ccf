"""The process of a node."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cachenode import process
from cachenode.config import NodeConfig


@pytest.mark.parametrize("code", [0, 1])
def test_a_loop_that_cannot_be_closed_ends_all_the_same(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Once a node has stopped nothing keeps its process, and its exit code is what it would have been."""
    ended, codes = threading.Event(), []

    class Stuck(asyncio.SelectorEventLoop):
        def close(self) -> None:
            ended.wait(10)
            super().close()

    async def stopped(*_: object, **__: object) -> int:
        return code

    def end(with_code: int) -> None:
        codes.append(with_code)
        ended.set()

    monkeypatch.setattr(process, "_CLOSE_S", 0.01)
    monkeypatch.setattr(process, "_run", stopped)
    monkeypatch.setattr(process, "configure_logs", lambda *_, **__: None)
    monkeypatch.setattr(process, "event_loop_factory", lambda _: Stuck)
    monkeypatch.setattr("os._exit", end)
    assert process.run(NodeConfig()) == code
    assert codes == [code]


def test_a_loop_that_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody ends the process behind the caller's back."""
    codes: list[int] = []

    async def stopped(*_: object, **__: object) -> int:
        return 0

    monkeypatch.setattr(process, "_CLOSE_S", 0.05)
    monkeypatch.setattr(process, "_run", stopped)
    monkeypatch.setattr(process, "configure_logs", lambda *_, **__: None)
    monkeypatch.setattr("os._exit", codes.append)
    assert process.run(NodeConfig()) == 0
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(10)
    assert codes == []
