from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode.core import envelope
from cachenode.core.entries import L2Entry

NOW = 1_700_000_000_000
HIGH = (1 << 64) - 1

versions = st.integers(0, HIGH)
flags = st.integers(0, (1 << 32) - 1)


@given(
    version=versions,
    flags=flags,
    value=st.binary(max_size=300),
    left_ms=st.none() | st.integers(1, 10**9),
    position=versions,
)
def test_comes_back_as_it_went_in(version: int, flags: int, value: bytes, left_ms: int | None, position: int) -> None:
    """Every version, flags, value, life and position survive."""
    raw = envelope.encode(version, 0 if left_ms is None else NOW + left_ms, flags, value, position)
    ttl_s = math.inf if left_ms is None else left_ms / 1_000
    assert envelope.decode(raw, NOW) == L2Entry(value, flags, version, ttl_s, position)


def test_layout_is_fixed() -> None:
    """The bytes that other nodes and the scripts rely on."""
    raw = envelope.encode(0x0102030405060708, 0x1112131415161718, 0x21222324, b"value", 0x3132333435363738)
    assert raw.hex() == "c200010203040506070811121314151617182122232431323334353637380657af7b" + b"value".hex()
    assert envelope.head(1, kind=envelope.TOMBSTONE).hex() == "c2010000000000000001"


@pytest.mark.parametrize("deadline", [NOW, NOW - 1, 1])
def test_past_its_deadline_is_absent(deadline: int) -> None:
    """A value ends at its deadline, not after it."""
    assert envelope.decode(envelope.encode(1, deadline, 0, b"v"), NOW) is None


@given(version=versions, rest=st.binary(max_size=40))
def test_tombstone_is_absent(version: int, rest: bytes) -> None:
    """A tombstone is no value, whatever follows its version."""
    assert envelope.decode(envelope.head(version, kind=envelope.TOMBSTONE) + rest, NOW) is None


@given(version=versions, flags=flags, value=st.binary(max_size=50), data=st.data())
def test_damage_is_absent(version: int, flags: int, value: bytes, data: st.DataObject) -> None:
    """A flipped bit anywhere but in the deadline makes the value absent."""
    raw = bytearray(envelope.encode(version, 0, flags, value))
    positions = [at for at in range(len(raw)) if not envelope.HEAD_BYTES <= at < envelope.HEAD_BYTES + 8]
    raw[data.draw(st.sampled_from(positions))] ^= 1 << data.draw(st.integers(0, 7))
    assert envelope.decode(bytes(raw), NOW) is None


@given(cut=st.integers(0, 37), extra=st.binary(min_size=1, max_size=3))
def test_wrong_length_is_absent(cut: int, extra: bytes) -> None:
    """Cut or lengthened bytes are absent."""
    raw = envelope.encode(7, 0, 0, b"four")
    assert envelope.decode(raw[:cut], NOW) is None
    assert envelope.decode(raw + extra, NOW) is None


@given(st.none() | st.binary(max_size=100))
def test_foreign_is_absent(raw: bytes | None) -> None:
    """What somebody else wrote is absent and never raises."""
    assert envelope.decode(raw, NOW) is None


@pytest.mark.parametrize(
    ("ttl_s", "expected"),
    [(math.inf, 0), (1.5, 1_500), (0.0001, 1), (0.0, 1), (-3.0, 1), (1e15, 100 * 365 * 86_400_000)],
)
def test_ttl_ms(ttl_s: float, expected: int) -> None:
    """Endless is 0; a life that is over is the shortest one, never 0; a huge one stays where doubles are exact."""
    assert envelope.ttl_ms(ttl_s) == expected
