"""The settings of a warming job that is due again and again: a table ``[[warm]]`` each."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from cachenode.config.fields import Count, Due, Section
from cachenode.core.schedule import parse_schedule
from cachenode.core.warming import WarmPlan

__all__ = ["WarmConfig"]


class WarmConfig(Section):
    """Which keys are loaded before they are asked for, and when. One of keys_file, enumerate and top."""

    namespace: str = Field("default", description="Whose keys")
    cron: Due = Field(description="When: a cron expression (UTC), or an interval")
    keys_file: str = Field("", description="A file with a key on each line, on the node that runs the job")
    enumerate: bool = Field(False, description="Whether the origin lists the keys")
    top: Count = Field(0, ge=0, le=1_000_000, description="So many of the keys that were read most")
    rate_per_s: Annotated[float, Field(gt=0, le=1_000_000)] = Field(500.0, description="Keys a second")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.keys_file) + self.enumerate + bool(self.top) != 1:
            raise ValueError("must have one of keys_file, enumerate and top")
        return self

    def plan(self) -> WarmPlan:
        """Return the plan of the job."""
        return WarmPlan(
            self.namespace, parse_schedule(self.cron), self.keys_file, self.enumerate, self.top, self.rate_per_s
        )
