"""Eviction policies, by name. The default won the comparison in ``tests/bench/hit_ratio.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from cachenode.core.policies.base import EvictionPolicy
from cachenode.core.policies.lru import Lru
from cachenode.core.policies.s3fifo import S3Fifo
from cachenode.core.policies.sieve import Sieve

__all__ = ["DEFAULT_POLICY", "POLICIES", "EvictionPolicy", "Lru", "S3Fifo", "Sieve"]

DEFAULT_POLICY = "s3fifo"
POLICIES: Mapping[str, Callable[[], EvictionPolicy]] = MappingProxyType({"s3fifo": S3Fifo, "sieve": Sieve, "lru": Lru})
