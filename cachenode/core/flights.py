"""Flights: for each key that is being loaded, who loads it and who waits. At most one load per key and view (C6).

The first to ask for an absent key *leads*: it holds the flight's lease, known by a token, and loads. Whoever asks
meanwhile waits. The holder ends the flight with the token; so does the end of its session, and the lease's end, and
then one of those who waited leads in its place.

A flight may come off its key (`detach`): the key is written or removed, so what is being loaded may be older. Those
who wait still get it, since they asked before; it is not stored, and who asks from now on begins a new flight (C2).

Interleavings, each forced by a test in ``tests/core/test_flights.py`` or ``tests/node/test_loads.py``:

1. join → detach → join: the second leads a flight of its own; the end of the first does not touch it
   (``test_detached_flight_does_not_end_its_successor``).
2. The lease ends, another leads, and then the first holder comes with its value: its token is nobody's any more, so
   nothing is stored (``test_late_holder_stores_nothing``).
3. The holder has begun to store when its session or lease ends: the flight is *landing* and is left alone
   (``test_landing_flight_outlives_its_lease``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

__all__ = ["Flight", "Flights"]

W = TypeVar("W")


class Flight(Generic[W]):
    """One load under way.

    Attributes:
        key: What is loaded.
        token: Known to the holder only.
        holder: Who loads, or None if nobody knows when it is gone.
        deadline: When the lease ends.
        position: Of the namespace's barriers when the load began: what a later one covers must not be stored.
        began: When that was.
        attached: True while the loaded value may be stored.
        landing: True once the holder has come with the value.
        remote: True if the value is that of another region, which has what this region's origin may lack.
        waiting: Who waits, with whatever the caller needs to tell them.
    """

    __slots__ = ("attached", "began", "deadline", "holder", "key", "landing", "position", "remote", "token", "waiting")

    def __init__(self, key: bytes, token: int, holder: Hashable, deadline: float, position: int, began: float) -> None:
        self.key = key
        self.token = token
        self.holder = holder
        self.deadline = deadline
        self.position = position
        self.began = began
        self.attached = True
        self.landing = False
        self.remote = False
        self.waiting: list[W] = []


class Flights(Generic[W]):
    """The flights of one namespace."""

    __slots__ = ("_by_key", "_by_token", "_next_end")

    def __init__(self) -> None:
        self._by_key: dict[bytes, Flight[W]] = {}
        self._by_token: dict[int, Flight[W]] = {}
        self._next_end = math.inf

    def find(self, key: bytes) -> Flight[W] | None:
        """Return the flight that a caller for the key should wait for; None if it should lead."""
        return self._by_key.get(key)

    def lead(
        self, key: bytes, token: int, holder: Hashable, deadline: float, position: int = 0, began: float = 0.0
    ) -> Flight[W]:
        """Begin a flight for a key that has none."""
        assert key not in self._by_key, "a key has one flight"
        flight = self._by_key[key] = self._by_token[token] = Flight(key, token, holder, deadline, position, began)
        self._next_end = min(self._next_end, deadline)
        return flight

    def about(self, key: bytes) -> list[Flight[W]]:
        """Return all flights of a key: the one to wait for, and those that came off it."""
        return [flight for flight in self._by_token.values() if flight.key == key]

    def of(self, key: bytes, token: int) -> Flight[W] | None:
        """Return the flight that a holder means; None if it has ended meanwhile, or never was this key's."""
        flight = self._by_token.get(token)
        return flight if flight is not None and flight.key == key else None

    def end(self, flight: Flight[W]) -> None:
        """Forget a flight. Those who wait are the caller's to tell."""
        self._by_token.pop(flight.token, None)
        if self._by_key.get(flight.key) is flight:
            del self._by_key[flight.key]
        flight.attached = False

    def detach(self, key: bytes) -> None:
        """Take a flight off its key, if there is one: what it brings must not be stored."""
        flight = self._by_key.pop(key, None)
        if flight is not None:
            flight.attached = False

    def detach_if(self, covered: Callable[[bytes], bool]) -> None:
        """Take the flights of some keys off them."""
        for key in [key for key in self._by_key if covered(key)]:
            self.detach(key)

    def release(self, holder: Hashable) -> list[Flight[W]]:
        """End the flights of a holder that is gone; return them."""
        return self._end_all(flight for flight in self._by_token.values() if flight.holder is holder)

    def held(self, holder: Hashable) -> int:
        """Return how many flights a holder leads."""
        return sum(flight.holder is holder for flight in self._by_token.values())

    def expire(self, now: float) -> list[Flight[W]]:
        """End the flights whose lease is over; return them."""
        if now < self._next_end:
            return []
        ended = self._end_all(flight for flight in self._by_token.values() if flight.deadline <= now)
        self._next_end = min((flight.deadline for flight in self._by_token.values()), default=math.inf)
        return ended

    def end_all(self) -> list[Flight[W]]:
        """End every flight: other nodes may own the keys now. Return them."""
        return self._end_all(self._by_token.values())

    def _end_all(self, flights: Iterable[Flight[W]]) -> list[Flight[W]]:
        ended = [flight for flight in flights if not flight.landing]
        for flight in ended:
            self.end(flight)
        return ended

    def __len__(self) -> int:
        return len(self._by_token)

    def __repr__(self) -> str:
        return f"<Flights {len(self._by_key)} attached of {len(self._by_token)}>"
