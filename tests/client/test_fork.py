"""Clients in a forked child: refused at once, by both kinds of client, and untouched in the parent."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from cachenode.server import Server

SCRIPT = r'''
import asyncio, json, os, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what is tried
address, kind = sys.argv[1:]

def in_child(call):
    """Fork, call in the child, and return what came of it and how long it took."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        began = time.monotonic()
        try:
            outcome = repr(call())
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        os.write(writer, json.dumps([outcome, time.monotonic() - began]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = json.loads(pipe.read())
    os.wait()
    return told

if kind == "blocking":
    from cachenode_client.blocking import CacheClient
    with CacheClient(address, timeout_s=10, on_error="miss") as cache:
        unused = CacheClient(address)
        cache.set("k", "v")
        children = [in_child(lambda: cache.get("k")), in_child(lambda: cache.set_many({"k": 1})),
                    in_child(lambda: unused.get("k"))]
        parent = cache.get("k")
else:
    from cachenode_client import CacheClient
    def alone(cache, method, *args):
        """Drive a call to its end without a loop: it must not need one to say that it will not work."""
        coroutine = getattr(cache, method)(*args)
        asyncio._set_running_loop(None)
        return asyncio.run(coroutine)
    async def main():
        async with CacheClient(address, timeout_s=10, on_error="miss") as cache:
            await cache.set("k", "v")
            children = [in_child(lambda: alone(cache, "get", "k")), in_child(lambda: alone(cache, "set", "k", 1)),
                        in_child(lambda: alone(cache, "get_many", ["k"]))]
            return children, await cache.get("k")
    children, parent = asyncio.run(main())
print(json.dumps({"children": children, "parent": parent}))
'''


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
async def test_forked_client_is_refused(server: Server, tmp_path: Path, kind: str) -> None:
    """A call in a forked child raises ForkedClient at once, under any `on_error`; the parent's client goes on."""
    script = tmp_path / "forks.py"
    script.write_text(SCRIPT, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        server.address,
        kind,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    told = json.loads(output)
    assert told["parent"] == "v"
    assert len(told["children"]) == 3
    for outcome, seconds in told["children"]:
        assert outcome.startswith("ForkedClient: The client was used before this process was forked")
        assert seconds < 1
