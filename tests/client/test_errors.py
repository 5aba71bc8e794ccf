"""The client's errors: one tree, stable reasons, texts that say what to do and never show data."""

from __future__ import annotations

import builtins
import copy
import pickle

import pytest

from cachenode_api import errors as contract
from cachenode_api.keys import canonical_key, check_namespace
from cachenode_api.reasons import RETRYABLE, Reason
from cachenode_client import errors
from cachenode_client.errors import (
    CacheError,
    CacheTimeout,
    CacheUnavailable,
    ClientClosed,
    DecodeError,
    ForkedClient,
    InvalidArgument,
    InvalidKey,
    InvalidNamespace,
    InvalidTtl,
    LoadFailed,
    ManyFailed,
    NodeError,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    SinkFailed,
    Unserializable,
    ValueTooLarge,
    from_contract,
    from_reason,
    missing_library,
)

CLASSES = [
    (CacheError, (Exception,), "error", False, "The cache operation failed."),
    (InvalidArgument, (CacheError, ValueError), "invalid_argument", False, "An argument is not valid."),
    (InvalidKey, (InvalidArgument,), "invalid_key", False, "key: must be 1 to 1,024 bytes"),
    (
        InvalidTtl,
        (InvalidArgument,),
        "invalid_ttl",
        False,
        "ttl_s: must be a positive number of seconds, or math.inf for an entry that does not expire",
    ),
    (
        InvalidNamespace,
        (InvalidArgument,),
        "invalid_namespace",
        False,
        "namespace: the nodes have no such namespace; use one of their configuration",
    ),
    (
        ValueTooLarge,
        (InvalidArgument,),
        "value_too_large",
        False,
        "value: larger than its namespace allows; store less, or raise the namespace's limit",
    ),
    (Unserializable, (InvalidArgument, TypeError), "unserializable", False, "value: cannot be encoded"),
    (DecodeError, (CacheError,), "decode_error", False, "value: the stored bytes cannot be decoded"),
    (
        CacheTimeout,
        (CacheError, TimeoutError),
        "deadline_exceeded",
        False,
        "The call took longer than its timeout; a write may or may not have happened.",
    ),
    (
        CacheUnavailable,
        (CacheError,),
        "unavailable",
        True,
        "No node can be reached; check the client's address and that the nodes run.",
    ),
    (
        Overloaded,
        (CacheError,),
        "overloaded",
        True,
        "The node refuses work because too much is waiting; call again later, and less often.",
    ),
    (
        QuotaExceeded,
        (CacheError,),
        "quota_exceeded",
        False,
        "The namespace's quota leaves no room; remove entries, or raise max_bytes or max_keys.",
    ),
    (PermissionDenied, (CacheError,), "permission_denied", False, "The client's token does not allow this."),
    (
        LoadFailed,
        (CacheError,),
        "load_failed",
        False,
        "The value could not be loaded by the caller that was to load it.",
    ),
    (
        SinkFailed,
        (CacheError,),
        "sink_failed",
        False,
        "The origin has not taken the write; nothing was changed.",
    ),
    (ClientClosed, (CacheError,), "client_closed", False, "The client is closed; create a new one."),
    (
        ForkedClient,
        (CacheError,),
        "forked_client",
        False,
        "The client was used before this process was forked, which gRPC does not survive; connect only after the fork.",
    ),
    (NodeError, (CacheError,), "internal", False, "The node reported a failure; its log tells more."),
]

REASONS = [
    (Reason.OK, NodeError, "The node reported a failure without a reason; its log tells more."),
    (Reason.INVALID_KEY, InvalidKey, InvalidKey.default_text),
    (Reason.VALUE_TOO_LARGE, ValueTooLarge, ValueTooLarge.default_text),
    (Reason.INVALID_TTL, InvalidTtl, InvalidTtl.default_text),
    (Reason.UNKNOWN_NAMESPACE, InvalidNamespace, InvalidNamespace.default_text),
    (
        Reason.INVALID_REQUEST,
        NodeError,
        "The node does not understand the request; use the same release of cachenode and cachenode-client.",
    ),
    (Reason.NOT_OWNER, CacheUnavailable, "The key is moving between nodes; call again."),
    (Reason.OWNER_UNREACHABLE, CacheUnavailable, "The node that owns the key did not answer; call again."),
    (Reason.DEADLINE_EXCEEDED, CacheTimeout, CacheTimeout.default_text),
    (Reason.OVERLOADED, Overloaded, Overloaded.default_text),
    (Reason.NOT_READY, CacheUnavailable, "The node is starting or stopping; call again."),
    (Reason.INTERNAL, NodeError, NodeError.default_text),
    (Reason.SUPERSEDED, NodeError, "The write lost against a newer one; read the value before writing again."),
    (Reason.UNCERTAIN, CacheUnavailable, "The key's owner was lost; the write may or may not have happened."),
    (Reason.LOAD_FAILED, LoadFailed, LoadFailed.default_text),
    (Reason.CONDITION_FAILED, NodeError, "The key's value is not of the version that the write asks for."),
    (
        Reason.NOT_A_COUNTER,
        NodeError,
        "The key's value, or what it would become, is not a whole number of 64 bits.",
    ),
    (Reason.SINK_FAILED, SinkFailed, SinkFailed.default_text),
    (Reason.SINK_UNAVAILABLE, SinkFailed, SinkFailed.default_text),
    (Reason.BACKLOG_FULL, Overloaded, "As many writes wait for the origin as may; call again later."),
    (Reason.QUEUE_UNAVAILABLE, CacheUnavailable, "The write-behind queue cannot be reached; call again."),
    (Reason.UNKNOWN_EVENT, NodeError, "The nodes have no rule for this event."),
    (Reason.EVENT_TOO_BROAD, InvalidArgument, "An argument is not valid."),
    (Reason.JOB_RUNNING, NodeError, "Another job warms this namespace; wait for its end, or cancel it."),
    (Reason.QUOTA_EXCEEDED, QuotaExceeded, QuotaExceeded.default_text),
    (Reason.UNAUTHENTICATED, PermissionDenied, "The node does not know the client's token."),
    (Reason.PERMISSION_DENIED, PermissionDenied, PermissionDenied.default_text),
    (
        Reason.REGIONS_NOT_TOLD,
        CacheUnavailable,
        "It was done, but other regions may not learn of it; call again.",
    ),
    (Reason.REGION_REFUSED, NodeError, "The region is not the one that is meant, or does not know this one."),
]


@pytest.mark.parametrize(("kind", "bases", "reason", "retryable", "text"), CLASSES)
def test_each_class_has_its_bases_reason_and_text(
    kind: type[CacheError], bases: tuple[type, ...], reason: str, retryable: bool, text: str
) -> None:
    """Each class is caught by its documented bases and has a stable reason and a text of its own."""
    error = kind()
    assert all(isinstance(error, base) for base in bases)
    assert (error.reason, error.retryable, str(error)) == (reason, retryable, text)
    assert str(kind("own text")) == "own text"


def test_the_list_of_classes_is_complete_and_drawn_in_the_docstring() -> None:
    """Every exported class is in the table above and in the tree of the module's docstring; no builtin is shadowed."""
    exported = [name for name in errors.__all__ if name[0].isupper()]
    assert sorted(exported) == sorted([*(kind.__name__ for kind, *_ in CLASSES), "ManyFailed"])
    assert all(f" {name} " in (errors.__doc__ or "") for name in exported)
    assert not [name for name in errors.__all__ if hasattr(builtins, name)]


@pytest.mark.parametrize(("kind", "_bases", "_reason", "_retryable", "_text"), CLASSES)
def test_errors_survive_pickle_and_copy(
    kind: type[CacheError], _bases: object, _reason: str, _retryable: bool, _text: str
) -> None:
    """An error keeps its text, reason and retryability when it crosses a process border."""
    error = kind("text", reason="special", retryable=True)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert (str(twin), twin.reason, twin.retryable) == ("text", "special", True)


def test_many_failed_holds_both_parts_and_shows_neither() -> None:
    """What was done and what failed are at hand; the text counts them and names the first failure, but no key."""
    first = CacheTimeout()
    error = ManyFailed({"canary": 1}, {"canary-2": first, "canary-3": Overloaded()})
    assert isinstance(error, CacheError)
    assert (error.reason, error.retryable) == ("many_failed", False)
    assert str(error) == f"2 of 3 keys failed, the first one because: {first}"
    assert "canary" not in repr(error)
    assert ManyFailed({}, {"k": Overloaded()}).retryable


def test_many_failed_survives_pickle() -> None:
    """Both parts cross a process border."""
    error = ManyFailed({"a": 1}, {"b": Overloaded("text")})
    twin = pickle.loads(pickle.dumps(error))
    assert (type(twin), str(twin), twin.results) == (ManyFailed, str(error), {"a": 1})
    assert (type(twin.errors["b"]), str(twin.errors["b"])) == (Overloaded, "text")


def test_the_table_of_reasons_is_complete() -> None:
    """Every reason of the contract is in the table of expectations."""
    assert [reason for reason, *_ in REASONS] == list(Reason)


@pytest.mark.parametrize(("reason", "kind", "text"), REASONS)
def test_a_reason_becomes_its_class(reason: Reason, kind: type[CacheError], text: str) -> None:
    """A reason becomes one class, keeps its stable name and retryability, and has a text even without a detail."""
    error = from_reason(reason)
    assert type(error) is kind
    assert str(error) == text
    assert error.reason == reason.name.lower()
    assert error.retryable == (reason in RETRYABLE)
    assert str(from_reason(reason, "value: 9 bytes exceed 8")) == "value: 9 bytes exceed 8"


def test_an_unknown_reason_becomes_a_node_error() -> None:
    """A number of a newer node does not break an older client."""
    error = from_reason(999)
    assert type(error) is NodeError
    assert (error.reason, error.retryable) == ("unknown", False)
    assert str(error) == "The node gave a reason that this release does not know; update cachenode-client."
    assert str(from_reason(999, "detail")) == "detail"


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (contract.InvalidKey("key: must not be empty"), InvalidKey, "key: must not be empty"),
        (contract.InvalidNamespace("namespace: x"), InvalidNamespace, "namespace: x"),
        (
            contract.InvalidView("view: two members share an id"),
            NodeError,
            "A node sent a view that this release cannot use: view: two members share an id",
        ),
        (contract.ContractError("field: limit"), InvalidArgument, "field: limit"),
    ],
)
def test_contract_errors_become_the_clients(error: contract.ContractError, kind: type[CacheError], text: str) -> None:
    """Errors of the contract reach users as the client's classes with the same text."""
    found = from_contract(error)
    assert type(found) is kind
    assert str(found) == text


def test_texts_of_contract_errors_never_show_the_key() -> None:
    """A key or namespace that is refused is not quoted."""
    for call in (
        lambda: canonical_key("canary" * 1000),
        lambda: canonical_key("canary\ud800"),
        lambda: check_namespace("CANARY canary"),
    ):
        with pytest.raises(contract.ContractError) as caught:
            call()
        assert "canary" not in repr(from_contract(caught.value)).lower()


def test_a_missing_library_is_named_with_the_command_that_installs_it() -> None:
    """The text of a missing library can be pasted into a shell."""
    assert str(missing_library("compression", "zstd")) == (
        'compression: "zstd" needs a library that is missing; run: pip install "cachenode-client[zstd]"'
    )
