"""The settings of writing behind: what the namespaces with write = "behind" have in common."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cachenode.config.fields import Count, Seconds, Section
from cachenode.core.write_behind import WriteBehindLimits

__all__ = ["WriteBehindConfig"]


class WriteBehindConfig(Section):
    """How writes that are acknowledged before their origin has them are kept and brought there."""

    durability: Literal["fast", "fsync", "replicated"] = Field(
        "fast",
        description="Where a write must be to be acknowledged: in the memory of the queue's server; on its disk; on the"
        " disk (without appendonly: in the memory) of a replica too",
    )
    batch_writes: Count = Field(
        100, ge=1, le=10_000, description="Most writes in a call of a sink; origins.<name>.batch_writes limits it too"
    )
    attempts: Count = Field(
        5, ge=1, le=1_000, description="Attempts at a write that fail while others succeed, until it is a dead letter"
    )
    retry_s: Seconds = Field(0.1, description="Pause after a first failure, doubled with each further one")
    retry_max_s: Seconds = Field(30.0, description="Longest pause between attempts")
    max_backlog: Count = Field(
        100_000,
        ge=1,
        le=100_000_000,
        description="Keys of a namespace that may wait, dead letters included; then new ones are refused",
    )

    def limits(self) -> WriteBehindLimits:
        """Return how queued writes are brought to their origins."""
        return WriteBehindLimits(
            batch_writes=self.batch_writes,
            attempts=self.attempts,
            retry_s=self.retry_s,
            retry_max_s=self.retry_max_s,
            max_backlog=self.max_backlog,
        )
