"""Which of the shipped pages are about no policy."""

from __future__ import annotations

__all__ = ["NO_POLICIES"]

NO_POLICIES = {
    "console",
    "frameworks",
    "guarantees",
    "limits",
    "logs",
    "membership",
    "operating",
    "redis",
    "security",
    "strategy",
    "tracing",
}
"""They need not have the parts of a policy's page, nor a row in the strategy's table."""
