from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.entries import Batch, BatchResult, Failure, Loaded, Operation
from cachenode.core.regions import RegionEntry
from cachenode.wire import (
    BadBatch,
    batch_from_wire,
    batch_to_wire,
    loaded_from_wire,
    loaded_to_wire,
    member_from_wire,
    merge_reply,
    region_entry_from_wire,
    region_entry_to_wire,
    replies_to_wire,
    view_from_wire,
    view_to_wire,
)
from cachenode_api.errors import InvalidView
from cachenode_api.reasons import Reason
from cachenode_api.v1 import common_pb2 as pb
from cachenode_api.v1 import region_pb2
from cachenode_api.view import Member, View

LATE = Failure(Reason.DEADLINE_EXCEEDED, "late")


def empty(count: int, *, is_get: bool = True) -> BatchResult:
    """Return the result into which replies are merged."""
    return BatchResult(
        records=[b""] * count if is_get else (),
        versions=() if is_get else [0] * count,
        layers=[1] * count if is_get else None,
    )


COLUMNS: dict[Operation, dict[str, Any]] = {
    Operation.GET: {"slide": True, "slide_ms": 2**64 - 1},
    Operation.SET: {
        "values": [b"1", b"2"],
        "flags": [3, 4],
        "ttls_ms": [5, 2**64 - 1],
        "if_versions": [6, 2**64 - 1],
    },
    Operation.INCR: {"deltas": [-(2**63) + 1]},
    Operation.TOUCH: {"ttls_ms": [9]},
    Operation.LEASE: {"lease_s": 2.5},
    Operation.FULFILL: {"values": [b"1", b"2"], "tokens": [6, 2**64 - 1], "depends_on": [b"\x03\x00n/a"]},
    Operation.ABANDON: {"tokens": [6, 7], "details": ["", "ValueError"]},
    Operation.INVALIDATE: {"acknowledged": False},
    Operation.BARRIER: {"flags": [1, 3]},
    Operation.APPLY: {"flags": [1, 3], "tokens": [6, 2**64 - 1]},
    Operation.DISTRUST: {"tokens": [6, 2**64 - 1]},
    Operation.REPLAY: {"tokens": [0, 0]},
    Operation.BEQUEATH: {"tokens": [6, 7], "ttls_ms": [60_000, 1], "epoch": 2**63},
    Operation.BLOOM_BEGIN: {"values": [b"1", b"2"], "tokens": [6, 7]},
    Operation.BLOOM_SAVE: {"values": [b"1", b"2"], "tokens": [6, 7]},
    Operation.BLOOM_TAKE: {"values": [b"1", b"2"], "tokens": [6, 7]},
    Operation.OFFER: {"epoch": 2**63},
    Operation.HAND_OVER: {
        "values": [b"1", b"2"],
        "flags": [3, 4],
        "ttls_ms": [5, 2**64 - 1],
        "tokens": [6, 2**64 - 1],
        "epoch": 8,
        "position": 2**64 - 1,
        "since_s": 9.5,
        "latest_ms": [0, 2**64 - 1],
    },
    Operation.LINK: {
        "flags": [0, 4],
        "ttls_ms": [5, 2**64 - 1],
        "tokens": [6, 2**64 - 1],
        "epoch": 8,
        "depends_on": [b"n/a", b"n/b"],
    },
}


@pytest.mark.parametrize("operation", list(Operation))
def test_batch_there_and_back(operation: Operation) -> None:
    """A batch that goes over the wire arrives as it was, time limit included."""
    batch = Batch(operation, "users", [b"a", b"b"], timeout_s=1.5)
    for column, content in COLUMNS.get(operation, {}).items():
        setattr(batch, column, content)
    message = pb.Batch.FromString(batch_to_wire(batch, 7).SerializeToString())
    assert message.id == 7
    arrived = batch_from_wire(message, max_keys=2)
    fields = ("operation", "namespace", "timeout_s", "lease_s", "acknowledged", "epoch", "position", "since_s")
    for field in (*fields, "slide", "slide_ms"):
        assert getattr(arrived, field) == getattr(batch, field)
    for column in ("keys", "values", "flags", "ttls_ms", "tokens", "details", "if_versions", "deltas", "depends_on"):
        assert list(getattr(arrived, column)) == list(getattr(batch, column))


def test_empty_namespace_is_the_default() -> None:
    """No namespace on the wire means the one called default."""
    for operation in (pb.OPERATION_GET, pb.OPERATION_DELETE):
        assert batch_from_wire(pb.Batch(operation=operation, keys=[b"k"]), max_keys=1).namespace == "default"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (pb.Batch(keys=[b"k"]), "operation: unknown"),
        (pb.Batch(operation=77, keys=[b"k"]), "operation: unknown"),  # type: ignore[arg-type]
        (pb.Batch(operation=pb.OPERATION_GET), "keys: 0 in one batch, must be 1 to 3"),
        (pb.Batch(operation=pb.OPERATION_GET, keys=[b"k"] * 4), "keys: 4 in one batch, must be 1 to 3"),
        (pb.Batch(operation=pb.OPERATION_SET, keys=[b"k"] * 2, values=[b"v"]), "values: 1 for 2 keys"),
        (pb.Batch(operation=pb.OPERATION_TOUCH, keys=[b"k"], values=[b"v"]), "values: 1 for 1 keys"),
        (pb.Batch(operation=pb.OPERATION_SET, keys=[b"k"] * 2, values=[b"v"] * 2, flags=[1]), "flags: 1 for 2 keys"),
        (pb.Batch(operation=pb.OPERATION_TOUCH, keys=[b"k"] * 3, ttls_ms=[1, 2]), "ttls_ms: 2 for 3 keys"),
        (pb.Batch(operation=pb.OPERATION_INCR, keys=[b"k"]), "deltas: 0 for 1 keys"),
        (pb.Batch(operation=pb.OPERATION_TOUCH, keys=[b"k"], if_versions=[1]), "if_versions: 1 for 1 keys"),
        (pb.Batch(operation=pb.OPERATION_FULFILL, keys=[b"k"], values=[b"v"]), "tokens: 0 for 1 keys"),
        (pb.Batch(operation=pb.OPERATION_FULFILL, keys=[b"k"], tokens=[1]), "values: 0 for 1 keys"),
        (pb.Batch(operation=pb.OPERATION_SET, keys=[b"k"], values=[b"v"], tokens=[1]), "tokens: 1 for 1 keys"),
        (pb.Batch(operation=pb.OPERATION_ABANDON, keys=[b"k"], tokens=[1], details=["x"] * 2), "details: 2 for 1"),
        (pb.Batch(operation=pb.OPERATION_ABANDON, keys=[b"k"], tokens=[1], details=["x" * 201]), "details: a text of"),
    ],
)
def test_columns_that_do_not_fit_are_named(message: pb.Batch, text: str) -> None:
    """A batch whose columns do not fit together is refused with the column's name and what was wrong."""
    with pytest.raises(BadBatch, match=text):
        batch_from_wire(message, max_keys=3)


def test_small_result_is_one_reply_without_positions() -> None:
    """The usual reply carries neither positions nor reasons nor layers."""
    (reply,) = replies_to_wire(3, BatchResult(records=[b"r", b""], now_s=5.0), max_bytes=100)
    assert (reply.id, list(reply.records), reply.now_s) == (3, [b"r", b""], 5.0)
    assert [list(column) for column in (reply.indices, reply.reasons, reply.details, reply.layers)] == [[]] * 4


def test_large_result_is_split_in_order() -> None:
    """Records beyond the limit go into further replies; one that is larger than the limit goes alone."""
    result = BatchResult(records=[b"a" * 6, b"b" * 6, b"c" * 30, b"d"], failures={3: LATE}, layers=[1, 2, 1, 1])
    replies = list(replies_to_wire(1, result, max_bytes=12))
    assert [list(reply.indices) for reply in replies] == [[0, 1], [2], [3]]
    assert [list(reply.layers) for reply in replies] == [[1, 2], [1], [1]]
    assert [list(reply.reasons) for reply in replies] == [[], [], [Reason.DEADLINE_EXCEEDED]]


def test_tokens_travel_and_are_merged() -> None:
    """A LEASE's tokens come with their keys, also when the records are split and arrive in another order."""
    result = BatchResult(records=[b"", b"b" * 30, b""], tokens=[7, 0, 9])
    replies = list(replies_to_wire(1, result, max_bytes=12))
    assert [list(reply.tokens) for reply in replies] == [[7], [0], [9]]
    into = BatchResult(records=[b""] * 3, tokens=[0] * 3)
    assert sum(merge_reply(into, reply, 3) for reply in reversed(replies)) == 3
    assert (list(into.tokens), into.records[1]) == ([7, 0, 9], b"b" * 30)


record = st.binary(max_size=40)


@given(st.lists(st.tuples(record, st.booleans(), st.sampled_from([1, 2])), min_size=1, max_size=20), st.randoms())
def test_whatever_is_split_can_be_merged(keys: list[tuple[bytes, bool, int]], random: Random) -> None:
    """The parts of a result, each split and in any order of arrival, make the same result at the other end."""
    shuffled = list(range(len(keys)))
    random.shuffle(shuffled)
    half = len(keys) // 2
    replies: list[pb.Reply] = []
    for indices in filter(None, (shuffled[:half], shuffled[half:])):
        part = BatchResult(
            indices=indices,
            records=[b"" if keys[index][1] else keys[index][0] for index in indices],
            failures={at: LATE for at, index in enumerate(indices) if keys[index][1]},
            layers=[keys[index][2] for index in indices],
            now_s=7.0,
        )
        replies.extend(replies_to_wire(1, part, max_bytes=50))
    random.shuffle(replies)
    merged = empty(len(keys))
    answered = [merge_reply(merged, reply, len(keys)) for reply in replies]
    assert sum(answered) == len(keys)
    assert merged.records == [b"" if failed else found for found, failed, _ in keys]
    assert merged.failures == {at: LATE for at, (_, failed, _) in enumerate(keys) if failed}
    assert merged.layers == [layer for *_, layer in keys]
    assert merged.now_s == 7.0


def test_versions_are_merged() -> None:
    """Results of writes land at their keys, failures beside them."""
    merged = empty(3, is_get=False)
    part = BatchResult(indices=[2, 0], versions=[9, 0], failures={1: LATE})
    (reply,) = replies_to_wire(1, part, max_bytes=10)
    assert merge_reply(merged, reply, 3) == 2
    assert (merged.versions, merged.failures) == ([0, 0, 9], {0: LATE})


@pytest.mark.parametrize(
    "reply",
    [
        pb.Reply(records=[b"r"]),
        pb.Reply(indices=[0], records=[b"r", b"s"]),
        pb.Reply(indices=[5], records=[b"r"]),
        pb.Reply(indices=[0, 1], records=[b"r", b"s"], reasons=[7]),
        pb.Reply(indices=[0], records=[b"r"], reasons=[7]),
        pb.Reply(indices=[0], versions=[1]),
    ],
)
def test_malformed_reply_is_refused(reply: pb.Reply) -> None:
    """A reply whose columns do not fit, or that is of another operation, is an error and not a wrong result."""
    with pytest.raises((ValueError, IndexError)):
        merge_reply(empty(2), reply, 2)


def test_reason_of_a_later_version_is_internal() -> None:
    """A reason that this node does not know still fails the key."""
    merged = empty(1)
    merge_reply(merged, pb.Reply(records=[b""], reasons=[99], details=["new"]), 1)
    assert merged.failures == {0: Failure(Reason.INTERNAL, "new")}


def test_view_there_and_back() -> None:
    """A view that goes over the wire arrives as it was."""
    members = (Member("a", "1", "a:1", "a:2", 3), Member("b", "2", "b:1"))
    view = View(9, b"seed", members)
    assert view_from_wire(pb.View.FromString(view_to_wire(view).SerializeToString())) == view


def test_member_without_a_weight_has_one() -> None:
    """A sender that does not know weights means 1."""
    assert member_from_wire(pb.Member(id="a")).weight == 1


def test_view_that_breaks_the_contract_is_refused() -> None:
    """A view with a hash that this node does not know must not be used."""
    message = view_to_wire(View(1, b"", ()))
    message.ring_hash = "other"
    with pytest.raises(InvalidView):
        view_from_wire(message)


@pytest.mark.parametrize(
    "entry",
    [RegionEntry("users", (b"a", b"\xff"), expire=True), RegionEntry("users", (b"t", b"p"), (3, 1), written=True)],
)
def test_region_entry_there_and_back(entry: RegionEntry) -> None:
    """What another region is told arrives as it was."""
    message = region_pb2.RegionEntry.FromString(region_entry_to_wire(entry).SerializeToString())
    assert region_entry_from_wire(message) == entry


@pytest.mark.parametrize(
    "loaded",
    [
        Loaded(b"", 0),
        Loaded(b"v", 7, 0.25, keep=False),
        Loaded(b"v", 0, math.inf, depends_on=(("users", b"a"), ("teams", b"\xff"))),
    ],
)
def test_loaded_value_there_and_back(loaded: Loaded) -> None:
    """What another region's origin has arrives as a loader would have brought it; an unnamed namespace is its key's."""
    message = region_pb2.RegionValue.FromString(loaded_to_wire(loaded, "users").SerializeToString())
    found = loaded_from_wire(message)
    assert found._replace(depends_on=()) == loaded._replace(depends_on=())
    assert set(found.depends_on) == set(loaded.depends_on)
    named = loaded_from_wire(loaded_to_wire(Loaded(b"v", 0, depends_on=("a",)), "users"))
    assert named.depends_on == (("users", b"a"),)


@pytest.mark.parametrize(
    "message", [region_pb2.RegionEntry(namespace="users"), region_pb2.RegionEntry(texts=[b"a", b"b"], kinds=[1])]
)
def test_region_entry_that_does_not_fit_is_refused(message: region_pb2.RegionEntry) -> None:
    """Without texts, or without a kind for each, it says nothing that could be done."""
    with pytest.raises(BadBatch):
        region_entry_from_wire(message)


def test_a_clients_batch_comes_from_no_region() -> None:
    """Only a link between nodes takes that word: a client's would keep other regions from hearing of its change."""
    batch = Batch(Operation.INVALIDATE, "users", [b"a"], region="west")
    message = batch_to_wire(batch, 7)
    assert message.region == "west"
    assert not batch_from_wire(message, max_keys=1).region
