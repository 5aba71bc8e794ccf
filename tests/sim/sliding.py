"""Sliding lives: keys that are read all the time and written seldom, and when they must be gone all the same.

- **C5** Where nothing is broken a value is not read later than `max_life_s` after its write, however often it was read.
- **C3, C4** hold for these keys as for all others (`tests.sim.checker`): a read that gives a value a later end brings
  nothing back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tests.sim.checker import Violation
from tests.sim.history import History, Kind

if TYPE_CHECKING:
    from tests.sim.workload import Client

__all__ = ["SLIDING", "SLIDING_POLICY", "check_sliding", "read", "write"]

SLIDING = "sliding"
_MAX_LIFE_S = 1.5
SLIDING_POLICY = {"sliding": True, "ttl_s": 0.6, "max_life_s": _MAX_LIFE_S}
_DRIFT = 1.11
_SLACK_S = 0.15


async def read(client: Client, key: str) -> None:
    """Read a key, which lets it live on."""
    timeout_s = client.rng.choice(client.mix.read_timeouts_s)
    op = client.op(Kind.READ, "get", key, timeout_s)
    op.value = await client.do([op], client.cache.get(key, timeout_s=timeout_s, namespace=SLIDING))


async def write(client: Client, key: str) -> None:
    """Write or remove a key."""
    timeout_s, calls = client.rng.choice(client.mix.write_timeouts_s), client.cache
    more: dict[str, Any] = {"timeout_s": timeout_s, "namespace": SLIDING}
    if client.rng.random() < 0.8:
        value = client.value(key)
        op = client.op(Kind.WRITE, "set", key, timeout_s, value=value)
        op.version = await client.do([op], calls.set(key, value, **more)) or 0
    else:
        op = client.op(Kind.REMOVE, "delete", key, timeout_s)
        await client.do([op], calls.delete(key, **more))


def check_sliding(history: History, *, calm: bool) -> Iterator[Violation]:
    """Yield reads of what has lived too long; only asked where nothing was broken.

    Who has lost an entry from memory, or its key, does not know when the life of what L2 has began.
    """
    if not calm:
        return
    ops = [op for op in history.ops if op.key[0] == "y"]
    ended = {op.value: op.ended for op in ops if op.kind is Kind.WRITE}
    for op in ops:
        if op.kind is Kind.READ and op.done and op.value in ended:
            over_s = op.began - ended[op.value] - _MAX_LIFE_S * _DRIFT - _SLACK_S
            if over_s > 0:
                yield Violation("C5", f"{op}\n    has lived {over_s:.3f} s too long", op.began, ended[op.value], op.key)
