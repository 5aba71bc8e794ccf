"""Servers that a test may freeze, kill and restart: Valkey from the wheel and, where installed, a redis-server.

With ``CACHENODE_L2_URL`` set, tests that need no control over the server run against that one instead.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cachenode.adapters.embedded import EmbeddedValkey

__all__ = ["LEGS", "OWN_LEGS", "RedisServer", "server"]

URL = os.environ.get("CACHENODE_L2_URL", "")
_BINARIES: dict[str, str | None] = {"valkey": None}
if redis := shutil.which("redis-server"):
    _BINARIES["redis"] = redis  # as found: the link's name tells the program what to be

OWN_LEGS = list(_BINARIES)
"""Servers that can be started here."""
LEGS = ["url"] if URL else OWN_LEGS
"""Servers for tests that need no control."""


class _Configured(EmbeddedValkey):
    """One with other settings, the last of which count."""

    settings: Mapping[str, str] = {}

    def _options(self) -> list[str]:
        return super()._options() + [word for name, value in self.settings.items() for word in (f"--{name}", value)]


class RedisServer:
    """A server that a test controls."""

    def __init__(
        self, directory: Path, leg: str, *, maxmemory_bytes: int = 64 << 20, settings: Mapping[str, str] | None = None
    ) -> None:
        self._valkey = _Configured(directory, maxmemory_bytes=maxmemory_bytes, binary=_BINARIES[leg])
        self._valkey.settings = settings or {}
        self._valkey.start()
        self.url = self._valkey.url

    @property
    def pid(self) -> int:
        return self._valkey.pid

    def freeze(self) -> None:
        """Stop it from running; its sockets stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash would."""
        os.kill(self.pid, signal.SIGKILL)
        self._valkey.stop()

    def restart(self) -> None:
        """Start it again at the same place, empty unless its settings have it keep something."""
        self._valkey.stop()
        self._valkey.start()

    def stop(self) -> None:
        self._valkey.stop()


@contextmanager
def server(
    directory: Path, leg: str, *, maxmemory_bytes: int = 64 << 20, settings: Mapping[str, str] | None = None
) -> Iterator[RedisServer]:
    """Run a server for the duration of a block."""
    running = RedisServer(directory, leg, maxmemory_bytes=maxmemory_bytes, settings=settings)
    try:
        yield running
    finally:
        running.stop()
