"""Names of the gRPC metadata that calls carry besides their messages."""

from __future__ import annotations

__all__ = [
    "AUTHORIZATION_KEY",
    "BEARER",
    "DEFECT",
    "INCARNATION_KEY",
    "REASON_KEY",
    "REQUEST_ID_KEY",
    "SEQUENCE_KEY",
    "TRACEPARENT_KEY",
]

AUTHORIZATION_KEY = "authorization"
"""Metadata of a call: who makes it, as `BEARER` and a token."""
BEARER = "Bearer "
"""What stands before the token (RFC 6750)."""
REASON_KEY = "cachenode-reason"
"""Trailing metadata of a failed call: the stable reason's name."""
REQUEST_ID_KEY = "cachenode-request-id"
"""Trailing metadata of a call or session that a defect of the node has ended: what it is called in the node's log."""
DEFECT = "a defect in the node; its log has more under request {}"
"""What the caller of such a call is told."""
INCARNATION_KEY = "cachenode-incarnation"
"""Initial metadata of a Watch: the incarnation of the node that tells."""
SEQUENCE_KEY = "cachenode-sequence"
"""Initial metadata of a Watch: the number after which it begins."""
TRACEPARENT_KEY = "traceparent"
"""Metadata of a call, and header of a request to an origin: the span that it belongs to (W3C Trace Context)."""
