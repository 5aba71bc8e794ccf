"""How gRPC is set up in processes that speak cachenode's protocol.

gRPC's event engine hands every message over between threads of its own pool. Without it the thread that waits for a
completion reads the socket itself, which was measured to take a third off the round trip of a stream on loopback (250
µs to 160 µs). The switch is an environment variable that gRPC reads when it first needs it. It is set only for
releases in which it was tried, and never over a choice of the user's own; ``CACHENODE_GRPC_TUNING=off`` leaves gRPC
alone.
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

__all__ = ["tune_grpc"]

_TRIED = ((1, 76), (1, 85))
_VALUE = "-event_engine_client,-event_engine_listener"


def tune_grpc() -> bool:
    """Set gRPC up, unless the user did or the release is unknown. Has no effect once gRPC has opened its first channel.

    Returns:
        True if the setting is, or already was, in place.
    """
    if os.environ.get("CACHENODE_GRPC_TUNING", "").lower() in ("off", "0", "no", "false"):
        return False
    if "GRPC_EXPERIMENTS" in os.environ:
        return os.environ["GRPC_EXPERIMENTS"] == _VALUE
    try:
        major, minor = (int(part) for part in version("grpcio").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return False
    if not _TRIED[0] <= (major, minor) <= _TRIED[1]:
        return False
    os.environ["GRPC_EXPERIMENTS"] = _VALUE
    return True
