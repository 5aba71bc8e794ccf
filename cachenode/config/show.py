"""A configuration as people read it: as TOML, and as the table of all fields. Passwords are starred out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cachenode.config.fields import Secret, Size
from cachenode.config.model import NodeConfig
from cachenode.config.sources import FLAGS, NAMED, SHORT_VARIABLES, dotted, field_paths, variable
from cachenode.config.values import redact_url, show_size

__all__ = ["FieldHelp", "describe", "fields_help", "fields_table", "shown_value"]


@dataclass(frozen=True, slots=True)
class FieldHelp:
    """One field for people.

    Attributes:
        path: Dotted path; ``<name>`` stands for the name of a namespace or origin.
        default: The default as it would be written in TOML, empty if it depends on the machine or on other fields.
        flag: Its flag, or "".
        variables: Its environment variables.
        text: What it is for.
    """

    path: str
    default: str
    flag: str
    variables: tuple[str, ...]
    text: str


def describe(config: NodeConfig) -> str:
    """Return a configuration as a TOML file with every field, its passwords starred out."""
    return "\n".join(_tables(config, "")).strip() + "\n"


def _tables(section: BaseModel, prefix: str) -> Iterator[str]:
    inner: list[tuple[str, BaseModel]] = []
    entries: list[tuple[str, BaseModel]] = []
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            inner.append((name, value))
        elif name in NAMED:
            inner += [(f"{name}.{_key(each)}", table) for each, table in value.items()]
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            entries += [(name, each) for each in value]
        elif value is not None:
            yield f"{name} = {shown_value(value, info)}"
    for name, value in inner:
        yield f"\n[{prefix}{name}]"
        yield from _tables(value, f"{prefix}{name}.")
    for name, value in entries:
        yield f"\n[[{prefix}{name}]]"
        yield from _tables(value, f"{prefix}{name}.")


def _key(name: str) -> str:
    return json.dumps(name) if "." in name else name


def shown_value(value: Any, info: FieldInfo) -> str:  # noqa: ANN401 - a field of any type
    """Return the value of a field as it would be written in TOML; secrets are starred out."""
    if _has(info, Secret):
        value = redact_url(value)
    elif _has(info, Size) and isinstance(value, int):
        value = show_size(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return '"never"' if math.isinf(value) else repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f'{_key(name)} = "***"' for name in value) + "}"
    if isinstance(value, tuple):
        return f"[{', '.join(json.dumps(item) for item in value)}]"
    return str(value) if isinstance(value, int) else json.dumps(value)


def _has(info: FieldInfo, kind: type) -> bool:
    """Return whether a field carries a mark, also inside an optional type."""
    if any(isinstance(mark, kind) for mark in info.metadata):
        return True
    return any(
        isinstance(mark, kind)
        for part in get_args(info.annotation)
        if get_origin(part) is Annotated
        for mark in get_args(part)
    )


def fields_help() -> tuple[FieldHelp, ...]:
    """Return every field in the order of the tree."""
    helps = []
    for path in field_paths():
        info = _field(path)
        shown = tuple("<name>" if part == "*" else part for part in path)
        default = "" if info.default is PydanticUndefined or info.default is None else shown_value(info.default, info)
        names = [variable(shown), *(name for name, short in SHORT_VARIABLES.items() if short == path)]
        helps.append(
            FieldHelp(
                path=dotted(shown),
                default=default,
                flag=FLAGS.get(dotted(path), ""),
                variables=tuple(names),
                text=info.description or "",
            )
        )
    return tuple(helps)


def _field(path: tuple[str, ...]) -> FieldInfo:
    if len(path) == 1:
        return NodeConfig.model_fields[path[0]]
    section: Any = NAMED.get(path[0]) or NodeConfig.model_fields[path[0]].annotation
    info: FieldInfo = section.model_fields[path[-1]]
    return info


def fields_table() -> str:
    """Return every field as a Markdown table."""
    lines = ["| setting | default | flag, short variable | what it is |", "|---|---|---|---|"]
    for item in fields_help():
        default = f"`{item.default}`" if item.default else ""
        short = ", ".join(f"`{name}`" for name in (item.flag, *item.variables[1:]) if name)
        lines.append(f"| `{item.path}` | {default} | {short} | {item.text} |")
    return "\n".join(lines) + "\n"
