"""Has a node do what makes values untrue, again where that may help: doing it twice does no harm."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cachenode.core.entries import Batch, BatchResult, Failure
from cachenode_api.reasons import RETRYABLE, Reason

if TYPE_CHECKING:
    from cachenode.node.service import Node

__all__ = ["until_done"]

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5
_AGAIN = RETRYABLE | {Reason.UNCERTAIN, Reason.REGIONS_NOT_TOLD}
"""Whatever may have been done already can be done once more."""


async def until_done(node: Node, batch: Batch, timeout_s: float) -> tuple[list[int], Failure | None]:
    """Have a batch executed until it is done, or will never be.

    Args:
        node: Executes it.
        batch: An INVALIDATE or a BARRIER.
        timeout_s: Of one attempt. How often it is made is limited by whoever waits for this.

    Returns:
        The versions, and why it will never be done; None if it was.
    """
    pause_s, batch.timeout_s = _FIRST_PAUSE_S, timeout_s
    while True:
        parts: list[BatchResult] = []
        rest = node.execute(batch, parts.append)
        if rest is not None:
            await rest
        failures = [failure for part in parts for failure in part.failures.values()]
        if not failures:
            return [version for part in parts for version in part.versions], None
        for failure in failures:
            if failure.reason not in _AGAIN:
                return [], failure
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
