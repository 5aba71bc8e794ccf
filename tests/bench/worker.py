"""A contender's own process: opened once, told "go" once per round, gone at the end of its input.

One JSON object per line on stdin and stdout. The event loop keeps turning between rounds, so that a client's
heartbeats do, too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from dataclasses import asdict
from typing import Any

from tests.bench.contenders import Contender, Settings

__all__: list[str] = []


def _make(kind: str, settings: Settings) -> Contender:
    # Each process imports its own side only: a broken SDK must not keep a peer from running.
    # And grpc is imported by those who use it only, in the order that a program of a user would have.
    if kind.startswith("Ours"):
        from tests.bench import ours as home
    elif kind.startswith("Grpc"):
        from tests.bench import grpc_clients as home  # type: ignore[no-redef]
    else:
        from tests.bench import contenders as home  # type: ignore[no-redef]
    contender: Contender = getattr(home, kind)(settings)
    return contender


async def _obey(contender: Contender, order: dict[str, Any]) -> dict[str, Any]:
    match order["do"]:
        case "run":
            gc.collect()
            measured = await contender.run(order["seconds"])
            return asdict(measured) | {"keys": measured.calls * contender.keys_per_call}
        case "load":
            return {"present": await contender.load(order["entries"])}
        case "layers":
            return {"layers": await contender.layers(order["sample"])}  # type: ignore[attr-defined]
        case other:
            raise ValueError(f"unknown order {other}")


async def _main(kind: str, settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    contender = _make(kind, settings)
    await contender.open()
    try:
        print(json.dumps({"ready": kind}), flush=True)
        while line := await orders.readline():
            print(json.dumps(await _obey(contender, json.loads(line))), flush=True)
    finally:
        await contender.close()


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    if spec.pop("uvloop"):
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_main(spec.pop("kind"), Settings(**spec)))
    else:
        asyncio.run(_main(spec.pop("kind"), Settings(**spec)))
