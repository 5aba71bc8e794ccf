"""What a Redis says of its settings, held against what is asked of it. The reasons are in docs/redis.md."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["RedisProblem", "Use", "redis_problems"]

Use = Literal["values", "membership", "queue"]
Kind = Literal["old", "evicts", "no_file", "min_replicas", "slow_failover"]

_ELECTION_S = 1.0
"""Of a replica, once most masters miss its own: half a second and up to as much again (Redis Cluster specification)."""
_SPARE = 0.6
"""Share of a lease for which the registry may be away: up to a quarter has passed at its last renewal, a tenth is a
margin, and the first renewal afterwards takes a moment to come."""


@dataclass(frozen=True, slots=True)
class RedisProblem:
    """A setting of a server that does not fit what it is used for.

    Attributes:
        use: What suffers by it.
        kind: Which one.
        evidence: What the server says.
    """

    use: Use
    kind: Kind
    evidence: str


def redis_problems(
    info: Mapping[str, str],
    min_replicas: int | None,
    uses: Collection[Use],
    *,
    node_timeout_s: float | None = None,
    lease_s: float = 4.0,
) -> list[RedisProblem]:
    """Return what does not fit.

    Args:
        info: The server's INFO; what it does not say is no problem.
        min_replicas: Its min-replicas-to-write, None if it does not say.
        uses: What it is used for.
        node_timeout_s: Its cluster-node-timeout, None if it does not say; it counts in a Cluster only.
        lease_s: The lease of a member.
    """
    found: list[RedisProblem] = []
    control: list[Use] = [use for use in ("membership", "queue") if use in uses]
    version = info.get("redis_version", "")
    if not info.get("valkey_version") and version.partition(".")[0].isdecimal() and int(version.partition(".")[0]) < 7:
        found.append(RedisProblem(next(iter(uses)), "old", f"redis_version {version}"))
    policy = info.get("maxmemory_policy", "")
    if policy.startswith("allkeys-"):
        found += [RedisProblem(use, "evicts", f"maxmemory-policy {policy}") for use in control]
    if "queue" in uses and info.get("aof_enabled") == "0":
        found.append(RedisProblem("queue", "no_file", "appendonly no"))
    replicas = info.get("connected_slaves", "0")
    if min_replicas == 0 and replicas not in {"", "0"}:
        evidence = f"min-replicas-to-write 0, {replicas} connected"
        found += [RedisProblem(use, "min_replicas", evidence) for use in control]
    if "membership" in uses and info.get("cluster_enabled") == "1" and node_timeout_s is not None:
        away_s = node_timeout_s + _ELECTION_S
        if away_s > _SPARE * lease_s:
            evidence = f"cluster-node-timeout {node_timeout_s * 1_000:.0f}, cluster.lease_s {lease_s:g}"
            found.append(RedisProblem("membership", "slow_failover", evidence))
    return found
