"""Leases in memory, for tests and simulations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

from cachenode.adapters.leases import Lease, LeaseChanged

__all__ = ["MemoryLeases"]


class MemoryLeases:
    """`Leases` in a dict.

    Attributes:
        held: The leases, by name.
    """

    def __init__(self) -> None:
        self.held: dict[str, Lease] = {}
        self._version = 0
        self._written = asyncio.Event()
        """Set with the next change, and replaced by another then."""

    async def list(self) -> list[Lease]:
        """Return all."""
        return list(self.held.values())

    async def create(self, lease: Lease) -> Lease:
        """Make it.

        Raises:
            LeaseChanged: There is one of this name.
        """
        if lease.name in self.held:
            raise LeaseChanged
        return self._put(lease)

    async def replace(self, lease: Lease) -> Lease:
        """Write it over the one of its version.

        Raises:
            LeaseChanged: That one was written or deleted since.
        """
        self._check(lease)
        return self._put(lease)

    async def delete(self, lease: Lease) -> None:
        """Delete the one of its version.

        Raises:
            LeaseChanged: That one was written or deleted since.
        """
        self._check(lease)
        del self.held[lease.name]
        self._tell()

    async def watch(self, name: str) -> AsyncGenerator[Lease | None, None]:
        """Yield the lease of a name as it is, and whenever it has changed; None where there is none. Never ends."""
        while True:
            told = self.held.get(name)
            yield told
            while self.held.get(name) == told:
                await self._written.wait()

    async def close(self) -> None:
        """Keep everything: other users of this object go on."""

    def _check(self, lease: Lease) -> None:
        present = self.held.get(lease.name)
        if present is None or present.version != lease.version:
            raise LeaseChanged

    def _put(self, lease: Lease) -> Lease:
        self._version += 1
        self.held[lease.name] = written = replace(lease, version=str(self._version))
        self._tell()
        return written

    def _tell(self) -> None:
        self._written.set()
        self._written = asyncio.Event()
