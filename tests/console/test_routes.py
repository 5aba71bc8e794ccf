"""What the console serves, to whom, and under which headers."""

from __future__ import annotations

import pytest
from aiohttp import ClientSession

from cachenode.console.assets import assets
from cachenode.console.guard import HEADERS
from tests.console.conftest import MARKED, Page
from tests.support.server import running_server


async def test_a_browser_finds_the_console(page: Page) -> None:
    """The port's root leads there, and all of its files are served with their types."""
    async with page.http.get(page.url, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, "/ui/")
    async with page.http.get(f"{page.url}/ui/") as answer:
        assert answer.content_type == "text/html"
        assert await answer.read() == assets()["index.html"].body
    for path, asset in assets().items():
        async with page.http.get(f"{page.url}/ui/{path}") as answer:
            assert (answer.status, answer.content_type) == (200, asset.content_type)


async def test_unknown_files_are_404(page: Page) -> None:
    """Only the console's own files are there, and no way leads out of their folder."""
    for path in ("ui/secret.js", "ui/%2e%2e/%2e%2e/server.py", "ui/vendor", "ui/api/fly"):
        async with page.http.get(f"{page.url}/{path}") as answer:
            assert answer.status == 404, path


async def test_files_that_a_browser_has_are_not_sent_again(page: Page) -> None:
    """A file is asked for with what the browser has of it."""
    async with page.http.get(f"{page.url}/ui/console.css") as answer:
        etag = answer.headers["ETag"]
    async with page.http.get(f"{page.url}/ui/console.css", headers={"If-None-Match": etag}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")


async def test_headers(page: Page) -> None:
    """Pages, calls, errors and the live stream bear the same strict headers; nothing inline may run."""
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    async with page.http.get(f"{page.url}/ui/") as answer:
        assert HEADERS.items() <= answer.headers.items()
    async with page.http.post(f"{page.url}/ui/api/session", json={}) as answer:
        assert answer.status == 403
        assert HEADERS.items() <= answer.headers.items()
    async with page.http.post(f"{page.url}/ui/api/live", headers=MARKED, json={}) as answer:
        assert answer.content_type == "text/event-stream"
        assert HEADERS.items() <= answer.headers.items()


def test_nothing_is_inline() -> None:
    """The page keeps to its own policy: no scripts, styles or handlers in the markup, nothing from elsewhere."""
    text = assets()["index.html"].body.decode()
    assert "<style" not in text
    assert " style=" not in text
    assert " on" not in text.replace(" content", "")
    assert "<script>" not in text
    assert "//" not in text
    for path, asset in assets().items():
        if path.endswith(".js") and not path.startswith("vendor/"):
            code = asset.body.decode()
            assert not any(word in code for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(")), path


async def test_session_says_who_answers(page: Page) -> None:
    """A page learns which node it talks to, and that on loopback without tokens it may change things."""
    status, document = await page.call("session")
    assert status == 200
    assert (document["node"], document["cluster"], document["asks_for_token"]) == ("node-0", "tests", False)
    assert (document["may_change"], document["why_not"]) == (True, "")


async def test_calls_of_other_sites_are_refused(page: Page) -> None:
    """Without the console's header, or with another origin, or as a form that any page can send."""
    url = f"{page.url}/ui/api/session"
    wrong: list[dict[str, str]] = [
        {"Content-Type": "application/json"},
        MARKED | {"Origin": "http://evil.example"},
        MARKED | {"Origin": "null"},
        MARKED | {"Sec-Fetch-Site": "cross-site"},
    ]
    for headers in wrong:
        async with page.http.post(url, data="{}", headers=headers) as answer:
            assert answer.status == 403, headers
    async with page.http.post(url, data="{}", headers=MARKED | {"Origin": page.url}) as answer:
        assert answer.status == 200
    async with page.http.post(url, data="a=1", headers=MARKED | {"Content-Type": "text/plain"}) as answer:
        assert answer.status == 415
    async with page.http.get(url, headers=MARKED) as answer:
        assert answer.status == 405
    async with page.http.options(url, headers={"Origin": "http://evil.example"}) as answer:
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_other_names_of_this_machine_are_refused(page: Page) -> None:
    """A site that has its own name point to this machine does not read along."""
    for host, status in (("evil.example:7402", 403), ("localhost:7402", 200), ("[::1]:7402", 200)):
        async with page.http.post(f"{page.url}/ui/api/session", json={}, headers=MARKED | {"Host": host}) as answer:
            assert answer.status == status, host


@pytest.mark.parametrize("body", [b"nonsense", b"[]", b'{"a":' + b"1" * 70_000 + b"}"])
async def test_bodies_that_cannot_be_used(page: Page, body: bytes) -> None:
    """What is no JSON object, or too large, is an error of the caller."""
    async with page.http.post(f"{page.url}/ui/api/session", data=body, headers=MARKED) as answer:
        assert answer.status in {400, 413}
        assert (await answer.json())["error"]["text"]


async def test_tokens(guarded: Page) -> None:
    """Without a token that is known nothing is told; a reader's looks."""
    for who in ("", "wrong"):
        asking = guarded.signed_in(who) if who else guarded
        for name in ("session", "ring", "live"):
            status, document = await asking.call(name)
            assert status == 401, (who, name)
            assert "cachenode token" in document["error"]["hint"]
    status, document = await guarded.signed_in("read").call("session")
    assert (status, document["role"], document["name"], document["may_change"]) == (200, "read", "read", False)
    status, document = await guarded.signed_in("admin").call("session")
    assert (document["role"], document["may_change"]) == ("admin", True)


async def test_a_token_in_an_address_is_none(guarded: Page) -> None:
    """Addresses are logged and remembered, so a token in one is not looked at."""
    url = f"{guarded.url}/ui/api/session?token=a-token-of-an-administrator&authorization=Bearer%20x"
    async with guarded.http.post(url, json={}, headers=MARKED) as answer:
        assert answer.status == 401


async def test_console_can_be_off(http: ClientSession) -> None:
    """Then the port shows what else it has, and nothing of the console is served."""
    async with running_server(http__console=False) as server:
        async with http.get(f"http://{server.http_address}/") as answer:
            assert "/metrics" in await answer.text()
        async with http.get(f"http://{server.http_address}/ui/") as answer:
            assert answer.status == 404


async def test_on_all_interfaces_it_is_off_unless_asked_for(http: ClientSession) -> None:
    """Where others reach the port it has to be switched on, and without tokens nothing can be changed there."""
    options = {"node__http_listen": "0.0.0.0:0", "node__insecure": True}
    async with running_server(**options) as server:
        port = server.http_address.rpartition(":")[2]
        async with http.get(f"http://127.0.0.1:{port}/ui/") as answer:
            assert answer.status == 404
    async with running_server(**options, http__console=True) as server:
        port = server.http_address.rpartition(":")[2]
        status, document = await Page(f"http://127.0.0.1:{port}", http).call("session")
        assert (status, document["may_change"]) == (200, False)
        assert "auth.tokens_file" in document["why_not"]
