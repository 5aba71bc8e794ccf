"""The settings of events: the rules, and the ways in which events come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from cachenode.config.fields import Bytes, Count, OptionalRedisUrl, Section
from cachenode.core.events import MAX_RULES, EventRule, EventRules

__all__ = ["EventConfig", "EventsConfig", "event_problems", "event_rules"]


class EventConfig(Section):
    """What one event makes untrue: an entry ``[[event]]``."""

    name: str = Field("", description="Name of the event")
    invalidates: tuple[str, ...] = Field((), description="Keys and patterns with the event's fields in braces")
    tags: tuple[str, ...] = Field((), description="Tags with the event's fields in braces")
    namespace: str = Field("", description='Namespace of both; "": default')
    mode: Literal["remove", "expire"] = Field("remove", description="What becomes of the values")

    def parse(self) -> tuple[EventRule | None, list[str]]:
        """Return the rule, and what is wrong with it."""
        return EventRule.parse(self.name, self.invalidates, self.tags, self.namespace, expire=self.mode == "expire")


class EventsConfig(Section):
    """How events come, and what they may do."""

    min_prefix: Count = Field(
        3, ge=1, le=1_024, description="Bytes that must be given where a missing field of an event widens a pattern"
    )
    unknown: Literal["ignore", "refuse"] = Field(
        "ignore", description="What becomes of events that no rule names; they are counted in any case"
    )
    webhook_secret_file: str = Field(
        "", description='File with the secrets of POST /events on the HTTP port, one in each line; "": there is none'
    )
    url: OptionalRedisUrl = Field(
        "", description='URL of the Redis with stream and channel; "" means that of the registry, or of L2'
    )
    stream: str = Field("", max_length=512, description='Redis stream that events are read from; "": none')
    channel: str = Field("", max_length=512, description='Redis channel that events are read from; "": none')
    max_payload_bytes: Bytes = Field(64 * 1024, ge=16, le=1024 * 1024, description="Largest payload of an event")


def event_problems(events: Sequence[EventConfig]) -> Iterator[str]:
    """Yield everything that is wrong with the rules."""
    if len(events) > MAX_RULES:
        yield f"{len(events):,} rules exceed the limit of {MAX_RULES:,}"
    for at, event in enumerate(events, 1):
        for problem in event.parse()[1]:
            yield f"number {at}: {problem}"


def event_rules(events: Sequence[EventConfig], settings: EventsConfig) -> EventRules:
    """Return the rules of a valid configuration."""
    rules = [rule for rule in (event.parse()[0] for event in events) if rule is not None]
    return EventRules(rules, min_prefix=settings.min_prefix, max_payload_bytes=settings.max_payload_bytes)
