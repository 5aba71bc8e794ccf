"""Flights as plain data: who leads, who waits, and what a token still means."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cachenode.core.flights import Flight, Flights
from cachenode.core.load_backoff import LoadBackoff


def test_detached_flight_does_not_end_its_successor() -> None:
    """After a write the next caller leads a flight of its own, which the end of the first leaves alone. Scenario 5."""
    flights: Flights[str] = Flights()
    first = flights.lead(b"k", 1, None, math.inf)
    flights.detach(b"k")
    assert flights.find(b"k") is None
    second = flights.lead(b"k", 2, None, math.inf)
    assert not first.attached
    flights.end(first)
    assert flights.find(b"k") is second
    assert second.attached


def test_token_belongs_to_its_key() -> None:
    """A token means nothing for another key, nor after the flight has ended."""
    flights: Flights[str] = Flights()
    flight = flights.lead(b"k", 1, None, math.inf)
    assert flights.of(b"k", 1) is flight
    assert flights.of(b"other", 1) is None
    flights.end(flight)
    assert flights.of(b"k", 1) is None


def test_leases_end_in_time() -> None:
    """Each flight ends at its own deadline and not before."""
    flights: Flights[str] = Flights()
    long, short = flights.lead(b"long", 1, None, 9.0), flights.lead(b"short", 2, None, 5.0)
    assert flights.expire(4.9) == []
    assert flights.expire(5.0) == [short]
    assert flights.find(b"short") is None
    assert flights.expire(8.9) == []
    assert flights.expire(20.0) == [long]
    assert len(flights) == 0


def test_landing_flight_outlives_its_lease() -> None:
    """A flight whose holder has come with the value is ended by nobody else: not by time, holder or view."""
    flights: Flights[str] = Flights()
    flight = flights.lead(b"k", 1, "holder", 5.0)
    flight.landing = True
    assert flights.expire(6.0) == flights.release("holder") == flights.end_all() == []
    assert flights.find(b"k") is flight


def test_release_ends_the_flights_of_one_holder() -> None:
    """Only the flights of the holder that is gone end, attached or not."""
    flights: Flights[str] = Flights()
    mine, detached = flights.lead(b"mine", 1, "a", math.inf), flights.lead(b"detached", 2, "a", math.inf)
    other = flights.lead(b"other", 3, "b", math.inf)
    flights.detach(b"detached")
    assert flights.release("a") == [mine, detached]
    assert flights.find(b"mine") is None
    assert flights.find(b"other") is other


def test_flight_knows_the_position_of_its_beginning() -> None:
    """A flight remembers which barriers were in force when its load began; 0 if there were none."""
    flights: Flights[str] = Flights()
    assert flights.lead(b"a", 1, None, math.inf, 7).position == 7
    assert flights.lead(b"b", 2, None, math.inf).position == 0


def test_detach_if_takes_covered_keys_alone() -> None:
    """A barrier takes the flights that it covers off their keys; their holders may still end them, the others go on."""
    flights: Flights[str] = Flights()
    covered, other = flights.lead(b"a1", 1, None, math.inf), flights.lead(b"b1", 2, None, math.inf)
    flights.detach_if(lambda key: key.startswith(b"a"))
    assert (flights.find(b"a1"), covered.attached) == (None, False)
    assert (flights.find(b"b1"), other.attached) == (other, True)
    assert flights.of(b"a1", 1) is covered
    flights.detach_if(lambda _key: True)
    assert (flights.find(b"b1"), len(flights)) == (None, 2)


class FlightsMachine(RuleBasedStateMachine):
    """Flights beside a dumb model: the attached flight of each key, and all that have not ended."""

    def __init__(self) -> None:
        super().__init__()
        self.flights: Flights[str] = Flights()
        self.attached: dict[bytes, Flight[str]] = {}
        self.alive: list[Flight[str]] = []
        self.token = 0
        self.now = 0.0

    @rule(key=st.sampled_from([b"a", b"b"]), holder=st.sampled_from("xy"), lease=st.integers(1, 5))
    def join(self, key: bytes, holder: str, lease: int) -> None:
        """Lead if nobody does."""
        found = self.flights.find(key)
        assert found is self.attached.get(key)
        if found is None:
            self.token += 1
            flight = self.flights.lead(key, self.token, holder, self.now + lease)
            self.attached[key] = flight
            self.alive.append(flight)

    @rule(key=st.sampled_from([b"a", b"b"]))
    def write(self, key: bytes) -> None:
        """Detach."""
        self.flights.detach(key)
        self.attached.pop(key, None)

    @rule(number=st.integers(0, 5))
    def fulfil(self, number: int) -> None:
        """End some flight."""
        if self.alive:
            flight = self.alive[number % len(self.alive)]
            assert self.flights.of(flight.key, flight.token) is flight
            self.flights.end(flight)
            self.forget([flight])

    @rule(seconds=st.integers(0, 3))
    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self.now += seconds
        over = [flight for flight in self.alive if flight.deadline <= self.now]
        assert self.flights.expire(self.now) == over
        self.forget(over)

    @rule(holder=st.sampled_from("xy"))
    def gone(self, holder: str) -> None:
        """A holder goes."""
        over = [flight for flight in self.alive if flight.holder == holder]
        assert self.flights.release(holder) == over
        self.forget(over)

    def forget(self, ended: list[Flight[str]]) -> None:
        for flight in ended:
            self.alive.remove(flight)
            if self.attached.get(flight.key) is flight:
                del self.attached[flight.key]

    @invariant()
    def agrees(self) -> None:
        """A flight is attached exactly if its key has it."""
        assert len(self.flights) == len(self.alive)
        assert all(flight.attached == (self.attached.get(flight.key) is flight) for flight in self.alive)


TestFlightsMachine = FlightsMachine.TestCase
TestFlightsMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_backoff_doubles_up_to_its_limit_and_ends_with_success() -> None:
    """Each failure doubles the pause; a value, or time, lets the next load begin."""
    backoff = LoadBackoff(first_s=1, max_s=3)
    assert backoff.left_s(b"k", 0.0) == 0
    pauses = []
    for now in (0.0, 10.0, 20.0):
        backoff.failed(b"k", now)
        pauses.append(backoff.left_s(b"k", now))
    assert pauses == [1, 2, 3]
    assert backoff.left_s(b"k", 23.0) == 0
    assert backoff.left_s(b"other", 20.0) == 0
    backoff.succeeded(b"k")
    assert backoff.left_s(b"k", 20.0) == 0


def test_backoff_is_bounded() -> None:
    """Of too many keys the oldest is forgotten."""
    backoff = LoadBackoff(first_s=1, limit=2)
    for key in (b"a", b"b", b"c"):
        backoff.failed(key, 0.0)
    assert len(backoff) == 2
    assert backoff.left_s(b"a", 0.0) == 0
