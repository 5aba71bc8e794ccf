from __future__ import annotations

import pytest

from cachenode.adapters.registry_memory import MemoryRegistry
from cachenode.errors import RegistryError
from cachenode_api.view import Member
from tests.support.clock import ManualClock


async def test_can_be_switched_off() -> None:
    """While it is down every call is a `RegistryError`; afterwards it goes on with what it had."""
    registry = MemoryRegistry(ManualClock(), seed=lambda: b"s" * 16)
    me = Member("a", "1", "a:1")
    view = (await registry.renew(me, None)).view
    assert view.ring_seed == b"s" * 16
    registry.down = True
    with pytest.raises(RegistryError, match="cannot be reached"):
        await registry.renew(me, view)
    with pytest.raises(RegistryError, match="cannot be reached"):
        await registry.leave(me)
    registry.down = False
    assert (await registry.renew(me, view)).view == view
