"""Seeds: the addresses at which a node looks for its peers when there is no registry.

A DNS name is looked up again and again: in Kubernetes the records of a headless Service follow the pods. A look-up
that fails changes nothing, since a name server that is away does not mean that the peers are.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

import structlog

__all__ = ["DnsSeeds", "resolve"]

_log = structlog.get_logger(__name__)

LOOKUP_S = 2.0


async def resolve(host: str, port: int) -> list[str]:
    """Return the host:port of every address of a name.

    Raises:
        OSError: The name cannot be looked up.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    hosts = dict.fromkeys(str(address[0]) for *_, address in found)
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]


class DnsSeeds:
    """Keeps the seeds in step with a DNS name.

    Args:
        name: host:port.
        use: Called with the addresses of each look-up.
        look_up: Looks a name up.
        every_s: Time between look-ups.
    """

    def __init__(
        self,
        name: str,
        use: Callable[[list[str]], None],
        *,
        look_up: Callable[[str, int], Awaitable[list[str]]] = resolve,
        every_s: float = LOOKUP_S,
    ) -> None:
        self._host, _, port = name.rpartition(":")
        self._port = int(port)
        self._use = use
        self._look_up = look_up
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    async def refresh(self) -> None:
        """Look the name up once and pass the addresses on; nothing changes if that fails."""
        try:
            addresses = await self._look_up(self._host, self._port)
        except OSError as error:
            if not self._failing:
                _log.warning("dns_failed", host=self._host, detail=error.strerror or type(error).__name__)
            self._failing = True
            return
        self._failing = False
        self._use(addresses)

    async def start(self) -> None:
        """Look up now, and go on doing so."""
        await self.refresh()
        self._task = asyncio.create_task(self._repeat())

    async def stop(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self.refresh()
