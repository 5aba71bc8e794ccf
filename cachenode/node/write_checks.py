"""What of a batch may be written at all: the sizes of its keys, values and tags, and the namespace's room.

Sizes are judged where the batch comes in, before it is passed on to owners; the room by the owner, who has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cachenode.core.entries import Batch, Failure, Operation
from cachenode.core.failures import bad_key, over_quota, too_large
from cachenode_api.errors import InvalidTags
from cachenode_api.keys import MAX_KEY_BYTES
from cachenode_api.reasons import Reason
from cachenode_api.records import TAGGED
from cachenode_api.tags import split_tags

if TYPE_CHECKING:
    from cachenode.core.limits import Limits
    from cachenode.core.quotas import Quota
    from cachenode.node.namespaces import Namespace

__all__ = ["beyond_quota", "check"]

_ADD = frozenset({Operation.SET, Operation.INCR})
_STORE = _ADD | {Operation.FULFILL}
_COUNTER_BYTES = 20
"""A counter's digits at most."""


def check(batch: Batch, namespace: Namespace, most: Limits) -> dict[int, Failure]:
    """Return the failures of what could not be stored as it is."""
    longest = most.key_bytes if batch.operation in _STORE else MAX_KEY_BYTES
    failures = {i: bad_key(len(key), longest) for i, key in enumerate(batch.keys) if not 0 < len(key) <= longest}
    limit = namespace.policy.max_value_bytes
    for index, value in enumerate(batch.values):
        if len(value) > limit and index not in failures:
            failures[index] = too_large(len(value), limit)
    for index, flags in enumerate(batch.flags if batch.values else ()):
        if flags & TAGGED and index not in failures and (text := _bad_tags(batch.values[index], most.tags)):
            failures[index] = Failure(Reason.INVALID_REQUEST, text)
    return failures


def beyond_quota(batch: Batch, quota: Quota, own: Sequence[int], now: float) -> dict[int, Failure]:
    """Return failures for what a SET or INCR brings for which there is no room; a load is judged when it lands."""
    if batch.operation not in _ADD:
        return {}
    room = quota.room(now)
    sizes = list(map(len, batch.values)) or [_COUNTER_BYTES] * len(batch.keys)
    refused = {index: text for index in own if (text := room.refusal(batch.keys[index], sizes[index]))}
    return {index: over_quota(text) for index, text in refused.items()}


def _bad_tags(value: bytes, most: int) -> str:
    """Return what is wrong with the tags before a value, empty if nothing."""
    try:
        count = len(split_tags(value)[0])
    except InvalidTags as error:
        return str(error)
    return "" if count <= most else f"tags: {count:,} exceed the limit of {most:,}"
