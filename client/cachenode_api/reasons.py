"""Reasons: why an operation failed, as stable names that both ends, logs and metrics use.

The numbers are those of the wire enum ``cachenode.v1.Reason``; a test compares them. A reason says whether the same
call may be sent again, and which gRPC status a unary call ends with (by name, so that this module needs no grpc).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

__all__ = ["GRPC_CODES", "RETRYABLE", "Reason", "detail_at"]


class Reason(IntEnum):
    """Why an operation failed; 0 means that it did not."""

    OK = 0
    INVALID_KEY = 1
    VALUE_TOO_LARGE = 2
    INVALID_TTL = 3
    UNKNOWN_NAMESPACE = 4
    INVALID_REQUEST = 5
    NOT_OWNER = 6
    OWNER_UNREACHABLE = 7
    DEADLINE_EXCEEDED = 8
    OVERLOADED = 9
    NOT_READY = 10
    INTERNAL = 11
    SUPERSEDED = 12
    UNCERTAIN = 13
    LOAD_FAILED = 14
    CONDITION_FAILED = 15
    NOT_A_COUNTER = 16
    SINK_FAILED = 17
    SINK_UNAVAILABLE = 18
    BACKLOG_FULL = 19
    QUEUE_UNAVAILABLE = 20
    UNKNOWN_EVENT = 21
    EVENT_TOO_BROAD = 22
    JOB_RUNNING = 24
    QUOTA_EXCEEDED = 25
    UNAUTHENTICATED = 28
    PERMISSION_DENIED = 29
    REGIONS_NOT_TOLD = 35
    REGION_REFUSED = 36


RETRYABLE = frozenset(
    {
        Reason.NOT_OWNER,
        Reason.OWNER_UNREACHABLE,
        Reason.OVERLOADED,
        Reason.NOT_READY,
        Reason.SUPERSEDED,
        Reason.SINK_UNAVAILABLE,
        Reason.BACKLOG_FULL,
        Reason.QUEUE_UNAVAILABLE,
    }
)
"""Reasons after which the same call may succeed: nothing was done."""

GRPC_CODES = {
    Reason.INVALID_KEY: "INVALID_ARGUMENT",
    Reason.VALUE_TOO_LARGE: "INVALID_ARGUMENT",
    Reason.INVALID_TTL: "INVALID_ARGUMENT",
    Reason.UNKNOWN_NAMESPACE: "NOT_FOUND",
    Reason.INVALID_REQUEST: "INVALID_ARGUMENT",
    Reason.NOT_OWNER: "UNAVAILABLE",
    Reason.OWNER_UNREACHABLE: "UNAVAILABLE",
    Reason.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    Reason.OVERLOADED: "RESOURCE_EXHAUSTED",
    Reason.NOT_READY: "UNAVAILABLE",
    Reason.INTERNAL: "INTERNAL",
    Reason.SUPERSEDED: "ABORTED",
    Reason.UNCERTAIN: "UNKNOWN",
    Reason.LOAD_FAILED: "FAILED_PRECONDITION",
    Reason.CONDITION_FAILED: "FAILED_PRECONDITION",
    Reason.NOT_A_COUNTER: "FAILED_PRECONDITION",
    Reason.SINK_FAILED: "FAILED_PRECONDITION",
    Reason.SINK_UNAVAILABLE: "UNAVAILABLE",
    Reason.BACKLOG_FULL: "RESOURCE_EXHAUSTED",
    Reason.QUEUE_UNAVAILABLE: "UNAVAILABLE",
    Reason.UNKNOWN_EVENT: "NOT_FOUND",
    Reason.EVENT_TOO_BROAD: "INVALID_ARGUMENT",
    Reason.QUOTA_EXCEEDED: "RESOURCE_EXHAUSTED",
    Reason.JOB_RUNNING: "ALREADY_EXISTS",
    Reason.UNAUTHENTICATED: "UNAUTHENTICATED",
    Reason.PERMISSION_DENIED: "PERMISSION_DENIED",
    Reason.REGIONS_NOT_TOLD: "UNKNOWN",
    Reason.REGION_REFUSED: "FAILED_PRECONDITION",
}


def detail_at(details: Sequence[str], at: int) -> str:
    """Return the text of one failed key from a reply's column of texts: a single one holds for all.

    Raises:
        IndexError: The column is too short.
    """
    return details[0 if len(details) == 1 else at]
