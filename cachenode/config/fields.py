"""What the sections of the configuration are made of: the types of fields, with how a text becomes a value of each."""

from __future__ import annotations

import math
import re
import socket
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from cachenode.config.values import parse_address, parse_list, parse_size, parse_ttl, parse_url
from cachenode.core.adaptive_ttl import parse_step
from cachenode.core.schedule import parse_schedule

__all__ = [
    "Address",
    "Bytes",
    "ClusterName",
    "Count",
    "Due",
    "Id",
    "Listen",
    "OptionalAddress",
    "OptionalListen",
    "OptionalName",
    "OptionalRedisUrl",
    "Part",
    "RedisUrl",
    "Seconds",
    "Secret",
    "Section",
    "Share",
    "Size",
    "Span",
    "Steps",
    "Ttl",
    "default_id",
]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")


class Secret:
    """Marks a field whose value may hold a password: it is shown only in part."""


class Size:
    """Marks a field that holds a number of bytes: it is shown with a unit."""


def _not_bool(value: object) -> object:
    # pydantic takes True for 1, so `weight = true` would pass for a number.
    if isinstance(value, bool):
        # pydantic makes a problem of a ValueError; a TypeError would go through.
        raise ValueError("must be a number")  # noqa: TRY004
    return value


def _identifier(text: str) -> str:
    if not _ID.match(text):
        raise ValueError("must be 1 to 128 of A-Z a-z 0-9 _ . - and begin with a letter or digit")
    return text


def default_id() -> str:
    """Return this machine's name, or what of it an id may hold."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()).strip("-.")[:128] or "node"


def _checked_address(text: str) -> str:
    parse_address(text)
    return text


def _checked_listen(text: str) -> str:
    parse_address(text, any_port=True)
    return text


def _checked_steps(texts: tuple[str, ...]) -> tuple[str, ...]:
    steps = [parse_step(text) for text in texts]
    if not steps or steps[-1].above >= 0 or not math.isinf(steps[-1].within_s):
        raise ValueError("must end with a TTL alone, for what none before it fits")
    return tuple(step.text for step in steps)


def _checked_schedule(text: str) -> str:
    parse_schedule(text)
    return text


def _optional(check: Any) -> AfterValidator:  # noqa: ANN401 - a function from text to text
    return AfterValidator(lambda text: check(text) if text else text)


Count = Annotated[int, BeforeValidator(_not_bool)]
Bytes = Annotated[int, BeforeValidator(parse_size), BeforeValidator(_not_bool), Size()]
Seconds = Annotated[float, BeforeValidator(_not_bool), Field(gt=0, le=86_400, allow_inf_nan=False)]
Ttl = Annotated[float, BeforeValidator(parse_ttl), BeforeValidator(_not_bool), Field(gt=0)]
Share = Annotated[float, BeforeValidator(_not_bool), Field(gt=0, le=1_000_000, allow_inf_nan=False)]
Part = Annotated[float, BeforeValidator(_not_bool), Field(ge=0, allow_inf_nan=False)]
Span = Annotated[float, BeforeValidator(_not_bool), Field(ge=0, allow_inf_nan=False)]
"""Seconds that may be 0; each field says how many at most."""
Steps = Annotated[tuple[str, ...], BeforeValidator(parse_list), AfterValidator(_checked_steps)]
Due = Annotated[str, AfterValidator(_checked_schedule)]
Id = Annotated[str, AfterValidator(_identifier)]
ClusterName = Annotated[Id, Field(max_length=64)]
OptionalName = Annotated[str, _optional(_identifier), Field(max_length=64)]
Address = Annotated[str, AfterValidator(_checked_address)]
Listen = Annotated[str, AfterValidator(_checked_listen)]
RedisUrl = Annotated[str, AfterValidator(parse_url), Secret()]
OptionalAddress = Annotated[str, _optional(_checked_address)]
OptionalListen = Annotated[str, _optional(_checked_listen)]
OptionalRedisUrl = Annotated[str, _optional(parse_url), Secret()]


class Section(BaseModel):
    """A table of the configuration: frozen, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)
