"""The failures of single keys, each with its stable reason and a text for people that holds neither key nor value."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cachenode.core.entries import Batch, BatchResult, Failure
from cachenode_api.keys import MAX_KEY_BYTES
from cachenode_api.reasons import Reason

__all__ = [
    "BACKLOG_FULL",
    "BAD_ORDER",
    "CONDITION_FAILED",
    "JOB_RUNNING",
    "LATE",
    "MAYBE_DIRTY",
    "NOT_A_COUNTER",
    "NOT_OWNER",
    "NOT_READY",
    "NO_SLIDING",
    "ORDER_TOO_LATE",
    "REGIONS_NOT_TOLD",
    "SUPERSEDED",
    "UNANSWERABLE",
    "UNCERTAIN",
    "UNKNOWN_NAMESPACE",
    "UNREACHABLE",
    "bad_dependencies",
    "bad_key",
    "bad_selector",
    "failed",
    "load_failed",
    "load_paused",
    "over_quota",
    "over_rate",
    "overloaded",
    "queue_unavailable",
    "queue_uncertain",
    "sink_failed",
    "sink_uncertain",
    "too_large",
    "too_many",
]

_SLOW_DOWN_MS = 250
_MAX_TEXT = 150
"""Of what an origin says: the rest of the sentence fits in what may travel."""

NO_SLIDING = Failure(Reason.INVALID_REQUEST, "slide: values of this namespace are loaded anew before their end")
BAD_ORDER = Failure(Reason.INVALID_REQUEST, "operation: for nodes only")
ORDER_TOO_LATE = Failure(Reason.SUPERSEDED, "a barrier that was ordered later has come first")
NOT_OWNER = Failure(Reason.NOT_OWNER, "this node does not own the key in its view")
NOT_READY = Failure(Reason.NOT_READY, "the node has no place in the cluster yet, or is leaving it")
REGIONS_NOT_TOLD = Failure(
    Reason.REGIONS_NOT_TOLD,
    "done here, but what keeps the word for other regions does not take it now; they are told if this node lives",
)
UNKNOWN_NAMESPACE = Failure(Reason.UNKNOWN_NAMESPACE, "namespace: the node has none of this name")
LATE = Failure(Reason.DEADLINE_EXCEEDED, "the time given for the call ran out inside the cluster")
CONDITION_FAILED = Failure(Reason.CONDITION_FAILED, "the key's value is not of the version that the write asks for")
JOB_RUNNING = Failure(Reason.JOB_RUNNING, "another job warms this namespace; wait for its end, or cancel it")
NOT_A_COUNTER = Failure(Reason.NOT_A_COUNTER, "the value is not a whole number, or would exceed 64 bits")
SUPERSEDED = Failure(Reason.SUPERSEDED, "a newer owner of the key has written meanwhile")
UNANSWERABLE = Failure(Reason.OWNER_UNREACHABLE, "the key's owner cannot be reached, and L2 cannot answer in its place")
UNREACHABLE = Failure(Reason.OWNER_UNREACHABLE, "the key's owner cannot be reached from this node")
UNCERTAIN = Failure(Reason.UNCERTAIN, "the key's owner was lost after the write had been sent to it")
BACKLOG_FULL = Failure(
    Reason.BACKLOG_FULL,
    "as many keys of the namespace wait for the origin as may; retry after some of them are written, 1 s or more from"
    " now, or look at: cachenode writebehind status",
)
MAYBE_DIRTY = Failure(
    Reason.QUEUE_UNAVAILABLE, "it is not known whether a write of the key waits for the origin; ask again in a moment"
)


def queue_unavailable(why: str) -> Failure:
    """Return the failure of a write behind that cannot be queued: nothing was done."""
    return Failure(Reason.QUEUE_UNAVAILABLE, f"the write-behind queue takes no writes: {why}")


def queue_uncertain(why: str) -> Failure:
    """Return the failure of a write behind that may have been queued."""
    return Failure(Reason.UNCERTAIN, f"the write may not be kept safely: {why}")


def overloaded(retry_after_ms: int) -> Failure:
    """Return the failure of work that is refused because there is too much of it."""
    text = f"the node has too much to do; again in {retry_after_ms:,} ms"
    return Failure(Reason.OVERLOADED, text, retry_after_ms)


def over_rate(per_s: float, wait_s: float) -> Failure:
    """Return the failure of what an identity asks for beyond its rate."""
    wait_ms = max(1, math.ceil(wait_s * 1_000))
    text = f"rate: more than {per_s:,g} keys a second of one token or certificate; again in {wait_ms:,} ms"
    return Failure(Reason.OVERLOADED, text, wait_ms)


def over_quota(text: str) -> Failure:
    """Return the failure of a value for which its namespace's quota leaves no room."""
    return Failure(Reason.QUOTA_EXCEEDED, text)


def too_large(size: int, limit: int) -> Failure:
    """Return the failure of a value over its namespace's limit."""
    return Failure(
        Reason.VALUE_TOO_LARGE,
        f"value: {size:,} bytes exceed the limit of {limit:,} bytes of the namespace; store less, or raise its "
        "max_value_bytes",
    )


def bad_key(size: int, limit: int = MAX_KEY_BYTES) -> Failure:
    """Return the failure of a key that is empty or too long."""
    return Failure(Reason.INVALID_KEY, f"key: {size:,} bytes, must be 1 to {limit:,} bytes")


def too_many(what: str, count: int, limit: int) -> Failure:
    """Return the failure of what would exceed a limit of what one caller, or all together, may have at a time."""
    return Failure(Reason.OVERLOADED, f"{what}: {count:,} exceed the limit of {limit:,}; slow down", _SLOW_DOWN_MS)


def bad_selector(text: str) -> Failure:
    """Return the failure of an invalidation whose selector cannot be used."""
    return Failure(Reason.INVALID_REQUEST, text)


def bad_dependencies(text: str) -> Failure:
    """Return the failure of an entry that cannot depend on what it is said to."""
    return Failure(Reason.INVALID_REQUEST, text)


def load_failed(text: str) -> Failure:
    """Return the failure of a key whose value another caller could not load."""
    return Failure(Reason.LOAD_FAILED, text)


def load_paused(pause_s: float) -> Failure:
    """Return the failure of a key whose last load failed a moment ago."""
    return load_failed(f"the last load failed; the next may begin in {pause_s:.1f} s")


def sink_failed(text: str, *, again: bool) -> Failure:
    """Return the failure of a write that the origin has not taken; `again` if it may take it later."""
    reason = Reason.SINK_UNAVAILABLE if again else Reason.SINK_FAILED
    return Failure(reason, f"the origin has not taken the write: {text[:_MAX_TEXT]}")


def sink_uncertain(text: str) -> Failure:
    """Return the failure of a write that the origin may have taken or not."""
    return Failure(Reason.UNCERTAIN, f"the origin may or may not have taken the write: {text[:_MAX_TEXT]}")


def failed(batch: Batch, failures: Mapping[int, Failure]) -> BatchResult:
    """Return the result for keys of a batch that have failed, given by their positions."""
    result = BatchResult(indices=list(failures), failures=dict(enumerate(failures.values())))
    if batch.operation.gives_records:
        result.records = [b""] * len(failures)
    else:
        result.versions = [0] * len(failures)
    return result
