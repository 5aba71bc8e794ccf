"""The settings of an origin."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from cachenode.config.fields import Count, Seconds, Section, Span
from cachenode.core.origin_limits import OriginLimits

__all__ = ["OriginConfig"]


class OriginConfig(Section):
    """Where truth lives, and how hard a node may ask for it."""

    loader: str = Field("", description="module:name of what loads a value, or the name of an installed loader")
    sink: str = Field("", description="module:name of what writes a value, or the name of an installed sink")
    options: Annotated[Mapping[str, Any], AfterValidator(MappingProxyType)] = Field(
        default_factory=dict, description="A table of what loader and sink are made with; never shown"
    )
    batch_keys: Count = Field(1, ge=1, le=10_000, description="Most keys in a call; above 1 the loader takes a list")
    batch_writes: Count = Field(1, ge=1, le=10_000, description="Most writes in a call; above 1 the sink takes a list")
    batch_window_s: Span = Field(0.0, le=1, description="How long the first of a batch waits for others")
    concurrency: Count = Field(
        16, ge=1, le=10_000, description="Calls at a time, of each node, to load and as many to write; more keys wait"
    )
    timeout_s: Seconds = Field(5.0, description="How long a call may take")
    soft_timeout_s: Span = Field(
        0.0,
        le=86_400,
        description="How long a read waits for a load where there is a value past its TTL; 0: it is given that at once",
    )
    attempts: Count = Field(3, ge=1, le=100, description="Calls for a key until its load or write counts as failed")
    breaker_failures: Count = Field(
        5, ge=1, le=1_000, description="Failed calls in a row after which the origin is left alone"
    )
    breaker_retry_s: Seconds = Field(1.0, description="How long it is left alone before it is tried again")

    def limits(self) -> OriginLimits:
        """Return how hard a node may ask it."""
        return OriginLimits(
            concurrency=self.concurrency,
            timeout_s=self.timeout_s,
            attempts=self.attempts,
            window_s=self.batch_window_s,
            breaker_failures=self.breaker_failures,
            breaker_retry_s=self.breaker_retry_s,
            soft_timeout_s=self.soft_timeout_s,
        )
