"""What people do with dead letters: look at them, have them written after all, or drop them.

A dead letter that is queued again has its old version, so an origin that keeps versions takes it only if it has nothing
newer. What was loaded in between is older: it is invalidated, and whoever reads the key gets the queued value.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import TYPE_CHECKING

from cachenode.core.entries import Batch, Operation
from cachenode.core.queued import DeadLetter

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node
    from cachenode.node.write_behind import WriteBehind

__all__ = ["discard", "replay"]

_AT_ONCE = 200


async def replay(node: Node, behind: WriteBehind, namespace: Namespace, ids: Collection[bytes] = ()) -> tuple[int, int]:
    """Queue dead letters again. Return how many were, and how many were dropped since their key has a newer write.

    Args:
        node: Invalidates what the cache has of their keys.
        behind: The queue.
        namespace: Whose letters.
        ids: Which; none means all that there are when this begins.

    Raises:
        L2Unavailable: The queue does not answer; part may have been done.
    """
    queued = outdated = 0
    async for letters in _chosen(behind, namespace, ids):
        done = await behind.queue.replay(namespace.policy.name, letters)
        queued += done.count(True)
        outdated += done.count(False)
        keys = [letter.key for letter, again in zip(letters, done, strict=True) if again]
        if keys:
            rest = node.execute(Batch(Operation.INVALIDATE, namespace.policy.name, keys), lambda _: None)
            if rest is not None:
                await rest
    return queued, outdated


async def discard(behind: WriteBehind, namespace: Namespace, ids: Collection[bytes] = ()) -> int:
    """Remove dead letters for ever, all if none are named. Return how many there were.

    Raises:
        L2Unavailable: As `replay`.
    """
    return sum(
        [
            await behind.queue.discard(namespace.policy.name, letters)
            async for letters in _chosen(behind, namespace, ids)
        ]
    )


async def _chosen(behind: WriteBehind, namespace: Namespace, ids: Collection[bytes]) -> AsyncIterator[list[DeadLetter]]:
    """Yield the letters that are meant, some at a time; not those that come meanwhile."""
    name, after, wanted = namespace.policy.name, b"", set(ids)
    left = (await behind.queue.status(name)).dead
    while left > 0:
        letters = await behind.queue.dead_letters(name, after, min(left, _AT_ONCE))
        if not letters:
            return
        left, after = left - len(letters), letters[-1].id
        chosen = [letter for letter in letters if not wanted or letter.id in wanted]
        if chosen:
            yield chosen
