"""Counters of one client."""

from __future__ import annotations

from dataclasses import asdict, dataclass

__all__ = ["ClientStats"]


@dataclass(slots=True)
class ClientStats:
    """Plain integers, raised on the path of each call.

    Attributes:
        hits: Reads that found a value.
        near_hits: Those of them that found it in the near cache.
        misses: Reads that found none.
        sets: Values stored.
        retries: Calls sent again.
        errors: Calls that failed, whether they raised or counted as a miss.
        loads: Loaders that this client ran.
        load_failures: Those that raised.
    """

    hits: int = 0
    near_hits: int = 0
    misses: int = 0
    sets: int = 0
    retries: int = 0
    errors: int = 0
    loads: int = 0
    load_failures: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counters by name."""
        counters = asdict(self)
        counters["hits"] += self.near_hits  # the path of a near hit raises one counter
        return counters
