"""Reasons: the same on both ends, on the wire and in gRPC."""

from __future__ import annotations

import grpc
import pytest

from cachenode_api.reasons import GRPC_CODES, RETRYABLE, Reason, detail_at
from cachenode_api.v1 import common_pb2


def test_reasons_equal_the_wire_enum_number_for_number() -> None:
    """Every reason has the number of its wire twin, and neither side has one more."""
    ours = {f"REASON_{reason.name}": reason.value for reason in Reason if reason is not Reason.OK}
    assert dict(common_pb2.Reason.items()) == {"REASON_UNSPECIFIED": 0, **ours}
    assert Reason.OK.value == 0


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.OK])
def test_every_reason_ends_a_unary_call_with_a_real_code(reason: Reason) -> None:
    """Every failure has a gRPC status, and none of them is OK."""
    assert grpc.StatusCode[GRPC_CODES[reason]] is not grpc.StatusCode.OK


def test_success_has_no_code_and_is_not_retried() -> None:
    """OK is not a failure."""
    assert Reason.OK not in GRPC_CODES
    assert Reason.OK not in RETRYABLE
    assert set(GRPC_CODES) == set(Reason) - {Reason.OK}


def test_only_reasons_after_which_nothing_was_done_are_retryable() -> None:
    """A call is not sent twice if it may have happened, if its time is over, or if it can never succeed."""
    assert {
        Reason.NOT_OWNER,
        Reason.OWNER_UNREACHABLE,
        Reason.OVERLOADED,
        Reason.NOT_READY,
        Reason.SUPERSEDED,
        Reason.SINK_UNAVAILABLE,
        Reason.BACKLOG_FULL,
        Reason.QUEUE_UNAVAILABLE,
    } == RETRYABLE


def test_codes_that_stand_for_wrong_input_are_never_retryable() -> None:
    """gRPC clients that retry by code agree with those that retry by reason."""
    permanent = {"INVALID_ARGUMENT", "NOT_FOUND", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"}
    assert all(GRPC_CODES[reason] not in permanent for reason in RETRYABLE)


def test_a_single_text_holds_for_all() -> None:
    """A column of texts has one per key, or one in all."""
    assert [detail_at(["a", "b"], at) for at in range(2)] == ["a", "b"]
    assert [detail_at(["a"], at) for at in range(3)] == ["a"] * 3
    with pytest.raises(IndexError):
        detail_at([], 0)
