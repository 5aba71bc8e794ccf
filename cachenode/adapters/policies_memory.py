"""Keeps changed settings in memory: for tests."""

from __future__ import annotations

from collections.abc import Mapping

from cachenode.core.live_policy import LivePolicy
from cachenode.errors import RegistryError

__all__ = ["MemoryPolicies"]


class MemoryPolicies:
    """A `PolicyStore`.

    Attributes:
        down: True lets every call fail.
    """

    def __init__(self) -> None:
        self.down = False
        self._kept: dict[str, LivePolicy] = {}

    def _must_be_up(self) -> None:
        if self.down:
            raise RegistryError("the store of changed settings cannot be reached: it is down")

    async def read(self) -> Mapping[str, LivePolicy]:
        """Return all that is kept (see `cachenode.ports.PolicyStore`)."""
        self._must_be_up()
        return dict(self._kept)

    async def put(self, namespace: str, policy: LivePolicy) -> LivePolicy:
        """Keep the newer one, and return it (see `cachenode.ports.PolicyStore`)."""
        self._must_be_up()
        old = self._kept.get(namespace)
        if old is None or policy.newer(old):
            self._kept[namespace] = policy
        return self._kept[namespace]

    async def close(self) -> None:
        """Do nothing."""
