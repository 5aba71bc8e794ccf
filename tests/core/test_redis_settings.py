"""Which settings of a Redis do not fit which use."""

from __future__ import annotations

import pytest

from cachenode.core.redis_settings import RedisProblem, Use, redis_problems

GOOD = {
    "redis_version": "7.2.4",
    "maxmemory_policy": "volatile-lru",
    "aof_enabled": "1",
    "connected_slaves": "1",
}
ALL: tuple[Use, ...] = ("values", "membership", "queue")


def kinds(min_replicas: int | None, *uses: Use, **info: str) -> list[tuple[str, str]]:
    return [(each.kind, each.use) for each in redis_problems(GOOD | info, min_replicas, uses)]


def test_nothing_is_wrong() -> None:
    """A server as the documentation has it fits everything; one that says nothing is believed."""
    assert kinds(1, *ALL) == []
    assert redis_problems({}, None, ALL) == []


@pytest.mark.parametrize(
    ("version", "valkey", "old"), [("6.2.14", "", True), ("6.2.14", "8.1.0", False), ("x", "", False)]
)
def test_old_servers(version: str, valkey: str, old: bool) -> None:
    """Redis before 7.0 lacks what the scripts need; Valkey calls itself some old Redis, and has it."""
    found = kinds(1, "values", redis_version=version, valkey_version=valkey)
    assert found == ([("old", "values")] if old else [])


def test_eviction_of_what_is_no_cache() -> None:
    """Values may be evicted as somebody likes; members and queued writes may not."""
    assert kinds(1, "values", maxmemory_policy="allkeys-lfu") == []
    assert kinds(1, *ALL, maxmemory_policy="allkeys-lfu") == [("evicts", "membership"), ("evicts", "queue")]
    assert kinds(1, *ALL, maxmemory_policy="noeviction") == []


def test_queues_without_a_file() -> None:
    """Only what waits for an origin must survive a crash of the server."""
    assert kinds(1, "values", "membership", aof_enabled="0") == []
    assert kinds(1, *ALL, aof_enabled="0") == [("no_file", "queue")]


def test_masters_that_write_alone() -> None:
    """A master with replicas that would go on without them is named with what it loses then."""
    assert kinds(0, "values") == []
    assert kinds(0, "membership") == [("min_replicas", "membership")]
    assert kinds(0, *ALL, connected_slaves="0") == []
    (found,) = redis_problems(GOOD, 0, ["queue"])
    assert found == RedisProblem("queue", "min_replicas", "min-replicas-to-write 0, 1 connected")


@pytest.mark.parametrize(
    ("node_timeout_s", "lease_s", "slow"),
    [(15.0, 4.0, True), (2.0, 4.0, True), (1.4, 4.0, False), (2.0, 8.0, False), (None, 4.0, False)],
)
def test_failover_that_outlasts_leases(node_timeout_s: float | None, lease_s: float, slow: bool) -> None:
    """A Cluster that needs longer for a new master than a lease has left costs all nodes theirs; values alone wait."""

    def found(use: Use, **info: str) -> list[RedisProblem]:
        return redis_problems(GOOD | info, 1, [use], node_timeout_s=node_timeout_s, lease_s=lease_s)

    assert [each.kind for each in found("membership", cluster_enabled="1")] == ["slow_failover"] * slow
    assert found("membership", cluster_enabled="0") == []
    assert found("queue", cluster_enabled="1") == []
