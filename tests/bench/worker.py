"""A contender's own process: opened once, told "go" once per round, gone at the end of its input.

One JSON object per line on stdin and stdout.
"""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import asdict
from typing import Any

from tests.bench.contenders import Contender, Settings
from tests.bench.orders import orders, run, say

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
    contender = _make(kind, settings)
    await contender.open()
    try:
        say(ready=kind)
        async for order in orders():
            say(**await _obey(contender, order))
    finally:
        await contender.close()


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    uvloop = spec.pop("uvloop")
    run(_main(spec.pop("kind"), Settings(**spec)), uvloop=uvloop)
