"""What an entry costs: growth of the server process's resident memory per entry, values and bookkeeping included."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.bench import servers
from tests.bench.processes import BenchError, spawn_worker
from tests.bench.servers import Server

__all__ = ["bytes_per_entry", "resident_bytes"]

_SETTLE_STEPS = 15
_SETTLE_STEP_S = 0.2
_SETTLED_BYTES = 64 * 1024
_LOAD_S = 180.0


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"process {pid} has no resident memory")


async def _settled_bytes(pid: int) -> int:
    """Return the resident memory once two looks in a row agree (or after three seconds)."""
    before = resident_bytes(pid)
    for _ in range(_SETTLE_STEPS):
        await asyncio.sleep(_SETTLE_STEP_S)
        now = resident_bytes(pid)
        if abs(now - before) < _SETTLED_BYTES:
            return now
        before = now
    return before


async def _fill(server: Server, loader: str, entries: int, *, logs: Path) -> float:
    settings = {"address": server.address, "namespace": "plain"}
    async with spawn_worker("load-memory", loader, settings, logs=logs, uvloop=False) as worker:
        await worker.read(30.0)
        # Connected already, so that buffers of the first connection are on neither side's bill.
        before = await _settled_bytes(server.pid)
        present = (await worker.ask({"do": "load", "entries": entries}, _LOAD_S))["present"]
        if present != entries:
            raise BenchError(f"{server.name} holds {present} of {entries} entries")
    return (await _settled_bytes(server.pid) - before) / entries


async def bytes_per_entry(who: str, entries: int, *, logs: Path) -> float:
    """Start a fresh server, fill it and return its growth per entry.

    Args:
        who: "ours", or the path of a Redis-like server.
        entries: How many to store.
        logs: Where its messages go.
    """
    if who == "ours":
        async with servers.node("node-memory", logs=logs, memory="1GiB") as server:
            return await _fill(server, "OursGet", entries, logs=logs)
    async with servers.redis_like("redis-memory", logs=logs, binary=who) as server:
        return await _fill(server, "RedisBlockingGet", entries, logs=logs)
