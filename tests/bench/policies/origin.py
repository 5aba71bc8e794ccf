"""The origin that both sides read: a process of its own, slow, that counts every read.

A read sees the data as it is when it begins and answers after `LATENCY_S`, as a query on a snapshot does. The answers
are the versions of keys: a write makes a key's version one higher, and is done at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

from tests.bench.processes import spawn

__all__ = ["LATENCY_S", "Database", "Loader", "database"]

LATENCY_S = 0.1
_START_S = 20.0
_PAD = "x" * 100
_LONGEST_LINE = 1 << 26


class Database:
    """A connection pool to the origin.

    Args:
        path: Of its socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def read(self, key: str) -> dict[str, Any]:
        """Return the value of a key, which holds its version."""
        return {"version": await self._ask("read", key), "pad": _PAD}

    async def write(self, key: str) -> int:
        """Make the key's version one higher; return it."""
        return int(await self._ask("write", key))

    async def reads(self) -> list[tuple[float, str]]:
        """Return when each read since the last call of this began, and of what key."""
        return [(at, key) for at, key in await self._ask("reads", "")]

    async def _ask(self, verb: str, key: str) -> Any:
        if not self._idle:
            self._idle.append(await asyncio.open_unix_connection(self._path, limit=_LONGEST_LINE))
        reader, writer = self._idle.pop()
        writer.write(json.dumps([verb, key]).encode() + b"\n")
        answer = json.loads(await reader.readline())
        self._idle.append((reader, writer))
        return answer

    async def close(self) -> None:
        """Close the connections that are not in use."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


class Loader(Database):
    """The same as a plug-in of a node."""

    async def load(self, key: str) -> dict[str, Any]:
        """Return the value of a key."""
        return await self.read(key)


@contextlib.asynccontextmanager
async def database(folder: Path) -> AsyncIterator[str]:
    """Start the origin; yield the path of its socket."""
    path = str(folder / "origin.sock")
    command = [sys.executable, "-m", "tests.bench.policies.origin", path]
    async with spawn("origin", command, logs=folder) as child:
        await child.read(_START_S)
        draining = asyncio.create_task(child.drain())
        try:
            yield path
        finally:
            draining.cancel()


async def _serve(path: str) -> None:
    versions: Counter[str] = Counter()
    reads: list[tuple[float, str]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            verb, key = json.loads(line)
            said: object
            if verb == "read":
                said = versions[key]
                reads.append((time.monotonic(), key))
                await asyncio.sleep(LATENCY_S)
            elif verb == "write":
                versions[key] += 1
                said = versions[key]
            else:
                said = list(reads)
                reads.clear()
            writer.write(json.dumps(said).encode() + b"\n")
        writer.close()

    server = await asyncio.start_unix_server(answer, path)
    print(json.dumps({"ready": True}), flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(sys.argv[1]))
