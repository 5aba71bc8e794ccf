"""For authors of loaders and sinks: what they return, take and raise.

A loader reads the origin of a namespace for the whole cluster::

    async def load_user(key: str) -> object:
        row = await db.fetch_user(int(key.removeprefix("user:")))
        return ABSENT if row is None else Loaded(row, ttl_s=600, tags=["users"])

It is named in the configuration of the nodes: ``loader = "shop.loaders:load_user"`` in ``[origins.users]``. It may be
an async function, or a plain one, which then runs in a thread. What it raises reaches those who wait as `LoadFailed`
with the name of the exception's type, and is never kept as a value.

A sink writes the origin of a namespace with ``write = "through"``::

    async def save_user(write: Write) -> None:
        number = int(write.key.removeprefix("user:"))
        if write.value is ABSENT:
            await db.delete_user(number, unless_newer_than=write.version)
        else:
            await db.save_user(number, write.value, write.version)

It is named like a loader: ``sink = "shop.loaders:save_user"``. It may get the same write twice, so it must not add up.
Of one key it gets one write at a time, in the order of their versions; but a call that was not answered in time may
come through late, which a sink that keeps the version can refuse. What it raises leaves open whether it has written,
except `OriginError`, which says so.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from cachenode.errors import OriginError
from cachenode_client import ABSENT, Loaded, Parent

__all__ = ["ABSENT", "Loaded", "OriginError", "Parent", "Write"]


class Write(NamedTuple):
    """What a sink is to write.

    Attributes:
        key: As text, or as bytes if it is none.
        value: What a client has written, without tags; `ABSENT` where the key is to be removed.
        version: Higher than those of the key's earlier writes: who keeps it can refuse what comes late or twice.
    """

    key: str | bytes
    value: Any
    version: int
