"""Versions order the writes of one key across owners."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode_api.version import MAX_EPOCH, MAX_SEQUENCE, epoch_of, make_version, sequence_of

parts = st.tuples(st.integers(0, MAX_EPOCH), st.integers(0, MAX_SEQUENCE))


@given(parts)
def test_parts_come_back(part: tuple[int, int]) -> None:
    """A version holds its epoch and sequence, in 64 bits without a sign."""
    version = make_version(*part)
    assert (epoch_of(version), sequence_of(version)) == part
    assert 0 <= version < 1 << 64


@given(parts, parts)
def test_a_plain_comparison_orders_by_epoch_and_then_sequence(left: tuple[int, int], right: tuple[int, int]) -> None:
    """Any write of a later owner is newer than every write of an earlier one."""
    assert (make_version(*left) < make_version(*right)) == (left < right)
    assert (make_version(*left) == make_version(*right)) == (left == right)


def test_the_form_is_stable() -> None:
    """24 bits of epoch above 40 bits of sequence: versions are stored in L2 and must stay comparable."""
    assert make_version(3, 5) == 3 << 40 | 5
    assert make_version(MAX_EPOCH, MAX_SEQUENCE) == (1 << 64) - 1
    assert (MAX_EPOCH, MAX_SEQUENCE) == (2**24 - 1, 2**40 - 1)


@pytest.mark.parametrize("part", [(-1, 0), (0, -1), (MAX_EPOCH + 1, 0), (0, MAX_SEQUENCE + 1)])
def test_parts_out_of_range_are_refused(part: tuple[int, int]) -> None:
    """A part that does not fit never spills into the other."""
    with pytest.raises(ValueError, match="is out of range") as caught:
        make_version(*part)
    assert str(caught.value) == f"version: epoch {part[0]} or sequence {part[1]} is out of range"
