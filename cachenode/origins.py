"""For authors of loaders: what a loader of a node may return besides a value.

A loader reads the origin of a namespace for the whole cluster::

    async def load_user(key: str) -> object:
        row = await db.fetch_user(int(key.removeprefix("user:")))
        return ABSENT if row is None else Loaded(row, ttl_s=600, tags=["users"])

It is named in the configuration of the nodes: ``loader = "shop.loaders:load_user"`` in ``[origins.users]``. It may be
an async function, or a plain one, which then runs in a thread. What it raises reaches those who wait as `LoadFailed`
with the name of the exception's type, and is never kept as a value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cachenode_client import ABSENT

__all__ = ["ABSENT", "Loaded"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A value with what else its origin knows of it.

    Attributes:
        value: Anything that the SDK's default serializer takes.
        ttl_s: Its life in seconds, if that is not the namespace's; infinite for no end.
        tags: Names under which it can be invalidated together with others.
        keep: False hands it to those who wait and stores it nowhere.
    """

    value: object
    ttl_s: float | None = None
    tags: Iterable[str] = ()
    keep: bool = True
