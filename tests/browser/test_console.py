"""The console in a real browser against a real cluster: every section, by mouse, by keyboard, on a phone, in the dark.

Screenshots are left in build/console. Without a Chromium the tests are skipped: `CHROMIUM` names another place for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cachenode.cli.local_cluster import LocalCluster
from cachenode_client import CacheClient

playwright_api = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
expect = playwright_api.expect

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
pytestmark = [
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="there is no Chromium: apt-get install chromium"),
    pytest.mark.timeout(240),
]
SHOTS = Path(__file__).parents[2] / "build/console"
SECTIONS = ("Overview", "Traffic", "Health", "Keys", "Events", "Warming", "Write-behind", "Namespaces")
HOSTILE = '<img src=x onerror="window.pwned=1">'
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
CONFIG = """
[namespaces.users]
ttl_s = 300

[[event]]
name = "user.deleted"
invalidates = ["user:{userId}", "user:{userId}:*"]
namespace = "users"
"""
_PATIENCE_MS = 20_000


class Watched:
    """A page, and everything that it must not do."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.problems: list[str] = []
        page.set_default_timeout(_PATIENCE_MS)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("request", self._asked)

    def _said(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.problems.append(f"console: {message.text}")

    def _asked(self, request: Any) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.url).netloc:
            self.problems.append(f"request to elsewhere: {request.url}")

    async def section(self, name: str) -> None:
        """Go to a section as people do."""
        menu = self.page.get_by_role("button", name="Menu")
        if await menu.is_visible():
            await menu.click()
        await self.page.get_by_role("link", name=re.compile(f"^{name}")).first.click()
        await expect(self.page.get_by_role("heading", level=1)).to_have_text(name)

    async def shot(self, name: str) -> None:
        """Leave a picture for people."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    """Three nodes that hold something."""
    (tmp_path / "node.toml").write_text(CONFIG)
    arguments = ["--config", str(tmp_path / "node.toml")]
    async with LocalCluster(nodes=3, directory=tmp_path / "c", name="browser", arguments=arguments) as running:
        async with CacheClient(running.address, near_cache=None) as client:
            await client.set(HOSTILE, "secret", tags=["<b>bold</b>"])
            for number in range(30):
                await client.set(f"user:{number}", "x" * 100 * number, namespace="users", tags=["eu"])
            for _ in range(40):
                await asyncio.gather(*(client.get(f"user:{number}", namespace="users") for number in range(30)))
        yield running


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Watched]:
    """Open the console in a browser of its own, and see afterwards that nothing went wrong in it."""
    async with playwright_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        context = await browser.new_context(**{"viewport": {"width": 1280, "height": 860}} | options)
        watched = Watched(await context.new_page(), url)
        await watched.page.goto(url)
        yield watched
        await browser.close()
        assert watched.problems == []


async def test_console(cluster: LocalCluster) -> None:
    """All sections; a key is looked at and invalidated after a question; a phone and the keyboard are enough."""
    url = f"http://{cluster.nodes[0].http}"
    async with opened(f"{url}/") as watched:
        await _looks_at_everything(watched)
        await _explains_and_invalidates(watched, cluster)
        await _tries_an_event(watched)
        await _sets_a_setting(watched)
        await _turns_dark(watched)
        await _walks_by_keyboard(watched)
    phone = {"viewport": {"width": 320, "height": 640}, "is_mobile": True, "has_touch": True}
    async with opened(f"{url}/ui/", **phone, color_scheme="dark", reduced_motion="reduce") as watched:
        await _fits_a_phone(watched)
    async with opened(f"{url}/ui/") as watched:
        await _shows_a_node_that_is_gone(watched, cluster)


async def _looks_at_everything(watched: Watched) -> None:
    page = watched.page
    await expect(page).to_have_url(re.compile("/ui/"))
    await expect(page.get_by_role("status").first).to_have_text("live")
    await expect(page.get_by_role("img", name=re.compile("The ring of view"))).to_be_visible()
    for node in ("node-0", "node-1", "node-2"):
        await expect(page.get_by_role("row", name=re.compile(node))).to_contain_text("up, 2 links")
    await expect(page.locator("#banner")).to_contain_text("No tokens are asked for")
    await watched.shot("overview")
    for name in SECTIONS[1:]:
        await watched.section(name)
        if name == "Traffic":
            await expect(page.locator("canvas").first).to_be_visible()
        await expect(page.get_by_text("Asking the nodes…")).to_have_count(0)
        await watched.shot(name.lower())


async def _explains_and_invalidates(watched: Watched, cluster: LocalCluster) -> None:
    """A hostile key is text; the dialog names what will go, and nothing goes before it is confirmed."""
    page = watched.page
    await watched.section("Keys")
    await page.get_by_label("Key", exact=True).fill(HOSTILE)
    await page.get_by_role("button", name="Explain", exact=True).first.click()
    await expect(page.locator("#explained-key")).to_have_text(HOSTILE)
    await expect(page.get_by_text("<b>bold</b>").first).to_be_visible()
    assert await page.evaluate("() => [document.querySelectorAll('img[src=x]').length, window.pwned ?? 0]") == [0, 0]
    assert "secret" not in await page.content()
    await watched.shot("keys-explained")
    async with CacheClient(cluster.address, near_cache=None) as client:
        await page.locator("#invalidate-this").click()
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text(HOSTILE)
        await watched.shot("keys-confirm")
        await page.keyboard.press("Escape")
        await expect(dialog).to_have_count(0)
        assert await client.get(HOSTILE) == "secret"
        await page.locator("#invalidate-this").click()
        await page.get_by_role("dialog").get_by_role("button", name="Invalidate").click()
        await expect(page.locator(".toast")).to_contain_text("gone everywhere")
        assert await client.get(HOSTILE) is None


async def _tries_an_event(watched: Watched) -> None:
    page = watched.page
    await watched.section("Events")
    await page.get_by_label("Event", exact=True).fill("user.deleted")
    await page.get_by_role("button", name="Test").click()
    await expect(page.get_by_text("Would invalidate 2 things:")).to_be_visible()
    await expect(page.get_by_role("cell", name="user:7:")).to_be_visible()
    await page.get_by_label("Event", exact=True).fill("unheard.of")
    await page.get_by_role("button", name="Test").click()
    await expect(page.get_by_text("No rule names this event")).to_be_visible()


async def _sets_a_setting(watched: Watched) -> None:
    page = watched.page
    await watched.section("Namespaces")
    await page.get_by_label("Namespace").select_option("users")
    await page.get_by_role("button", name="Set ttl_s", exact=True).click()
    await page.get_by_role("dialog").get_by_role("textbox").fill("2m")
    await page.get_by_role("dialog").get_by_role("button", name="Set", exact=True).click()
    await expect(page.get_by_role("row", name=re.compile("ttl_s"))).to_contain_text("live")


async def _turns_dark(watched: Watched) -> None:
    page = watched.page
    await watched.section("Traffic")
    light = await page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    await page.get_by_role("button", name="Use dark colours").click()
    assert await page.evaluate("() => getComputedStyle(document.body).backgroundColor") != light
    await watched.shot("traffic-dark")
    await page.reload()
    await expect(page.get_by_role("button", name="Use light colours")).to_be_visible()
    await watched.section("Overview")
    await expect(page.get_by_role("img", name=re.compile("The ring"))).to_be_visible()
    await watched.shot("overview-dark")


async def _walks_by_keyboard(watched: Watched) -> None:
    """From the top: skip link, menu, a form, a dialog that holds the focus and gives it back; what has it is seen."""
    page = watched.page
    await page.goto(f"{watched.url}ui/#/keys")
    await page.reload()
    await expect(page.locator("#untrue")).to_be_visible()
    await page.keyboard.press("Tab")
    await expect(page.get_by_text("Skip to content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#main")).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.locator("#key")).to_be_focused()
    assert await page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
    await page.keyboard.type("user:3")
    await page.keyboard.press("Enter")
    await expect(page.locator("#explained-key")).to_have_text("user:3")
    await page.locator("#invalidate-this").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_visible()
    for _ in range(4):
        await page.keyboard.press("Tab")
        held = "() => document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        assert await page.evaluate(held), "the focus stays in the dialog"
    await page.keyboard.press("Escape")
    await expect(page.locator("#invalidate-this")).to_be_focused()


async def _fits_a_phone(watched: Watched) -> None:
    """At 320 pixels nothing has to be moved sideways, and fingers hit what they aim at."""
    page = watched.page
    await expect(page.get_by_role("status").first).to_have_text("live")
    for name in SECTIONS:
        await watched.section(name)
        await expect(page.get_by_text("Asking the nodes…")).to_have_count(0)
        width = await page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1], (name, width)
        await watched.shot(f"phone-{name.lower()}")


async def _shows_a_node_that_is_gone(watched: Watched, cluster: LocalCluster) -> None:
    """A node that does not answer is named, with what to do, and the rest goes on."""
    cluster.pause("node-2")
    try:
        page = watched.page
        await expect(page.locator(".finding[data-severity=critical]").first).to_contain_text("node-2")
        await watched.shot("overview-node-gone")
    finally:
        cluster.resume("node-2")


async def test_tokens_in_the_browser(tmp_path: Path) -> None:
    """A wrong token is told, one that may look looks, one of an administrator acts; it is in no address."""
    tokens = {}
    lines = []
    for role in ("admin", "read", "peer"):
        words = [sys.executable, "-m", "cachenode", "token", role, "--role", role, "-o", "json"]
        made = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=True, timeout=60)
        document = json.loads(made.stdout)
        tokens[role] = document["token"]
        lines.append(f'[[token]]\nname = "{role}"\nsha256 = "{document["sha256"]}"\nrole = "{role}"\n')
    (tmp_path / "tokens.toml").write_text("".join(lines))
    for role, token in tokens.items():
        (tmp_path / role).write_text(token)
    config = f'[auth]\ntokens_file = "{tmp_path}/tokens.toml"\npeer_token_file = "{tmp_path}/peer"\n'
    (tmp_path / "node.toml").write_text(config)
    arguments = ["--config", str(tmp_path / "node.toml")]
    async with LocalCluster(
        nodes=1, directory=tmp_path / "c", arguments=arguments, token_file=tmp_path / "admin"
    ) as running:
        async with opened(f"http://{running.nodes[0].http}/ui/") as watched:
            page, dialog = watched.page, watched.page.get_by_role("dialog")
            await expect(dialog).to_contain_text("These nodes ask for a token")
            await dialog.get_by_label("Token").fill("wrong")
            await dialog.get_by_role("button", name="Sign in").click()
            await expect(dialog).to_contain_text("This token is not known")
            await watched.shot("sign-in")
            await dialog.get_by_label("Token").fill(tokens["read"])
            await dialog.get_by_role("button", name="Sign in").click()
            await expect(page.locator("#banner")).to_contain_text("Read only")
            await expect(page.get_by_role("row", name=re.compile("node-0"))).to_be_visible()
            await watched.section("Namespaces")
            await expect(page.get_by_text("Sign in with a token that may do this.")).to_be_visible()
            await page.get_by_role("button", name="Sign out read").click()
            await dialog.get_by_label("Token").fill(tokens["admin"])
            await dialog.get_by_role("button", name="Sign in").click()
            await expect(page.get_by_role("row", name=re.compile("ttl_s"))).to_have_count(0)
            await page.get_by_label("Show").select_option("")
            await expect(page.get_by_role("button", name="Set ttl_s", exact=True)).to_be_visible()
            assert not any(token in page.url for token in tokens.values())
            kept = await page.evaluate("() => [sessionStorage.length, Object.keys(localStorage), document.cookie]")
            assert kept == [1, [], ""]
            watched.problems = [each for each in watched.problems if " 401 " not in each and " 403 " not in each]
