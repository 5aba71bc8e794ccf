"""Events at a node: what the rules say is done at the owners, once, and acknowledged."""

from __future__ import annotations

import asyncio
import json

import pytest
from structlog.testing import capture_logs

from cachenode.core.entries import Batch, Operation
from cachenode.core.events import EventRule, EventRules
from cachenode.core.policy import NamespacePolicy
from cachenode.errors import EventRefused
from cachenode.node.events import Events, Published
from cachenode.node.service import Node
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER, STALE, TAGGED
from cachenode_api.ring import Ring
from cachenode_api.tags import pack_tags
from tests.support.clock import ManualClock
from tests.support.cluster import DirectPeers, fetch, new_node, run, view_of
from tests.support.copies import NearSession, settled

POLICY = NamespacePolicy(name="n", ttl_s=100.0, max_value_bytes=100, l2=False, share=1, stale_s=5.0)


def rules() -> EventRules:
    made = [
        EventRule.parse("user.deleted", ("user:{userId}", "user:{userId}:*"), ("of-{userId}",)),
        EventRule.parse("price", ("k:{sku}", "k:list:*"), namespace="n", expire=True),
        EventRule.parse("elsewhere", ("x",), namespace="strict"),
    ]
    return EventRules([rule for rule, _ in made if rule is not None])


class Cluster:
    """Two nodes; events come to the one that owns as little as possible of what they concern."""

    def __init__(self) -> None:
        self.clock, self.peers, self.view = ManualClock(), DirectPeers(), view_of(1, "a", "b")
        self.nodes: dict[str, Node] = {
            name: new_node(name, self.clock, peers=self.peers, policies=[POLICY], view=self.view) for name in "ab"
        }
        self.events = {name: Events(node, rules(), timeout_s=2.0) for name, node in self.nodes.items()}

    def owner(self, key: bytes) -> Node:
        return self.nodes[Ring(self.view).owner(key) or ""]

    async def put(self, key: bytes, *tags: bytes, namespace: str = "default") -> None:
        value, flags = (pack_tags(tags) + b"v", TAGGED) if tags else (b"v", 0)
        await run(self.owner(key), Batch(Operation.SET, namespace, [key], [value], [flags]))

    async def there(self, *keys: bytes) -> list[bytes]:
        return [key for key in keys if await fetch(self.owner(key), key) is not None]

    async def publish(self, name: str, at: str = "a", event_id: str = "", **fields: object) -> Published:
        return await self.events[at].publish(name, json.dumps(fields).encode(), "api", event_id=event_id)


@pytest.mark.parametrize("at", ["a", "b"])
async def test_event_makes_untrue_what_its_rule_says(at: str) -> None:
    """Keys, prefixes and tags, at whichever node their owners are; all else stays."""
    cluster = Cluster()
    keys = [b"user:7", b"user:7:a", b"user:7:b", b"user:70", b"user:8:a", b"other"]
    for key in keys:
        await cluster.put(key)
    await cluster.put(b"tagged", b"of-7")
    done = await cluster.publish("user.deleted", at, userId=7)
    assert (done.known, done.found, done.duplicate) == (True, 1, False)
    (place,) = done.invalidations
    assert (place.namespace, place.expire, place.keys, len(place.selectors)) == ("default", False, (b"user:7",), 2)
    assert await cluster.there(*keys, b"tagged") == [b"user:70", b"user:8:a", b"other"]
    assert cluster.events[at].counts == {("api", "done"): 1}
    assert cluster.events[at].invalidations == 3


async def test_event_may_expire() -> None:
    """A rule's mode and namespace are those of the invalidation."""
    cluster = Cluster()
    await cluster.put(b"k:1", namespace="n")
    await cluster.put(b"k:list:2", namespace="n")
    await cluster.publish("price", sku=1)
    for key in (b"k:1", b"k:list:2"):
        result = await run(cluster.owner(key), Batch(Operation.GET, "n", [key]))
        assert HEADER.unpack_from(result.records[0])[1] & STALE


async def test_answer_waits_for_copies() -> None:
    """It is acknowledged: nobody serves a copy when it comes."""
    cluster = Cluster()
    await cluster.put(b"user:7")
    session = NearSession(cluster.owner(b"user:7"))
    assert await session.read(b"user:7")
    publishing = asyncio.create_task(cluster.publish("user.deleted", userId=7))
    assert not await settled(publishing)
    session.acknowledge()
    await asyncio.wait_for(publishing, 5)
    assert session.serves(b"user:7") is None


async def test_same_event_is_done_once() -> None:
    """A node remembers an event's id and answers as it did; another id, or none, is another event."""
    cluster = Cluster()
    await cluster.put(b"user:7")
    first = await cluster.publish("user.deleted", event_id="1", userId=7)
    await cluster.put(b"user:7")
    second = await cluster.publish("user.deleted", event_id="1", userId=7)
    assert (second.duplicate, second.found, second.invalidations) == (True, 1, first.invalidations)
    assert await cluster.there(b"user:7") == [b"user:7"]
    await cluster.publish("user.deleted", event_id="2", userId=7)
    assert await cluster.there(b"user:7") == []
    assert cluster.events["a"].counts == {("api", "done"): 2, ("api", "duplicate"): 1}


async def test_same_event_at_the_same_time_is_done_once() -> None:
    """Who comes with the same id while the first is under way waits for its outcome."""
    cluster = Cluster()
    await cluster.put(b"user:7")
    session = NearSession(cluster.owner(b"user:7"))
    await session.read(b"user:7")
    both = [asyncio.create_task(cluster.publish("user.deleted", event_id="1", userId=7)) for _ in range(2)]
    assert not await settled(both[1])
    session.acknowledge()
    first, second = await asyncio.gather(*both)
    assert (first.duplicate, second.duplicate) == (False, True)
    assert cluster.events["a"].invalidations == 3


async def test_failed_event_may_come_again() -> None:
    """What could not be done is not taken for done: its id is forgotten."""
    cluster = Cluster()
    await cluster.put(b"user:7")
    events = cluster.events["a"]
    cluster.peers.cut.update({"a", "b"})
    with pytest.raises(EventRefused) as error:
        await events.publish("user.deleted", b'{"userId": 7}', "stream", event_id="1", timeout_s=0.05)
    assert error.value.reason is Reason.DEADLINE_EXCEEDED
    cluster.peers.cut.clear()
    assert not (await cluster.publish("user.deleted", event_id="1", userId=7)).duplicate
    assert await cluster.there(b"user:7") == []
    assert events.counts == {("stream", "failed"): 1, ("api", "done"): 1}


async def test_owner_out_of_reach_is_asked_again() -> None:
    """An event waits for an owner that is away for a moment."""
    cluster = Cluster()
    key = next(b"user:%d" % at for at in range(100) if Ring(cluster.view).owner(b"user:%d" % at) == "b")
    await cluster.put(key)
    cluster.peers.cut.add("b")
    publishing = asyncio.create_task(cluster.publish("user.deleted", userId=int(key[5:])))
    await settled(publishing)
    cluster.peers.cut.clear()
    await asyncio.wait_for(publishing, 5)
    assert await cluster.there(key) == []


async def test_unknown_events_are_counted_and_said_once() -> None:
    """No rule, nothing to do; the log says so once for each name, and not for ever."""
    cluster = Cluster()
    events = cluster.events["a"]
    with capture_logs() as logs:
        for at in range(150):
            assert not (await cluster.publish(f"unknown.{at}")).known
            await cluster.publish("unknown.0")
    assert len([each for each in logs if each["event"] == "unknown_event"]) == 100
    assert events.counts == {("api", "unknown"): 300}
    events.refuse_unknown = True
    with pytest.raises(EventRefused) as error:
        await cluster.publish("unknown.0")
    assert error.value.reason is Reason.UNKNOWN_EVENT
    assert events.counts == {("api", "unknown"): 301}


async def test_refusals_are_counted() -> None:
    """What cannot be used, is too broad, or names a namespace that there is not, is told with its reason."""
    cluster = Cluster()
    events = cluster.events["a"]
    for name, payload, event_id, reason in (
        ("user.deleted", b"[]", "", Reason.INVALID_REQUEST),
        ("user.deleted", b"{}", "", Reason.EVENT_TOO_BROAD),
        ("user.deleted", b"{}", "x" * 129, Reason.INVALID_REQUEST),
    ):
        with pytest.raises(EventRefused) as error:
            await events.publish(name, payload, "api", event_id=event_id)
        assert error.value.reason is reason
    assert events.counts == {("api", "refused"): 3}
    cluster.nodes["a"].namespaces._implicit_left = 0
    with pytest.raises(EventRefused) as error:
        await cluster.publish("elsewhere")
    assert error.value.reason is Reason.UNKNOWN_NAMESPACE


async def test_same_event_does_not_wait_for_ever() -> None:
    """Who comes with the id of an event that is under way waits as long as he may."""
    cluster = Cluster()
    await cluster.put(b"user:7")
    session = NearSession(cluster.owner(b"user:7"))
    await session.read(b"user:7")
    first = asyncio.create_task(cluster.publish("user.deleted", event_id="1", userId=7))
    await settled(first)
    with pytest.raises(EventRefused) as error:
        await cluster.events["a"].publish("user.deleted", b"{}", "api", event_id="1", timeout_s=0.01)
    assert error.value.reason is Reason.DEADLINE_EXCEEDED
    session.acknowledge()
    assert not (await first).duplicate


async def test_oldest_ids_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of ids is bounded."""
    monkeypatch.setattr("cachenode.node.events._REMEMBERED", 2)
    cluster = Cluster()
    done = [await cluster.publish("user.deleted", event_id=one, userId=7) for one in ("1", "2", "3", "3", "2", "1")]
    assert [each.duplicate for each in done] == [False, False, False, True, True, False]
