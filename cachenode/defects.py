"""What a defect is called, to its caller and in the log: no exception's text leaves the node."""

from __future__ import annotations

import secrets

from cachenode_api.metadata import DEFECT

__all__ = ["new_request_id", "told"]


def new_request_id() -> str:
    """Return what one defect is called."""
    return secrets.token_hex(8)


def told(request_id: str) -> str:
    """Return what the caller learns of a defect."""
    return DEFECT.format(request_id)
