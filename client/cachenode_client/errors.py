"""Errors of the client.

::

    CacheError                   root; `reason` is a stable name, `retryable`: the same call may succeed later
    ├── InvalidArgument          also ValueError: what was passed in cannot be used
    │   ├── InvalidKey           empty, too long, of a wrong type
    │   ├── InvalidTtl           not a positive duration
    │   ├── InvalidNamespace     outside the allowed form, or not configured on the nodes
    │   ├── ValueTooLarge        larger than the client or the namespace allows
    │   └── Unserializable       also TypeError: would not come back as what it was
    ├── DecodeError              a stored value cannot be turned back into an object
    ├── CacheTimeout             also TimeoutError: the time given for the call is over
    ├── CacheUnavailable         no node, or not the owner of the key, can be reached; retryable
    ├── LoadFailed               the caller that was to load the value could not
    ├── SinkFailed               the origin has not taken the write; retryable if it may later
    ├── Overloaded               a node refuses work because too much is waiting; retryable
    ├── QuotaExceeded            the namespace may take no more memory, or hold no more keys
    ├── PermissionDenied         the client's token is not known, or does not allow this
    ├── ClientClosed             the client was used after it was closed
    ├── ForkedClient             the client was used in a process forked after it connected
    ├── ManyFailed               some keys of a call with many failed; holds what was done
    └── NodeError                a node reported anything else

No text names a key or a value: texts end up in logs. They name fields, limits, sizes, types and positions.
"""

from __future__ import annotations

from typing import Any, ClassVar

from cachenode_api import errors as contract
from cachenode_api.reasons import RETRYABLE, Reason

__all__ = [
    "CacheError",
    "CacheTimeout",
    "CacheUnavailable",
    "ClientClosed",
    "DecodeError",
    "ForkedClient",
    "InvalidArgument",
    "InvalidKey",
    "InvalidNamespace",
    "InvalidTtl",
    "LoadFailed",
    "ManyFailed",
    "NodeError",
    "Overloaded",
    "PermissionDenied",
    "QuotaExceeded",
    "SinkFailed",
    "Unserializable",
    "ValueTooLarge",
    "from_contract",
    "from_reason",
    "missing_library",
]


class CacheError(Exception):
    """Root of everything that the client raises on purpose.

    Args:
        text: For people. Never holds a key or a value.
        reason: A stable name for metrics and for programs; each class has its own.
        retryable: Whether the same call may succeed later, and nothing was done; each class has its own.

    Attributes:
        reason: The stable name.
        retryable: Whether the same call may be sent again.
    """

    default_text: ClassVar[str] = "The cache operation failed."
    reason: str = "error"
    retryable: bool = False

    def __init__(self, text: str = "", *, reason: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(text or self.default_text)
        if reason is not None:
            self.reason = reason
        if retryable is not None:
            self.retryable = retryable


class InvalidArgument(CacheError, ValueError):
    """What was passed in cannot be used; nothing was sent. Correct the call."""

    default_text = "An argument is not valid."
    reason = "invalid_argument"


class InvalidKey(InvalidArgument):
    """The key is empty, too long, or neither string nor bytes."""

    default_text = "key: must be 1 to 1,024 bytes"
    reason = "invalid_key"


class InvalidTtl(InvalidArgument):
    """The time to live is not a positive number of seconds."""

    default_text = "ttl_s: must be a positive number of seconds, or math.inf for an entry that does not expire"
    reason = "invalid_ttl"


class InvalidNamespace(InvalidArgument):
    """The namespace's name is outside the allowed form, or the nodes have no such namespace."""

    default_text = "namespace: the nodes have no such namespace; use one of their configuration"
    reason = "invalid_namespace"


class ValueTooLarge(InvalidArgument):
    """The encoded value is larger than the client or the namespace allows."""

    default_text = "value: larger than its namespace allows; store less, or raise the namespace's limit"
    reason = "value_too_large"


class Unserializable(InvalidArgument, TypeError):
    """The value cannot be encoded so that it comes back as what it was."""

    default_text = "value: cannot be encoded"
    reason = "unserializable"


class DecodeError(CacheError):
    """A stored value cannot be decoded: written by another serializer, damaged, or larger than allowed."""

    default_text = "value: the stored bytes cannot be decoded"
    reason = "decode_error"


class CacheTimeout(CacheError, TimeoutError):
    """The time given for the call is over. A write may or may not have happened."""

    default_text = "The call took longer than its timeout; a write may or may not have happened."
    reason = "deadline_exceeded"


class CacheUnavailable(CacheError):
    """No node could be reached, or not the one that owns the key.

    Nothing was done if `retryable` is true. It is false after a write whose node was lost: that may or may not have
    happened.
    """

    default_text = "No node can be reached; check the client's address and that the nodes run."
    reason = "unavailable"
    retryable = True


class Overloaded(CacheError):
    """A node refused the call because too much is waiting there. Call again later, and less often.

    Attributes:
        retry_after_s: How long to wait before that, as the node says; 0 if it does not.
    """

    retry_after_s: float = 0.0
    default_text = "The node refuses work because too much is waiting; call again later, and less often."
    reason = "overloaded"
    retryable = True


class QuotaExceeded(CacheError):
    """The value does not fit in what its namespace may take on the node that owns the key; nothing was done.

    There is room again once entries have expired or were removed, or the namespace's quota is raised.
    """

    default_text = "The namespace's quota leaves no room; remove entries, or raise max_bytes or max_keys."
    reason = "quota_exceeded"


class LoadFailed(CacheError):
    """The value is not in the cache, and the caller that was to load it for all who wait could not.

    That caller itself gets what its loader raised; the others get this, with the name of the exception's type. For a
    moment after a failure the key is not loaded again.
    """

    default_text = "The value could not be loaded by the caller that was to load it."
    reason = "load_failed"


class SinkFailed(CacheError):
    """The namespace's writes go through to its origin, and that has not taken this one. The cache is as it was.

    `reason` is ``sink_failed`` if the origin has refused the write, ``sink_unavailable``, then `retryable`, if it could
    not be reached.
    """

    default_text = "The origin has not taken the write; nothing was changed."
    reason = "sink_failed"


class ClientClosed(CacheError):
    """The client was used after it was closed."""

    default_text = "The client is closed; create a new one."
    reason = "client_closed"


class ForkedClient(CacheError):
    """The client was used in a process that was forked after it had connected.

    Connections do not survive a fork: two processes would read from one socket. Nor does gRPC itself, so that a new
    client in this process need not work either: use none before the fork.
    """

    default_text = (
        "The client was used before this process was forked, which gRPC does not survive; connect only after the fork."
    )
    reason = "forked_client"


class PermissionDenied(CacheError):
    """The client's token is not known, or does not allow this, or not in this namespace."""

    default_text = "The client's token does not allow this."
    reason = "permission_denied"


class NodeError(CacheError):
    """A node reported a failure that has no class of its own; see `reason`."""

    default_text = "The node reported a failure; its log tells more."
    reason = "internal"


class ManyFailed(CacheError):
    """Some keys of a call with many failed, the others did not.

    Attributes:
        results: What was done, as the call would have returned it.
        errors: Why each other key failed.
    """

    default_text = "Some keys failed."
    reason = "many_failed"

    def __init__(self, results: dict[Any, Any], errors: dict[Any, CacheError]) -> None:
        self.results = results
        self.errors = errors
        first = next(iter(errors.values()))
        super().__init__(
            f"{len(errors):,} of {len(results) + len(errors):,} keys failed, the first one because: {first}",
            retryable=all(error.retryable for error in errors.values()),
        )

    def __reduce__(self) -> tuple[type[ManyFailed], tuple[dict[Any, Any], dict[Any, CacheError]]]:
        """Make the error survive pickling, which would pass the text to `__init__` otherwise."""
        return type(self), (self.results, self.errors)


_BY_REASON: dict[Reason, tuple[type[CacheError], str]] = {
    Reason.INVALID_KEY: (InvalidKey, ""),
    Reason.VALUE_TOO_LARGE: (ValueTooLarge, ""),
    Reason.INVALID_TTL: (InvalidTtl, ""),
    Reason.UNKNOWN_NAMESPACE: (InvalidNamespace, ""),
    Reason.INVALID_REQUEST: (
        NodeError,
        "The node does not understand the request; use the same release of cachenode and cachenode-client.",
    ),
    Reason.NOT_OWNER: (CacheUnavailable, "The key is moving between nodes; call again."),
    Reason.OWNER_UNREACHABLE: (CacheUnavailable, "The node that owns the key did not answer; call again."),
    Reason.DEADLINE_EXCEEDED: (CacheTimeout, ""),
    Reason.OVERLOADED: (Overloaded, ""),
    Reason.QUOTA_EXCEEDED: (QuotaExceeded, ""),
    Reason.UNAUTHENTICATED: (PermissionDenied, "The node does not know the client's token."),
    Reason.PERMISSION_DENIED: (PermissionDenied, ""),
    Reason.NOT_READY: (CacheUnavailable, "The node is starting or stopping; call again."),
    Reason.INTERNAL: (NodeError, ""),
    Reason.UNCERTAIN: (CacheUnavailable, "The key's owner was lost; the write may or may not have happened."),
    Reason.REGIONS_NOT_TOLD: (CacheUnavailable, "It was done, but other regions may not learn of it; call again."),
    Reason.REGION_REFUSED: (NodeError, "The region is not the one that is meant, or does not know this one."),
    Reason.LOAD_FAILED: (LoadFailed, ""),
    Reason.SINK_FAILED: (SinkFailed, ""),
    Reason.SINK_UNAVAILABLE: (SinkFailed, ""),
    Reason.CONDITION_FAILED: (NodeError, "The key's value is not of the version that the write asks for."),
    Reason.NOT_A_COUNTER: (NodeError, "The key's value, or what it would become, is not a whole number of 64 bits."),
    Reason.BACKLOG_FULL: (Overloaded, "As many writes wait for the origin as may; call again later."),
    Reason.QUEUE_UNAVAILABLE: (CacheUnavailable, "The write-behind queue cannot be reached; call again."),
    Reason.UNKNOWN_EVENT: (NodeError, "The nodes have no rule for this event."),
    Reason.EVENT_TOO_BROAD: (InvalidArgument, ""),
    Reason.JOB_RUNNING: (NodeError, "Another job warms this namespace; wait for its end, or cancel it."),
    Reason.SUPERSEDED: (NodeError, "The write lost against a newer one; read the value before writing again."),
}


def from_reason(reason: Reason | int, detail: str = "") -> CacheError:
    """Return the error for a reason that a node gave: the one table back from reasons.

    Args:
        reason: The reason, or its number. One that this release does not know becomes a `NodeError`.
        detail: The node's text for people; the class's own if empty.
    """
    try:
        known = Reason(reason)
    except ValueError:
        text = detail or "The node gave a reason that this release does not know; update cachenode-client."
        return NodeError(text, reason="unknown")
    kind, text = _BY_REASON.get(known, (NodeError, "The node reported a failure without a reason; its log tells more."))
    return kind(detail or text, reason=known.name.lower(), retryable=known in RETRYABLE)


def from_contract(error: contract.ContractError) -> CacheError:
    """Return the client's error for input that breaks the contract, with the same text."""
    if isinstance(error, contract.InvalidKey):
        return InvalidKey(str(error))
    if isinstance(error, contract.InvalidNamespace):
        return InvalidNamespace(str(error))
    if isinstance(error, contract.InvalidView):
        return NodeError(f"A node sent a view that this release cannot use: {error}", reason="invalid_view")
    return InvalidArgument(str(error))


def missing_library(field: str, name: str) -> InvalidArgument:
    """Return the error for an optional library that is not installed; the extra is called like the option's value."""
    return InvalidArgument(
        f'{field}: "{name}" needs a library that is missing; run: pip install "cachenode-client[{name}]"'
    )
