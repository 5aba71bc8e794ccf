"""How gRPC is set up in processes that speak cachenode's protocol; importing this module does it.

gRPC's event engine hands every message over between threads of its own pool. Without it the thread that waits for a
completion reads the socket itself. On loopback a round trip on a stream took 225 µs with the engine at both ends, 190
µs without it at one, 115 µs without it at both (grpcio 1.85, two cores).

The switch is an environment variable that gRPC reads once, while ``import grpc`` runs; set later it does nothing. So
both distributions import this module before anything else, and a program that imports grpc before them is left as it
is. The variable is set only for releases in which it was tried, and never over a choice of the user's own;
``CACHENODE_GRPC_TUNING=off`` leaves gRPC alone. Processes that this one starts inherit it.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version

__all__ = ["GRPC_SETTING", "tune_grpc"]

_TRIED = ((1, 76), (1, 85))

GRPC_SETTING = ("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
"""The environment variable and what it is set to."""


def tune_grpc() -> bool:
    """Set gRPC up, unless the user did, the release is unknown, or it is too late.

    Returns:
        True if the setting is, or already was, in place.
    """
    if os.environ.get("CACHENODE_GRPC_TUNING", "").lower() in ("off", "0", "no", "false"):
        return False
    name, value = GRPC_SETTING
    if name in os.environ:
        return os.environ[name] == value
    if "grpc" in sys.modules:
        return False
    try:
        major, minor = (int(part) for part in version("grpcio").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return False
    if not _TRIED[0] <= (major, minor) <= _TRIED[1]:
        return False
    os.environ[name] = value
    return True


tune_grpc()
