"""Client processes whose callers all want one key, and load it if they must."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

__all__ = ["answers", "go", "loads", "processes"]

CALLER = """
import asyncio, json, os, sys
from cachenode_client import CacheClient, CacheError

async def main(address, key, callers, load_s, log):
    async def load():
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\\n")
        await asyncio.sleep(load_s)
        return {"loaded_by": os.getpid()}

    async with CacheClient(address) as client:
        await client.view()
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        calls = [client.get_or_load(key, load, timeout_s=20, lease_s=20) for _ in range(callers)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        found = [result["loaded_by"] if isinstance(result, dict) else type(result).__name__ for result in results]
        print(json.dumps(found), flush=True)

address, key, callers, load_s, log = sys.argv[1:]
asyncio.run(main(address, key, int(callers), float(load_s), log))
"""


@contextlib.asynccontextmanager
async def processes(
    count: int, address: str, key: str, callers: int, load_s: float, log: Path
) -> AsyncIterator[list[Process]]:
    """Client processes that wait for a line to begin; killed in the end."""
    arguments = [sys.executable, "-c", CALLER, address, key, str(callers), str(load_s), str(log)]
    started = [await asyncio.create_subprocess_exec(*arguments, stdin=PIPE, stdout=PIPE) for _ in range(count)]
    try:
        for process in started:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        yield started
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def go(process: Process) -> None:
    """Let a process begin."""
    assert process.stdin is not None
    process.stdin.write(b"\n")


async def answers(process: Process) -> list[int | str]:
    """Return what the callers of a process got."""
    assert process.stdout is not None
    found: list[int | str] = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
    return found


def loads(log: Path) -> list[int]:
    """Return the processes that have loaded, in order."""
    return [int(line) for line in log.read_text().split()] if log.exists() else []
