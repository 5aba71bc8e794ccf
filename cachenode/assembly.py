"""Chooses the adapters that a configuration asks for."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from cachenode.adapters.l2_redis import RedisL2
from cachenode.adapters.redis_client import connect
from cachenode.adapters.registry_redis import RedisRegistry
from cachenode.node.membership import RegistryMembership
from cachenode.node.seed_membership import SeedMembership

if TYPE_CHECKING:
    from cachenode.adapters.peer_links import PeerLinks
    from cachenode.config import NodeConfig
    from cachenode.node.placement import Placement
    from cachenode.ports import Clock, L2Store

__all__ = ["make_l2", "make_membership"]
