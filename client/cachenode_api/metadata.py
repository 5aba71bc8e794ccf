"""Names of the gRPC metadata that calls carry besides their messages."""

from __future__ import annotations

__all__ = ["INCARNATION_KEY", "REASON_KEY", "SEQUENCE_KEY"]

REASON_KEY = "cachenode-reason"
"""Trailing metadata of a failed call: the stable reason's name."""
INCARNATION_KEY = "cachenode-incarnation"
"""Initial metadata of a Watch: the incarnation of the node that tells."""
SEQUENCE_KEY = "cachenode-sequence"
"""Initial metadata of a Watch: the number after which it begins."""
