"""What every helper process does: obey orders, one JSON object per line, until its input ends.

Pure: importing it must not bring in gRPC, which each process imports in the order that a user's program would.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Coroutine
from typing import Any

__all__ = ["orders", "run", "say"]


def run(main: Coroutine[Any, Any, None], *, uvloop: bool) -> None:
    """Run a process's main coroutine, on uvloop if it should be."""
    if not uvloop:
        asyncio.run(main)
        return
    from uvloop import new_event_loop

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main)


async def orders() -> AsyncIterator[dict[str, Any]]:
    """Yield the orders. The event loop keeps turning between them, so that a client's heartbeats do, too."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        yield json.loads(line)


def say(**answer: Any) -> None:
    """Answer with one line."""
    print(json.dumps(answer), flush=True)
