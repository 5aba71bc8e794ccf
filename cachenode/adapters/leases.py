"""Leases: small records at an arbiter that replaces a record only if it is still the one that the caller has seen.

What `cachenode.adapters.registry_leases` needs of Kubernetes' Lease objects, and nothing else, so that the same
registry runs on the API server, in tests and in the simulator.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Lease", "LeaseChanged", "Leases"]


@dataclass(frozen=True, slots=True)
class Lease:
    """One record.

    Attributes:
        name: Unique among the leases of all clusters at one arbiter.
        holder: Who holds it, for people to read.
        duration_s: How long a holder that does not renew keeps it.
        content: What it says, as text.
        version: Differs after each write; "" in a record that is to be written first.
    """

    name: str
    holder: str
    duration_s: float
    content: Mapping[str, str]
    version: str = ""


class LeaseChanged(Exception):
    """The record is not what the caller has seen: it was written or deleted since, or made before."""


class Leases(Protocol):
    """The leases of one cluster. Every method raises `RegistryError` if the arbiter cannot be reached or refuses."""

    async def list(self) -> list[Lease]:
        """Return all as of one moment that is after the call began: never what a cache had."""

    async def create(self, lease: Lease) -> Lease:
        """Make it and return it with its version.

        Raises:
            LeaseChanged: There is one of this name.
        """

    async def replace(self, lease: Lease) -> Lease:
        """Write it over the one of its version, and return it with its new version.

        Raises:
            LeaseChanged: That one was written or deleted since.
        """

    async def delete(self, lease: Lease) -> None:
        """Delete the one of its version.

        Raises:
            LeaseChanged: That one was written or deleted since.
        """

    def watch(self, name: str) -> AsyncGenerator[Lease | None, None]:
        """Yield the lease of a name as it is, and whenever it has changed; None where there is none.

        What changes several times in a moment may be yielded once, as it is at the end. Others' changes are not told.
        It ends where the arbiter cannot tell any more what has happened since: begin anew. `RegistryError` is raised
        by the iteration.
        """

    async def close(self) -> None:
        """Give back connections. Safe to call twice."""
