"""What the clients of a run did and saw: one record per key and call, in true time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["History", "Kind", "Load", "Op", "Outcome"]


class Kind(Enum):
    """What an operation is to its key."""

    READ = "read"
    WRITE = "write"
    REMOVE = "remove"
    COUNT = "count"
    TOUCH = "touch"
    SWAP = "swap"


class Outcome(Enum):
    """How it ended."""

    OPEN = "open"
    OK = "ok"
    FAILED = "failed"


@dataclass(slots=True, eq=False)
class Op:
    """One operation on one key.

    Attributes:
        client: The process that asked.
        kind: What it is to the key.
        how: The call, for people.
        key: The key.
        began: When it was asked, in true time.
        ended: When it was answered; infinite if it never was.
        outcome: How it ended.
        value: What was read, written, or counted; None for a miss.
        version: Of a write, if it was told.
        tagged: A write that bears its key's tags; a removal that covers only such.
        lax: It waits for nobody who holds a copy.
        expire: A removal after which values may be served for a while, marked.
        ttl_s: The life that it gives.
        timeout_s: How long it may take.
        base: Version that a swap builds on.
        error: Why it failed.
        stale: What was read was said to be past its TTL.
    """

    client: str
    kind: Kind
    how: str
    key: str
    began: float
    timeout_s: float
    ended: float = math.inf
    outcome: Outcome = Outcome.OPEN
    value: str | int | None = None
    version: int = 0
    tagged: bool = False
    lax: bool = False
    expire: bool = False
    ttl_s: float = math.inf
    base: int = 0
    error: str = ""
    host: object = None
    stale: bool = False

    @property
    def done(self) -> bool:
        """True if it surely was done."""
        return self.outcome is Outcome.OK

    def __str__(self) -> str:
        ended = f"{self.ended:.4f}" if self.ended < math.inf else "never"
        what = f" {self.value}"[:40] if self.value is not None else ""
        version = f" v{self.version >> 40}.{self.version & 0xFFFFFFFFFF}" if self.version else ""
        rest = f" {self.error}" if self.error else ""
        did = f"{self.client:5} {self.how} {self.key}{what}{version} {self.outcome.value}{rest}"
        return f"{self.began:9.4f}-{ended:9} {did}"


@dataclass(slots=True)
class Load:
    """One run of a loader: for which key, by whom, and when.

    Attributes:
        asked: When its caller asked for the value.
        landed: When its caller had it, so that it was stored.
    """

    key: str
    client: str
    asked: float
    began: float
    ended: float = math.inf
    landed: float = math.inf
    value: int = 0


@dataclass
class History:
    """All of a run.

    Attributes:
        ops: In the order in which they began.
        loads: In the order in which they began.
        quiet_after: From then on there were no faults.
        faults: When something was broken, from and to.
        epochs: When each began: when a node first acted under its view.
    """

    ops: list[Op] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    faults: list[tuple[float, float]] = field(default_factory=list)
    epochs: dict[int, float] = field(default_factory=dict)
    made: dict[str, float] = field(default_factory=dict)
    """When a load of each value began (`tests.sim.dependents`)."""

    def disturbed(self, began: float, ended: float) -> bool:
        """Return True if anything was broken between two times."""
        return any(since < ended and until > began for since, until in self.faults)
