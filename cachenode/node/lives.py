"""How long what is written lives: as the batch says, else as the key is wanted, else as its namespace has it.

Lives are spread where the namespace wants that, so that what was written together does not end together. The order
matters: who needs the longest life that a value can have (it is linked to what it depends on for so long) takes it
before it is spread.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from cachenode.core.entries import Batch
from cachenode.core.renewals import spread_ttl
from cachenode_api.records import NO_TTL_MS, NOT_KEPT_MS

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node

__all__ = ["longest", "ttls"]


def ttls(node: Node, batch: Batch, namespace: Namespace, indices: Collection[int]) -> list[float]:
    """Return the lives that a batch gives to some of its keys, in seconds."""
    lives = longest(node, batch, namespace, indices)
    if jitter := namespace.policy.ttl_jitter:
        lives = [spread_ttl(ttl_s, jitter, random.random()) for ttl_s in lives]  # noqa: S311 - not a secret
    return lives


def longest(node: Node, batch: Batch, namespace: Namespace, indices: Collection[int]) -> list[float]:
    """Return the lives that a batch gives before they are spread."""
    default, column = namespace.policy.ttl_s, batch.ttls_ms
    if not column:
        lives = [default] * len(indices)
    elif len(column) == 1:
        lives = [_seconds(column[0], default)] * len(indices)
    else:
        lives = [_seconds(column[index], default) for index in indices]
    if namespace.demand is not None and namespace.demand.gives_ttls:
        lives = _adapted(node, batch, namespace, indices, lives)
    return lives


def _adapted(
    node: Node, batch: Batch, namespace: Namespace, indices: Collection[int], lives: Sequence[float]
) -> list[float]:
    """Return lives with those that the batch does not give by how much the keys are wanted."""
    column = batch.ttls_ms
    given = [column[0 if len(column) == 1 else index] if column else 0 for index in indices]
    keys = [batch.keys[index] for index, ttl_ms in zip(indices, given, strict=True) if not ttl_ms]
    adapted = iter(namespace.adapted(keys, node.clock.now()))
    return [ttl_s if ttl_ms else next(adapted) for ttl_s, ttl_ms in zip(lives, given, strict=True)]


def _seconds(ttl_ms: int, default: float) -> float:
    if ttl_ms in {0, NOT_KEPT_MS}:
        return default
    return math.inf if ttl_ms == NO_TTL_MS else ttl_ms / 1_000
