"""The checker finds what is wrong, and only that."""

from __future__ import annotations

from tests.integration.coherence.history import ACKNOWLEDGED, MISS, READ, UNKNOWN, Operation, check


def test_read_after_an_acknowledged_write_may_not_be_older() -> None:
    """The read that began after the write had ended is stale; the one that began before is not."""
    write = Operation(ACKNOWLEDGED, 1, 2, 10, 20)
    late, early = Operation(READ, 1, 1, 21, 22), Operation(READ, 1, 1, 19, 30)
    verdict = check({"writer": [write], "one": [late], "other": [early]})
    assert [(stale.rule, stale.read) for stale in verdict.stale] == [("C3", late)]


def test_newer_values_and_misses_are_allowed() -> None:
    """A value that is not acknowledged yet may be read, and nothing at all."""
    write = Operation(ACKNOWLEDGED, 1, 2, 10, 20)
    reads = [Operation(READ, 1, 3, 30, 31), Operation(READ, 1, MISS, 40, 41)]
    assert not check({"writer": [write], "reader": reads}).stale


def test_order_of_acknowledgements_does_not_matter() -> None:
    """The newest of the acknowledged writes counts, not the last to be acknowledged."""
    writes = [Operation(ACKNOWLEDGED, 1, 3, 10, 20), Operation(ACKNOWLEDGED, 1, 2, 5, 25)]
    assert check({"writer": writes, "reader": [Operation(READ, 1, 2, 30, 31)]}).stale


def test_write_of_unknown_outcome_may_come_late() -> None:
    """Its value may be read at any time."""
    history = [Operation(UNKNOWN, 1, 1, 10, 0), Operation(ACKNOWLEDGED, 1, 2, 20, 30)]
    assert not check({"writer": history, "reader": [Operation(READ, 1, 1, 40, 41)]}).stale


def test_one_clients_reads_do_not_go_back() -> None:
    """A client that has read 2 does not read 1 afterwards; another client may."""
    two, one = Operation(READ, 4, 2, 10, 11), Operation(READ, 4, 1, 20, 21)
    assert [stale.rule for stale in check({"reader": [two, one]}).stale] == ["C4"]
    assert not check({"reader": [two], "other": [one]}).stale
