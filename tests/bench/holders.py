"""A process of clients with near caches that hold what they are told to hold.

Told over a loopback connection, one JSON list of keys per line, by whoever is about to invalidate them: an answer says
that every client here serves all of them from its near cache, and how many copies were invalidated here so far.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from cachenode_client import CacheClient
from tests.bench.orders import orders, run, say
from tests.bench.workload import VALUE

__all__: list[str] = []

_TIMEOUT_S = 10.0
_CONNECTING = 25
_LOOKS = 50
_LOOK_S = 0.05


async def _hold(client: CacheClient, keys: list[str]) -> int:
    """Read keys until all are near hits; return how many copies were invalidated so far."""
    for look in range(_LOOKS if keys else 0):
        before = client.stats()["near_hits"]
        if await client.get_many(keys) != dict.fromkeys(keys, VALUE):
            raise RuntimeError("what is to be invalidated is not there")
        if client.stats()["near_hits"] == before + len(keys):
            break
        if look > 1:  # no lease as yet
            await asyncio.sleep(_LOOK_S)
    else:
        if keys:
            raise RuntimeError("what was read is not held")
    return client.stats()["near_invalidations"]


async def _main(spec: dict[str, Any]) -> None:
    address = spec["address"]
    clients = [CacheClient(address, timeout_s=_TIMEOUT_S, client_name="holder") for _ in range(spec["clients"])]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            counts = await asyncio.gather(*(_hold(client, json.loads(line)) for client in clients))
            writer.write(b"%d\n" % sum(counts))

    for first in range(0, len(clients), _CONNECTING):
        await asyncio.gather(*(client.get("nothing") for client in clients[first : first + _CONNECTING]))
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 22)
    say(port=server.sockets[0].getsockname()[1])
    try:
        async for _ in orders():
            pass
    finally:
        await asyncio.gather(*(client.aclose() for client in clients))


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    run(_main(told), uvloop=told["uvloop"])
