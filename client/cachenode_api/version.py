"""Versions: 64 bits of (owner epoch, owner sequence) that order the writes of one key.

A key has one owner per epoch, and a new owner's epoch is always higher, so a plain integer comparison orders writes
across owners and restarts without a wall clock and without a counter in Redis (which forgets when it restarts).
"""

from __future__ import annotations

__all__ = ["ABSENT_VERSION", "ANY_VERSION", "MAX_EPOCH", "MAX_SEQUENCE", "epoch_of", "make_version", "sequence_of"]

ANY_VERSION = (1 << 64) - 1
"""As a condition: there must be a value, of whatever version."""
ABSENT_VERSION = (1 << 64) - 2
"""As a condition: there must be no value."""
_SEQUENCE_BITS = 40
MAX_SEQUENCE = (1 << _SEQUENCE_BITS) - 1
MAX_EPOCH = (1 << (64 - _SEQUENCE_BITS)) - 1


def make_version(epoch: int, sequence: int) -> int:
    """Return the version of the owner's `sequence`-th write in `epoch`.

    Raises:
        ValueError: A part is out of range (2**24 - 1 epochs, 2**40 - 1 writes an epoch).
    """
    if not 0 <= epoch <= MAX_EPOCH or not 0 <= sequence <= MAX_SEQUENCE:
        raise ValueError(f"version: epoch {epoch} or sequence {sequence} is out of range")
    return epoch << _SEQUENCE_BITS | sequence


def epoch_of(version: int) -> int:
    """Return the owner epoch of a version."""
    return version >> _SEQUENCE_BITS


def sequence_of(version: int) -> int:
    """Return the owner sequence of a version."""
    return version & MAX_SEQUENCE
