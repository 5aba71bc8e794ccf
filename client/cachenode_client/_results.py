"""What `lookup` returns: a value and everything known about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Lookup"]

_UNITS: dict[type, str] = {
    bytes: "bytes",
    str: "characters",
    list: "items",
    dict: "items",
    tuple: "items",
    set: "items",
}


@dataclass(frozen=True, slots=True, repr=False)
class Lookup:
    """A value and what is known about it.

    Its representation shows the type and size of the value, never the value: representations end up in logs.

    Attributes:
        found: Whether there is a value. If not, all else is empty.
        value: The value; None if absent (and None may also be a stored value).
        version: Orders the writes of one key: higher is newer. 0 if absent.
        ttl_s: Remaining life in seconds; None if the entry does not expire, or is absent.
        layer: Where the value was found.
        stale: Whether it has expired and is served by permission of its namespace.
        flags: The word of flags it was stored with (`cachenode_api.records`).
    """

    found: bool
    value: Any = field(default=None)
    version: int = 0
    ttl_s: float | None = None
    layer: Literal["near", "l1", "l2", "none"] = "none"
    stale: bool = False
    flags: int = 0

    def __repr__(self) -> str:
        return (
            f"Lookup(found={self.found}, value={_describe(self.value)}, version={self.version}, ttl_s={self.ttl_s}, "
            f"layer={self.layer!r}, stale={self.stale}, flags={self.flags:#x})"
        )


def _describe(value: object) -> str:
    kind = type(value)
    unit = _UNITS.get(kind)  # Exact types only: a user's class may have any __len__.
    return f"<{kind.__name__}>" if unit is None else f"<{kind.__name__}, {len(value):,} {unit}>"  # type: ignore[arg-type]
