"""Events out of a real Redis: each is done at least once over a stream, and by one node over a channel."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cachenode.adapters.event_feeds import EventChannel, EventFeed, EventStream
from cachenode.adapters.redis_client import connect
from cachenode.core.events import EventRule, EventRules
from cachenode.errors import EventRefused
from cachenode.node.events import Events, Published
from cachenode_api.reasons import Reason
from cachenode_client import CacheClient
from tests.support.eventually import eventually
from tests.support.redis_server import OWN_LEGS, RedisServer, server
from tests.support.server import running_server


@pytest.fixture(scope="module", params=OWN_LEGS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for the tests that leave it alone."""
    with server(tmp_path_factory.mktemp("feeds"), request.param) as running:
        yield running


class Doer:
    """Stands for a node's events: notes what came, and does what it is told to."""

    def __init__(self) -> None:
        self.done: list[tuple[str, dict[str, Any], str]] = []
        self.tried = 0
        self.refuse: dict[str, Reason] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def publish(self, name: str, payload: bytes, source: str, *, event_id: str = "") -> Published:
        self.tried += 1
        await self.gate.wait()
        if name in self.refuse:
            raise EventRefused("refused", self.refuse[name])
        self.done.append((name, json.loads(payload), source))
        return Published(known=True)

    @property
    def names(self) -> Counter[str]:
        return Counter(name for name, _, _ in self.done)


class Feeds:
    """Streams and channels at one server, which end with the test."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.redis: Any = connect(url, timeout_s=5.0, connect_timeout_s=5.0)
        self.running: list[EventFeed] = []

    def start(self, feed: EventFeed) -> EventFeed:
        feed.start()
        self.running.append(feed)
        return feed

    def stream(self, doer: Any, consumer: str, **more: Any) -> EventFeed:
        client = connect(self.url, timeout_s=5.0, connect_timeout_s=5.0, max_connections=2)
        times = {"claim_s": 0.2, "claim_every_s": 0.05, "again_s": 0.02} | more
        return self.start(EventStream(client, "events", doer, group="g", consumer=consumer, **times))

    def channel(self, doer: Any, *, acts: bool) -> EventFeed:
        client = connect(self.url, timeout_s=5.0, connect_timeout_s=5.0, max_connections=2)
        return self.start(EventChannel(client, "events", doer, acts=lambda: acts, again_s=0.02))

    async def add(self, name: str, **fields: Any) -> None:
        await self.redis.xadd("events", {"event": name, "fields": json.dumps(fields)})

    async def ready(self, consumers: int = 1) -> None:
        """Return once so many have read from the group."""

        async def there() -> bool:
            groups = await self.redis.xinfo_groups("events") if await self.redis.exists("events") else []
            return bool(groups) and groups[0]["consumers"] >= consumers

        await eventually(there)

    async def listeners(self, count: int) -> bool:
        """Return whether so many listen to the channel."""
        return bool((await self.redis.pubsub_numsub("events"))[0][1] == count)

    async def pending(self) -> int:
        return int((await self.redis.xpending("events", "g"))["pending"])


@pytest.fixture
async def feeds(shared: RedisServer) -> AsyncIterator[Feeds]:
    made = Feeds(shared.url)
    await made.redis.flushall()
    yield made
    for feed in made.running:
        await feed.stop()
    await made.redis.aclose()


async def test_each_entry_is_done_by_one(feeds: Feeds) -> None:
    """Two nodes share a stream; what was there before the first is left alone; all is acknowledged."""
    await feeds.add("before")
    one, other = Doer(), Doer()
    feeds.stream(one, "a")
    feeds.stream(other, "b")
    await feeds.ready(2)
    for at in range(100):
        await feeds.add("e", at=at)
    await eventually(lambda: len(one.done) + len(other.done) >= 100)
    assert sorted(fields["at"] for _, fields, _ in one.done + other.done) == list(range(100))
    assert {source for _, _, source in one.done + other.done} == {"stream"}
    await _until_none_pending(feeds)


async def _until_none_pending(feeds: Feeds) -> None:
    async def none() -> bool:
        return not await feeds.pending()

    await eventually(none)


async def test_acknowledged_only_when_done(feeds: Feeds) -> None:
    """While an event is under way its entry is pending; what fails stays so, and is tried again until it is done."""
    doer = Doer()
    doer.gate.clear()
    feeds.stream(doer, "a", claim_s=60.0)
    await feeds.ready()
    await feeds.add("e")
    await eventually(lambda: doer.tried)
    assert await feeds.pending() == 1
    doer.refuse["e"] = Reason.DEADLINE_EXCEEDED
    doer.gate.set()
    await eventually(lambda: doer.tried > 3)
    assert await feeds.pending() == 1
    del doer.refuse["e"]
    await eventually(lambda: doer.done)
    await _until_none_pending(feeds)


async def test_poison_is_skipped(feeds: Feeds) -> None:
    """What can never be done is logged by its id alone and does not come again; what follows is done."""
    doer = Doer()
    doer.refuse = {"broad": Reason.EVENT_TOO_BROAD, "bad": Reason.INVALID_REQUEST, "new": Reason.UNKNOWN_EVENT}
    with capture_logs() as logs:
        feeds.stream(doer, "a")
        await feeds.ready()
        for name in ("broad", "bad", "new", "good"):
            await feeds.add(name, secret="canary")
        await feeds.redis.xadd("events", {"something": "else", b"\xff": b"\xff"})
        await eventually(lambda: doer.names["good"])
        await _until_none_pending(feeds)
    skipped = [log for log in logs if log["event"] == "event_skipped"]
    assert [log["why"] for log in skipped] == ["event_too_broad", "invalid_request", "unknown_event"]
    assert "canary" not in str(logs)


async def test_entries_of_a_dead_node_are_claimed(feeds: Feeds) -> None:
    """What a node got and did not do is done by another after a while."""
    dead, other = Doer(), Doer()
    dead.gate.clear()
    feed = feeds.stream(dead, "dead")
    await feeds.ready()
    await feeds.add("e")
    await eventually(lambda: dead.tried)
    await feed.stop()
    feeds.running.remove(feed)
    feeds.stream(other, "b")
    await eventually(lambda: other.done)
    assert dead.done == []
    await _until_none_pending(feeds)


async def test_node_that_restarts_goes_on(feeds: Feeds) -> None:
    """It first does what it had got in its former life."""
    former, again = Doer(), Doer()
    former.gate.clear()
    feed = feeds.stream(former, "a", claim_s=60.0)
    await feeds.ready()
    await feeds.add("e")
    await eventually(lambda: former.tried)
    await feed.stop()
    feeds.running.remove(feed)
    await feeds.add("f")
    feeds.stream(again, "a", claim_s=60.0)
    await eventually(lambda: len(again.done) == 2)
    assert again.names == {"e": 1, "f": 1}


async def test_deleted_entry_is_done_with(feeds: Feeds) -> None:
    """An entry that was taken out of the stream while it was pending holds nobody up."""
    doer = Doer()
    doer.refuse["e"] = Reason.DEADLINE_EXCEEDED
    feeds.stream(doer, "a", claim_s=60.0)
    await feeds.ready()
    await feeds.add("e")
    await eventually(lambda: doer.tried)
    await feeds.redis.xtrim("events", maxlen=0, approximate=False)
    await _until_none_pending(feeds)
    await feeds.add("f")
    await eventually(lambda: doer.names["f"])


@pytest.mark.parametrize("leg", OWN_LEGS)
async def test_server_that_comes_back_empty(tmp_path: Path, leg: str) -> None:
    """Reading goes on; the group is made anew, and begins with what there is by then."""
    with server(tmp_path, leg) as own:
        feeds, doer = Feeds(own.url), Doer()
        try:
            with capture_logs() as logs:
                feeds.stream(doer, "a")
                await feeds.ready()
                await feeds.add("e")
                await eventually(lambda: doer.names["e"])
                own.restart()
                await feeds.redis.aclose()
                feeds.redis = connect(own.url, timeout_s=5.0, connect_timeout_s=5.0)
                await feeds.add("f")
                await eventually(lambda: doer.names["f"])
            assert len([log for log in logs if log["event"] == "event_feed_away"]) >= 1
        finally:
            for feed in feeds.running:
                await feed.stop()
            await feeds.redis.aclose()


async def test_defect_does_not_end_the_feed(feeds: Feeds) -> None:
    """An error that nobody thought of is logged, and what follows is read."""

    class Defect(Doer):
        async def publish(self, name: str, payload: bytes, source: str, *, event_id: str = "") -> Published:
            if not self.tried:
                self.tried += 1
                raise RuntimeError
            return await super().publish(name, payload, source, event_id=event_id)

    doer = Defect()
    with capture_logs() as logs:
        feeds.stream(doer, "a")
        await feeds.ready()
        await feeds.add("e")
        await eventually(lambda: doer.done)
    assert "event_feed_failed" in [log["event"] for log in logs]


async def test_channel_is_for_one(feeds: Feeds) -> None:
    """All listen, and the one acts whose seat it is; what is no event is counted and forgotten."""
    acting, idle = Doer(), Doer()
    acting.refuse[""] = Reason.INVALID_REQUEST
    feeds.channel(acting, acts=True)
    feeds.channel(idle, acts=False)
    await eventually(lambda: feeds.listeners(2))
    await feeds.redis.publish("events", "no event")
    for at in range(40):
        await feeds.redis.publish("events", json.dumps({"event": "e", "fields": {"at": at}}))
    await eventually(lambda: len(acting.done) == 40)
    assert (acting.tried, idle.tried) == (41, 0)
    assert {source for _, _, source in acting.done} == {"channel"}


async def test_node_reads_both(feeds: Feeds) -> None:
    """A whole node: an event from either makes values untrue, and is counted by how it came."""
    options: dict[str, Any] = {
        "event": [{"name": "user.deleted", "invalidates": ["user:{userId}"]}],
        "events.url": feeds.url,
        "events.stream": "events",
        "events.channel": "events",
    }
    async with running_server(**options) as node, CacheClient(node.address, timeout_s=10) as cache:
        for key in ("user:7", "user:8"):
            await cache.set(key, 1)
        await eventually(lambda: feeds.listeners(1))

        async def joined() -> bool:
            groups = await feeds.redis.xinfo_groups("events") if await feeds.redis.exists("events") else []
            return [group["name"] for group in groups] == [b"cachenode:cachenode"]

        async def gone() -> bool:
            return not await cache.get_many(["user:7", "user:8"])

        await eventually(joined)
        await feeds.add("user.deleted", userId=7)
        await feeds.redis.publish("events", json.dumps({"event": "user.deleted", "fields": {"userId": 8}}))
        await eventually(gone)
        counts = {(each.source, each.outcome): each.count for each in node.stats().events}
        assert counts == {("stream", "done"): 1, ("channel", "done"): 1}


def test_rules_are_those_of_any_event() -> None:
    """The stand-in has the form of the real one."""
    rule, _ = EventRule.parse("e", ("k",))
    assert rule is not None
    node: Any = None
    assert Events(node, EventRules([rule])).publish.__name__ == Doer().publish.__name__
