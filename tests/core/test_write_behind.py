"""What is sent next to an origin, what a failure means, and whose turn it is."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.entries import QueuedWrite
from cachenode.core.queued import SHARDS, pack_record, shard_of, unpack_record
from cachenode.core.write_behind import Backlog, Dirty, SinkHealth, Turns, WriteBehindLimits
from cachenode.errors import OriginError

LIMITS = WriteBehindLimits(batch_writes=3, attempts=3, retry_s=1.0, retry_max_s=10.0)
AWAY = OriginError("connection refused")
REFUSED = OriginError("it violates a constraint", again=False)


def waiting(*keys: bytes, delay_s: float = 0.0, limits: WriteBehindLimits = LIMITS) -> Backlog:
    backlog = Backlog(limits, delay_s)
    for number, key in enumerate(keys):
        backlog.add(0, b"%d" % number, key, 0.0, 0.0)
    return backlog


def keys_of(batch: list[Dirty]) -> list[bytes]:
    return [dirty.key for dirty in batch]


def test_batches_by_size() -> None:
    """A call has at most so many writes as the limits, and the sink, allow; nothing is sent twice."""
    backlog = waiting(b"a", b"b", b"c", b"d", b"e")
    assert backlog.ready(0.0)
    assert keys_of(backlog.take(0.0, 100)) == [b"a", b"b", b"c"]
    assert keys_of(backlog.take(0.0, 1)) == [b"d"]
    assert keys_of(backlog.take(0.0, 100)) == [b"e"]
    assert backlog.take(0.0, 100) == []
    assert not backlog.ready(0.0)
    assert len(backlog) == 5


def test_batches_by_delay() -> None:
    """A key waits for others, but not longer than the delay since it was written, and not if there are enough."""
    backlog = waiting(b"a", delay_s=5.0)
    backlog.add(0, b"old", b"b", 4.0, 0.0)
    assert not backlog.ready(0.9)
    assert keys_of(backlog.take(1.0, 100)) == [b"b"]
    assert not backlog.ready(4.9)
    backlog.add(0, b"8", b"c", 0.0, 2.0)
    backlog.add(0, b"9", b"d", 0.0, 2.0)
    assert keys_of(backlog.take(2.0, 100)) == [b"a", b"c", b"d"]


def test_known_entry_is_not_sent_twice() -> None:
    """An entry that is claimed again while it is known changes nothing; another entry of the key takes its place."""
    backlog = waiting(b"a")
    backlog.add(0, b"0", b"a", 0.0, 0.0)
    (first,) = backlog.take(0.0, 100)
    backlog.add(0, b"1", b"a", 0.0, 0.0)
    (second,) = backlog.take(0.0, 100)
    assert (first.id, second.id) == (b"0", b"1")
    assert not backlog.knows(first)
    backlog.done(first, 0.0, newer=False)
    assert backlog.knows(second)


def test_newer_write_waits_under_the_same_entry() -> None:
    """A key that was written again while it was sent waits anew, as if it had not failed before."""
    backlog = waiting(b"a", delay_s=2.0)
    (dirty,) = backlog.take(2.0, 100)
    dirty.failures = dirty.attempts = 2
    backlog.done(dirty, 2.0, newer=True)
    assert not backlog.ready(3.9)
    assert backlog.take(4.0, 100) == [dirty]
    assert (dirty.attempts, dirty.failures) == (0, 0)
    backlog.done(dirty, 4.0, newer=False)
    assert len(backlog) == 0


def test_shard_that_left_is_forgotten() -> None:
    """What belongs to a shard of another node is neither sent nor settled here."""
    backlog = waiting(b"a", b"b")
    backlog.add(1, b"x", b"c", 0.0, 0.0)
    (first,) = backlog.take(0.0, 1)
    backlog.leave(0)
    assert keys_of(backlog.take(0.0, 100)) == [b"c"]
    backlog.done(first, 0.0, newer=True)
    backlog.back(first, 0.0)
    assert backlog.take(0.0, 100) == []


def test_pauses_grow() -> None:
    """Each failure in a row doubles the pause up to the longest, each up to half shorter by chance."""
    assert [LIMITS.pause_s(failures, 0.0) for failures in (1, 2, 3, 4, 5, 1_000)] == [1, 2, 4, 8, 10, 10]
    assert LIMITS.pause_s(1, 0.999) == pytest.approx(0.5, abs=0.01)


def test_failure_of_one_is_its_own() -> None:
    """A write that fails beside others waits longer each time and becomes a dead letter; the others are done."""
    backlog, health = waiting(b"bad", *(b"%d" % number for number in range(4))), SinkHealth()
    now, dead = 0.0, []
    for attempt in range(1, LIMITS.attempts + 1):
        backlog.add(0, b"more%d" % attempt, b"more%d" % attempt, 0.0, now)
        batch = backlog.take(now, 100)
        assert b"bad" in keys_of(batch)
        answers = [AWAY if dirty.key == b"bad" else None for dirty in batch]
        verdict = backlog.judge(batch, answers, health, now, 0.0)
        assert len(verdict.done) == len(batch) - 1
        assert health.paused_until == 0.0
        for dirty in verdict.done:
            backlog.done(dirty, now, newer=False)
        dead += verdict.dead
        now += LIMITS.pause_s(attempt, 0.0)
    assert [(dirty.key, why) for dirty, why in dead] == [(b"bad", "connection refused")]


def test_origin_that_is_away_makes_no_dead_letters() -> None:
    """However long an origin is away, nothing is given up; it is asked less and less often, with one write."""
    backlog, health = waiting(b"a", b"b", b"c"), SinkHealth()
    now, sizes = 0.0, []
    for _ in range(50):
        now = max(now, health.paused_until) + LIMITS.retry_max_s
        batch = backlog.take(now, 100)
        sizes.append(len(batch))
        verdict = backlog.judge(batch, [AWAY] * len(batch), health, now, 0.0, whole=True)
        assert (verdict.done, verdict.dead) == ([], [])
    assert sizes == [3] + [1] * 49
    assert health.paused_until == now + LIMITS.retry_max_s


def test_poison_in_a_call_that_fails_as_a_whole() -> None:
    """Where the sink cannot say which write is to blame, each is sent alone: the poison dies, the others are done."""
    backlog, health = waiting(b"a", b"bad", b"c"), SinkHealth()
    now, done, dead = 0.0, [], []
    for _ in range(40):
        now += 10.0
        backlog.add(0, b"%f" % now, b"%f" % now, 0.0, now)
        while batch := backlog.take(now, 100):
            failed = b"bad" in keys_of(batch)
            answers = [AWAY if failed else None] * len(batch)
            verdict = backlog.judge(batch, answers, health, now, 0.0, whole=failed)
            done += keys_of(verdict.done)
            dead += keys_of([dirty for dirty, _ in verdict.dead])
            for dirty in verdict.done + [dirty for dirty, _ in verdict.dead]:
                backlog.done(dirty, now, newer=False)
    assert dead == [b"bad"]
    assert {b"a", b"c"} <= set(done)


def test_refusal_for_good_is_believed() -> None:
    """An origin that says it will never take a write is not asked again, but nobody is condemned with a whole call."""
    backlog, health = waiting(b"a", b"b"), SinkHealth()
    batch = backlog.take(0.0, 100)
    assert backlog.judge(batch, [REFUSED] * 2, health, 0.0, 0.0, whole=True).dead == []
    (one,) = backlog.take(100.0, 100)
    verdict = backlog.judge([one], [REFUSED], health, 100.0, 0.0, whole=True)
    assert verdict.dead == [(one, "it violates a constraint")]


def test_urgent_goes_first_and_nobody_starves() -> None:
    """The more urgent namespace goes first as long as it has something, but the others get a turn now and then."""
    turns, chosen = Turns(), Counter[str]()
    for _ in range(90):
        chosen[turns.pick({"payments": 1, "users": 5, "analytics": 10})] += 1
    assert chosen["payments"] > 60
    assert min(chosen["users"], chosen["analytics"]) >= 8
    assert turns.pick({"analytics": 10}) == "analytics"


def test_equals_take_turns() -> None:
    """Namespaces of one priority share alike."""
    turns = Turns()
    chosen = Counter(turns.pick({"a": 5, "b": 5}) for _ in range(20))
    assert chosen == {"a": 10, "b": 10}


@given(st.binary(min_size=1), st.none() | st.binary(), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1))
def test_records_come_back(key: bytes, value: bytes | None, flags: int, version: int) -> None:
    """A write is the same after it was a record; the flags of a removal mean nothing."""
    write = QueuedWrite(key, value, flags, version)
    assert unpack_record(key, pack_record(write)) == write._replace(flags=0 if value is None else flags)
    assert 0 <= shard_of(key) < SHARDS


@pytest.mark.parametrize("record", [b"", b"\x00" * 12, b"\x02" + b"\x00" * 12])
def test_foreign_record_is_refused(record: bytes) -> None:
    """What is no record is not taken for one."""
    with pytest.raises(ValueError, match="record"):
        unpack_record(b"k", record)
