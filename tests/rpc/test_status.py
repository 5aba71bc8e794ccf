from __future__ import annotations

from typing import Any

import grpc
import pytest

from cachenode.core.entries import Failure
from cachenode.rpc.status import REASON_KEY, abort
from cachenode_api.reasons import GRPC_CODES, Reason


class Context:
    """Takes what a call ends with."""

    def __init__(self) -> None:
        self.ended: tuple[Any, ...] = ()

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: tuple[Any, ...]) -> None:
        self.ended = (code, details, trailing_metadata)


def test_table_is_complete() -> None:
    """Every reason has a status, each one that gRPC knows; OK is no failure and has none."""
    assert set(GRPC_CODES) == set(Reason) - {Reason.OK}
    assert {grpc.StatusCode[name] for name in GRPC_CODES.values()} <= set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize("reason", sorted(set(Reason) - {Reason.OK}))
async def test_abort_says_status_text_and_reason(reason: Reason) -> None:
    """A failed call ends with the table's status, the failure's text, and the reason's stable name beside them."""
    context: Any = Context()
    await abort(context, Failure(reason, "what happened"))
    assert context.ended == (grpc.StatusCode[GRPC_CODES[reason]], "what happened", ((REASON_KEY, reason.name),))
