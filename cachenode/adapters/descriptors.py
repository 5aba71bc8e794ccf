"""File descriptors: each connection takes one, and a node that has none left reaches neither its L2 nor its peers.

So a node takes as many as it is given, and lets in only so many connections that others remain for itself.
"""

from __future__ import annotations

import contextlib
import resource

__all__ = ["connections_that_fit", "http_connections_that_fit", "raise_descriptor_limit"]

_FOR_ITSELF = 256
"""Redis, peers, the HTTP port, logs, gRPC's own: a few dozen, and some in reserve."""


def raise_descriptor_limit() -> None:
    """Use all descriptors that this process may have: many systems give 1,024, and more to who asks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_that_fit(wanted: int) -> int:
    """Return how many connections may be let in, at most as many as wanted."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, most - min(_FOR_ITSELF, most // 2))


def http_connections_that_fit(wanted: int, others: int) -> int:
    """Return how many connections of the HTTP port may be let in, at most as many as wanted.

    Args:
        wanted: How many are wanted.
        others: How many connections of gRPC are wanted.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, (most - connections_that_fit(others)) // 2)
