"""The live stream: what it tells, how it ends, and how many may watch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientResponse

from cachenode.console import feed as feeding
from cachenode.console.feed import Feeds
from cachenode.console.fleet import Fleet
from cachenode.console.refusals import Refused
from cachenode.server import Server
from cachenode_client import CacheClient
from tests.console.conftest import Page
from tests.support.eventually import eventually


async def heard(answer: ClientResponse) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yield the events of a stream."""
    kind = ""
    async for raw in answer.content:
        line = raw.decode().rstrip("\n")
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))


@pytest.fixture
async def fleet(server: Server) -> AsyncIterator[Fleet]:
    """The members, as the console asks them."""
    found = Fleet("node-0", lambda: server.node.placement.view)
    yield found
    await found.close()


async def test_pictures_show_the_cluster(server: Server, page: Page) -> None:
    """The first event is the history, then come pictures; one bears what was counted and who owns how much."""
    async with CacheClient(server.address) as client:
        await client.set("k", 1)
        async with page.http.post(f"{page.url}/ui/api/live", json={}, headers=page.headers) as answer:
            events = heard(answer)
            assert await anext(events) == ("history", {"every_s": 2.0, "pictures": []})
            kind, picture = await anext(events)
            assert (kind, picture["epoch"], picture["seen_by"]) == ("picture", 1, "node-0")
            (member,) = picture["members"]
            assert (member["id"], member["answers"], member["share"], member["entries"]) == ("node-0", True, 1.0, 1)
            assert picture["total"] is None
            for _ in range(5):
                await client.get("k")
            kind, picture = await anext(events)
            assert picture["namespaces"]["default"]["l1_hits"] > 0
            assert picture["latency"]["get"]["count"] >= 1
            assert [each["severity"] for each in picture["findings"]] == []


async def test_a_page_that_leaves_frees_its_place(page: Page, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many pages watch at most; one more is told to close some; who is gone counts no more."""
    monkeypatch.setattr(feeding, "MOST_WATCHERS", 1)
    url = f"{page.url}/ui/api/live"
    first = await page.http.post(url, json={}, headers=page.headers)
    status, document = await page.call("live")
    assert (status, document["error"]["text"]) == (429, "1 pages watch already")
    first.close()

    async def room() -> bool:
        async with page.http.post(url, json={}, headers=page.headers) as answer:
            return answer.status == 200

    await eventually(room, within_s=20)


async def test_stream_of_a_token_that_was_taken_back_ends(fleet: Fleet) -> None:
    """What nodes refuse ends the feed, and is told."""

    async def refuse(token: str) -> Any:
        raise Refused(403, "not any more")

    fleet.moment = refuse  # type: ignore[method-assign]
    feeds = Feeds(fleet, 0.01)
    kinds = [kind async for kind, _ in feeds.watch("t")]
    assert kinds == ["history", "refused"]
    assert feeds.watchers == 0


async def test_trouble_is_told_and_ends(fleet: Fleet) -> None:
    """A node without a view says so, and shows pictures once it has one."""
    view, fleet._view = fleet._view, lambda: None
    feeds = Feeds(fleet, 0.01)
    stream = feeds.watch("")
    assert (await anext(stream))[0] == "history"
    kind, document = await anext(stream)
    assert (kind, document["status"]) == ("trouble", 503)
    assert "has not joined" in document["text"]
    fleet._view = view
    while kind != "picture":
        kind, _ = await anext(stream)
    await stream.aclose()
    await feeds.close()


async def test_a_slow_watcher_holds_nobody_up(fleet: Fleet) -> None:
    """One watches on while the other takes nothing; the other gets the newest then."""
    feeds = Feeds(fleet, 0.01)
    slow, quick = feeds.watch(""), feeds.watch("")
    await anext(slow)
    at = [document["at"] async for document in _some(quick, 4)]
    assert len(at) == 4
    assert (await anext(slow))[1]["at"] >= at[-1]
    assert feeds.watchers == 2
    for each in (slow, quick):
        await each.aclose()
    await feeds.close()


async def _some(stream: AsyncIterator[tuple[str, Any]], count: int) -> AsyncIterator[dict[str, Any]]:
    async for kind, document in stream:
        if kind == "picture":
            yield document
            count -= 1
        if not count:
            return


async def test_history_is_there_after_a_reload(fleet: Fleet) -> None:
    """Who comes back within a minute has the curves of before."""
    feeds = Feeds(fleet, 0.01)
    first = feeds.watch("")
    _ = [each async for each in _some(first, 4)]
    await first.aclose()
    second = feeds.watch("")
    kind, document = await anext(second)
    assert (kind, len(document["pictures"]) >= 2) == ("history", True)
    assert set(document["pictures"][0]) == {"at", "total", "namespaces", "latency", "nodes_up"}
    await second.aclose()
    await feeds.close()


async def test_closing_ends_whoever_watches(fleet: Fleet) -> None:
    """A node that stops does not wait for pages."""
    feeds = Feeds(fleet, 60.0)
    stream = feeds.watch("")
    assert (await anext(stream))[0] == "history"
    assert (await anext(stream))[0] == "picture"
    waiting = asyncio.ensure_future(anext(stream, None))
    await asyncio.sleep(0)
    await feeds.close()
    assert await waiting is None
