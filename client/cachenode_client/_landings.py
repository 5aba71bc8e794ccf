"""What becomes of a load, for both clients: who loads, what the owners of the keys are told, and what is counted.

Asking for a key under a lease has one of four outcomes: a value; a token, then this client is to load the key and the
owner's other callers wait for it; both (`Due`), then it is to load a value anew that is good enough meanwhile; or an
error. Whatever a load comes to is told to the owner, or those who wait there would wait for the whole lease: values
(FULFILL), that there is none, or that it failed (ABANDON). What could not be told is counted, and harms only them.

Under ``on_error="miss"`` a cluster that cannot answer does not keep a value from its caller: it is loaded alone, and
stored nowhere. Not so if another's load has failed, or took too long: all who waited would load at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from cachenode_api.records import HEADER, NOT_KEPT_MS, STALE
from cachenode_client._batches import ABANDON, FULFILL, Due, Group
from cachenode_client._checks import Key, checked_parents, checked_ttl
from cachenode_client._loads import ABSENT, FlightEnd, Loaded
from cachenode_client.errors import CacheError, CacheUnavailable, InvalidArgument, Overloaded

if TYPE_CHECKING:
    from cachenode_client._engine import Encoded
    from cachenode_client._stats import ClientStats

__all__ = ["K", "Landings", "Lead", "any_stale", "is_stale"]

K = TypeVar("K", bound=Key)

Lead = tuple[K, bytes, int]
"""A key that this client is to load: as it was given, as bytes, and the token."""

_MAX_NAME = 100


class Landings:
    """The ends of one client's loads.

    Args:
        stats: Counts misses, errors and loads that have failed.
        timeout_s: How long telling an owner may take.
        misses_on_error: Whether a cluster that cannot answer counts as a miss.
        encode: Returns a value's bytes and flags, tags included.
        found: Returns the value of a record, and counts it.
    """

    def __init__(
        self,
        stats: ClientStats,
        *,
        timeout_s: float,
        misses_on_error: bool,
        encode: Callable[[object, Iterable[str] | None], Encoded],
        found: Callable[[bytes, Any], Any],
    ) -> None:
        self.stats = stats
        self.found = found
        self.timeout_s = timeout_s
        self._misses_on_error = misses_on_error
        self._encode = encode

    def sort_out(
        self,
        outcomes: dict[int, Any],
        keys: list[K],
        raws: list[bytes],
        values: dict[K, Any],
        errors: dict[int, CacheError],
    ) -> tuple[list[Lead[K]], list[Lead[K]]]:
        """Put outcomes of asking where they belong; return the keys to be loaded, and those to be loaded anew."""
        leads: list[Lead[K]] = []
        due: list[Lead[K]] = []
        for at, outcome in outcomes.items():
            if isinstance(outcome, int):
                leads.append((keys[at], raws[at], outcome))
            elif isinstance(outcome, Due):
                due.append((keys[at], raws[at], outcome.token))
                values[keys[at]] = self.found(outcome.record, None)
            elif isinstance(outcome, CacheError):
                errors[at] = outcome
            elif outcome:
                values[keys[at]] = self.found(outcome, None)
            else:
                self.stats.misses += 1
        self.stats.misses += len(leads)
        return leads, due

    def must_load_alone(self, error: CacheError) -> None:
        """Raise the error unless the client takes it for a miss: then the caller loads for itself, storing nothing."""
        self.stats.errors += 1
        if not self._takes_for_miss(error):
            raise error

    def to_load_alone(self, errors: dict[int, CacheError]) -> list[int]:
        """Take the errors that this client takes for misses out; return their positions."""
        alone = [at for at, error in errors.items() if self._takes_for_miss(error)]
        self.stats.errors += len(alone)
        for at in alone:
            del errors[at]
        return alone

    def _takes_for_miss(self, error: CacheError) -> bool:
        """Return True for errors of the cluster, not of another's load nor of time: those would cause a stampede."""
        return self._misses_on_error and isinstance(error, (CacheUnavailable, Overloaded))

    def landed(
        self, group: Group, leads: list[Lead[K]], loaded: Mapping[K, Any], ttl_ms: int, tags: Iterable[str] | None
    ) -> list[FlightEnd]:
        """Return what is to be told of loads that have succeeded: the values, and which keys have none."""
        found = [lead for lead in leads if loaded.get(lead[0], ABSENT) is not ABSENT]
        absent = [lead for lead in leads if loaded.get(lead[0], ABSENT) is ABSENT]
        ends = []
        by_parents: dict[bytes, list[Lead[K]]] = {}
        for lead in found:
            by_parents.setdefault(_parents_of(loaded[lead[0]], group), []).append(lead)
        for parents, some in by_parents.items():
            end = self._end(FULFILL, (*group[:6], parents), some)
            values = [loaded[key] for key, _, _ in some]
            end.encoded = [self._encoded_load(value, tags) for value in values]
            end.ttls_ms = [_life_of(value, ttl_ms) for value in values]
            ends.append(end)
        if absent:
            end = self._end(ABANDON, group, absent)
            end.absent = True
            ends.append(end)
        return ends

    def _encoded_load(self, loaded: object, tags: Iterable[str] | None) -> Encoded:
        """Return the bytes and flags of what a loader has returned; its own tags come to those of the call."""
        if isinstance(loaded, Loaded):
            own = tuple(loaded.tags)
            return self._encode(loaded.value, (*(tags or ()), *own) if own else tags)
        return self._encode(loaded, tags)

    def failed(self, group: Group, leads: list[Lead[K]], error: BaseException) -> FlightEnd:
        """Return what is to be told of loads that have failed, or were cancelled with this client."""
        end = self._end(ABANDON, group, leads)
        if isinstance(error, Exception):
            self.stats.load_failures += 1
            end.details = [type(error).__name__[:_MAX_NAME]] * len(leads)
        return end

    def left(self, group: Group, leads: list[Lead[K]]) -> FlightEnd:
        """Return what is to be told of loads that are left to others."""
        return self._end(ABANDON, group, leads)

    def _end(self, operation: int, group: Group, leads: list[Lead[K]]) -> FlightEnd:
        settled = (operation, group[1], self.timeout_s, False, 0, False, group[6] if operation == FULFILL else b"")
        return FlightEnd(settled, [raw for _, raw, _ in leads], [token for _, _, token in leads])

    def told(self, failures: dict[int, CacheError]) -> None:
        """Count what could not be told to owners: the values are loaded all the same. A caller's fault is raised."""
        self.stats.errors += len(failures)
        for error in failures.values():
            if isinstance(error, InvalidArgument):
                raise error


def is_stale(record: bytes) -> bool:
    """Return True if a record is marked: its value is past its TTL."""
    return bool(HEADER.unpack_from(record)[1] & STALE)


def any_stale(outcomes: Iterable[object]) -> bool:
    """Return True if among what was found is a value past its TTL that this caller is to load anew."""
    return any(isinstance(outcome, Due) and is_stale(outcome.record) for outcome in outcomes)


def _parents_of(loaded: object, group: Group) -> bytes:
    """Return the block of what a loaded value depends on: what it says itself, and what the call says."""
    if not isinstance(loaded, Loaded) or not loaded.depends_on:
        return group[6]
    return checked_parents(loaded.depends_on, group[1], group[6])


def _life_of(loaded: object, ttl_ms: int) -> int:
    """Return the TTL of what a loader has returned, for the wire."""
    if not isinstance(loaded, Loaded):
        return ttl_ms
    if not loaded.keep:
        return NOT_KEPT_MS
    return ttl_ms if loaded.ttl_s is None else checked_ttl(loaded.ttl_s)
