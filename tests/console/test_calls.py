"""The console's calls about keys, events and settings, against a real node."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from typer.testing import CliRunner

from cachenode.cli.main import app
from cachenode.server import Server
from cachenode_client import CacheClient
from tests.console.conftest import Page
from tests.support.server import running_server

HOSTILE = '<img src=x onerror="window.pwned=1">\u202e\n'
FILES = {"tls__cert_file": "node", "tls__key_file": "node-key", "tls__ca_file": "ca"}
RULES = """
[[event]]
name = "user.deleted"
invalidates = ["user:{userId}", "user:{userId}:*"]
tags = ["user-{userId}"]
"""


@pytest.fixture
async def client(server: Server) -> AsyncIterator[CacheClient]:
    """A client of the node."""
    async with CacheClient(server.address, near_cache=None) as opened:
        yield opened


async def test_a_key_is_explained_without_its_value(page: Page, client: CacheClient) -> None:
    """A key comes back as it is, for the page to show as text, with everything but the value."""
    await client.set(HOSTILE, "secret-value", tags=["eu"])
    status, found = await page.call("explain", key=HOSTILE)
    assert status == 200
    assert found["key"] == HOSTILE.replace("\n", "\\x0a")
    assert base64.b64decode(found["key_base64"]) == HOSTILE.encode()
    (node,) = found["nodes"]
    assert (node["owner"], node["l1"]["state"], node["l1"]["tags"]) == (True, "served", ["eu"])
    assert "Tags: eu." in found["notes"]
    assert "secret-value" not in str(found)
    assert (await page.call("explain", key_base64=found["key_base64"]))[1]["nodes"][0]["l1"] is not None


async def test_keys_are_listed(page: Page, client: CacheClient) -> None:
    """The hottest and the largest, over all nodes; what is next to a key works with its bytes."""
    await client.set("big", "x" * 5_000)
    for _ in range(300):
        await client.get("big")
    status, found = await page.call("hot_keys")
    assert (status, [row["key"] for row in found["keys"]], found["silent"]) == (200, ["big"], [])
    status, found = await page.call("big_keys", namespace="default", limit=1)
    assert [(row["key"], row["node"], row["size"] > 0) for row in found["keys"]] == [("big", "node-0", True)]


@pytest.mark.parametrize(
    ("body", "gone"),
    [
        ({"kind": "key", "key": "user:1"}, {"user:1"}),
        ({"kind": "prefix", "text": "user:"}, {"user:1", "user:2"}),
        ({"kind": "pattern", "text": "*:2"}, {"user:2"}),
        ({"kind": "tag", "text": "eu"}, {"user:1", "page"}),
        ({"kind": "namespace"}, {"user:1", "user:2", "page"}),
    ],
)
async def test_values_are_declared_untrue(
    page: Page, client: CacheClient, body: dict[str, str], gone: set[str]
) -> None:
    """By key, prefix, pattern, tag, or all of a namespace; the rest stays."""
    for key, tag in (("user:1", "eu"), ("user:2", "us"), ("page", "eu")):
        await client.set(key, 1, tags=[tag])
    status, done = await page.call("invalidate", **body)
    assert (status, done) == (200, {"found": 1 if body["kind"] == "key" else 0})
    assert {key for key in ("user:1", "user:2", "page") if await client.get(key) is None} == gone


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("invalidate", {"kind": "all"}, "kind: must be one of"),
        ("invalidate", {"kind": "prefix", "text": ""}, "text: is empty"),
        ("invalidate", {"kind": "pattern", "text": "["}, ""),
        ("invalidate", {"kind": "tag", "text": "\ud800"}, "UTF-8"),
        ("invalidate", {"kind": "key", "key": "k", "namespace": "no such name!"}, "namespace: "),
        ("explain", {"key": ""}, "key: 0 bytes"),
        ("explain", {"key": "k" * 2_000}, "key: 2,000 bytes"),
        ("explain", {"key_base64": "?"}, "key: cannot be read"),
        ("explain", {"key": 7}, "key: must be a text"),
        ("hot_keys", {"limit": 1_000}, "limit: must be a number"),
        ("test_event", {"name": "", "payload": "{}"}, ""),
        ("test_event", {"name": "e", "payload": "nonsense"}, ""),
        ("replay", {"ids": []}, "ids: name dead letters"),
        ("drop", {"ids": ["1"], "all": True}, "ids: name dead letters"),
        ("dead_letters", {}, "does not write behind"),
        ("warm_start", {"source": "all"}, "source: must be"),
        ("warm_start", {}, "no origin"),
        ("set_namespace", {}, "no setting is named"),
        ("set_namespace", {"fields": {"ttl_s": "nonsense"}}, "ttl_s"),
        ("set_namespace", {"fields": {"ttl_s": 5}}, "fields: must be an object of texts"),
    ],
)
async def test_wrong_calls(page: Page, name: str, body: dict[str, object], said: str) -> None:
    """What cannot be done says why, as the caller's error."""
    status, document = await page.call(name, **body)
    assert 400 <= status < 500, document
    assert said in document["error"]["text"]


async def test_events_are_tried_and_published(tmp_path: Path, http: ClientSession) -> None:
    """A test says what would go and does nothing; publishing does it."""
    (tmp_path / "node.toml").write_text(RULES)
    async with running_server(file=tmp_path / "node.toml") as server, CacheClient(server.address) as client:
        page = Page(f"http://{server.http_address}", http)
        (rule,) = (await page.call("rules"))[1]["rules"]
        assert (rule["name"], rule["tags"], rule["mode"]) == ("user.deleted", ["user-{userId}"], "remove")
        await client.set("user:7", 1)
        event = {"name": "user.deleted", "payload": '{"userId": 7}'}
        things = [
            {"kind": "key", "text": "user:7"},
            {"kind": "prefix", "text": "user:7:"},
            {"kind": "tag", "text": "user-7"},
        ]
        status, found = await page.call("test_event", **event)
        places = [{"namespace": "default", "mode": "remove", "things": things}]
        assert (status, found) == (200, {"known": True, "invalidations": places})
        assert await client.get("user:7") == 1
        status, done = await page.call("publish", **event)
        assert (status, done) == (200, {"known": True, "found": 1, "invalidations": places})
        assert await client.get("user:7") is None
        assert (await page.call("test_event", name="other"))[1] == {"known": False, "invalidations": []}


async def test_settings_are_changed(page: Page, server: Server) -> None:
    """A change is made at every node, and taken back."""
    status, done = await page.call("set_namespace", fields={"ttl_s": "90s"})
    assert (status, done["lagging"]) == (200, [])
    (default,) = (await page.call("namespaces"))[1]["namespaces"]
    (ttl,) = [each for each in default["settings"] if each["name"] == "ttl_s"]
    assert (ttl["value"], ttl["source"], default["differing"]) == ("90.0", "live", [])
    namespace = server.node.namespaces.get("default")
    assert namespace is not None
    assert namespace.policy.ttl_s == 90
    await page.call("set_namespace", reset=["ttl_s"])
    assert namespace.policy.ttl_s != 90


async def test_advice_and_duties_without_anything_to_tell(page: Page) -> None:
    """A node that has done nothing has empty answers, and no errors."""
    assert (await page.call("advise"))[0] == 200
    assert await page.call("warming") == (200, {"jobs": [], "silent": []})
    assert await page.call("queues") == (200, {"queues": [], "silent": []})
    assert (await page.call("warm_cancel"))[0] == 404


async def test_what_a_token_allows(guarded: Page) -> None:
    """A reader looks at numbers, a writer invalidates, an administrator does all; nodes decide, and are believed."""
    one = {"kind": "key", "key": "k"}
    change: dict[str, Any] = {"fields": {"ttl_s": "9s"}}
    body: dict[str, Any]
    looking, writing, admin = (guarded.signed_in(who) for who in ("read", "write", "admin"))
    assert (await looking.call("ring"))[0] == 200
    for name, body in (("hot_keys", {}), ("explain", {"key": "k"}), ("test_event", {"name": "e"}), ("invalidate", one)):
        assert (await looking.call(name, **body))[0] == 403, name
    assert (await writing.call("invalidate", **one))[0] == 200
    for name, body in (("hot_keys", {}), ("set_namespace", change)):
        assert (await writing.call(name, **body))[0] == 403, name
        assert (await admin.call(name, **body))[0] == 200, name
    async with guarded.http.post(f"{guarded.url}/ui/api/live", json={}, headers=looking.headers) as answer:
        text = (await answer.content.readuntil(b"findings")).decode()
        assert "event: picture" in text


async def test_over_tls(tmp_path: Path, http: ClientSession) -> None:
    """With certificates the console is HTTPS, and meets the members as the node does: also where they ask for one.

    Who needs a certificate elsewhere cannot go round that by the console.
    """
    assert CliRunner().invoke(app, ["certs", "--dir", str(tmp_path)]).exit_code == 0
    files: dict[str, Any] = {name: str(tmp_path / f"{file}.pem") for name, file in FILES.items()}
    headers, trust = Page("", http).headers, ssl.create_default_context(cafile=files["tls__ca_file"])
    async with running_server(**files, tls__verify_clients=True) as server:
        async with http.get(f"https://{server.http_address}/ui/", ssl=trust) as answer:
            assert answer.status == 404, "certificates are not asked for here, so it is off"
    async with running_server(**files, tls__verify_clients=True, http__console=True) as server:
        url = f"https://{server.http_address}/ui/api"
        body = {"kind": "key", "key": "k"}
        async with http.post(f"{url}/invalidate", json=body, headers=headers, ssl=trust) as answer:
            assert answer.status == 403
        async with http.post(f"{url}/explain", json={"key": "k"}, headers=headers, ssl=trust) as answer:
            assert (await answer.json())["nodes"][0]["answers"] is True
