"""Ports that a local cluster can come back to.

A port the kernel hands out (`bind` to 0) lies in the range it also takes the near end of outgoing connections from, so
between the end of a node and its restart any connection of the machine may sit on it. Ports below that range are only
taken by whoever asks for them by number.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

__all__ = ["free_ports"]

_LOWEST = 10_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_LOW = 32_768
"""Where Linux starts its range unless told otherwise; the BSDs and macOS start higher (49,152)."""
_TRIES = 1_000


def free_ports(count: int) -> list[int]:
    """Return distinct TCP ports of loopback that nobody listens on now and no outgoing connection will take.

    Others may still take one by number before it is used. Where the range of outgoing connections leaves no room
    below it, ports of that range are returned.

    Raises:
        OSError: There are not that many.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:  # until all are found, so that nobody else takes one meanwhile
        for port in _candidates():
            if len(found) == count:
                return found
            if port in found:  # which binding it would not show: with SO_REUSEADDR two may, if neither listens
                continue
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free to listen on
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(probe.getsockname()[1])
    raise OSError(f"no {count} free ports on 127.0.0.1")


def _candidates() -> Iterator[int]:
    top = _first_ephemeral()
    draw = random.SystemRandom()
    for _ in range(_TRIES):
        yield draw.randrange(_LOWEST, top) if top - _LOWEST >= _TRIES else 0


def _first_ephemeral() -> int:
    try:
        return int(_EPHEMERAL.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return _EPHEMERAL_LOW
