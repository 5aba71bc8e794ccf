"""Why the console does not do what it is asked, in words for a browser."""

from __future__ import annotations

import grpc
from grpc import aio

__all__ = ["Refused", "refusal_of"]

_OLDER = "a node of an older release cannot do that"
_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


class Refused(Exception):
    """A request that gets an error for an answer.

    Args:
        status: Of HTTP.
        text: What is wrong; never a key, a value or a token.
        hint: What to do next.
    """

    def __init__(self, status: int, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.hint = hint


def refusal_of(error: aio.AioRpcError, node: str) -> Refused:
    """Return what a node's refusal is for a browser."""
    code = error.code()
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Refused(501, _OLDER, "Update the nodes to one release.")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Refused(504, f"{node} did not answer in time", "What was asked may have been done: look, and repeat it.")
    if code is grpc.StatusCode.UNAVAILABLE:
        return Refused(503, error.details() or f"{node} does not answer", "Look at Overview: is the node up?")
    if code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}:
        return Refused(_STATUSES[code], error.details() or "not allowed", "Sign in with a token that may do this.")
    return Refused(_STATUSES.get(code, 500), error.details() or f"{node} refuses")
