"""The console while there is work: a job that warms, a backlog, dead letters, a node that is gone and comes back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cachenode.cli.local_cluster import LocalCluster
from cachenode_client import CacheClient
from tests.browser.test_console import Watched, expect, opened, pytestmark
from tests.integration.test_warming import settings
from tests.support.sinks import make_table

__all__ = ["pytestmark"]

CONFIG = """
[writebehind]
durability = "fast"
attempts = 2
retry_max_s = 1
[origins.db]
sink = "tests.support.sinks:Table"
options = {{ path = "{folder}/orders", folder = "{folder}" }}
batch_writes = 100
[namespaces.orders]
origin = "db"
write = "behind"
ttl_s = "never"
"""
HOSTILE = "<b>poison</b>" + "-and-a-long-name" * 6
_CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (part) => (part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const found = rgba(getComputedStyle(at).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest("[aria-disabled=true], svg")) continue;
    const [a, b] = [light(rgba(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) poor.push(`${node.tagName}.${node.className}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""
"""Which texts have less contrast than WCAG 2.2 asks for (AA, 1.4.3)."""


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    """Two nodes that write behind to a database, and can load from another."""
    arguments = settings(tmp_path)
    make_table(tmp_path / "orders")
    with (tmp_path / "node.toml").open("a") as file:
        file.write(CONFIG.format(folder=tmp_path))
    async with LocalCluster(nodes=2, directory=tmp_path / "c", arguments=arguments) as running:
        yield running


async def test_work_is_shown(cluster: LocalCluster, tmp_path: Path) -> None:
    """What is under way is shown as it is, and what was given up is put right: by keyboard, in the dark, on a phone."""
    url = f"http://{cluster.nodes[0].http}/ui/"
    async with CacheClient(cluster.address, namespace="orders", timeout_s=10) as client:
        for number in range(3):
            await client.set(f"{HOSTILE}{number}", -1)
        async with opened(url) as watched:
            await _warms(watched)
            await _puts_dead_letters_right(watched, client, tmp_path)
            await _shows_a_backlog(watched, client, tmp_path)
            await _loses_a_node(watched, cluster)
        phone = {"viewport": {"width": 320, "height": 640}, "is_mobile": True, "has_touch": True}
        async with opened(url, **phone, color_scheme="dark", reduced_motion="reduce") as watched:
            await _fits(watched)


async def _readable(watched: Watched, name: str) -> None:
    """Leave a picture; see that nothing is cut off, and that every text can be told from what is behind it."""
    await watched.shot(name)
    width = await watched.page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1], name
    assert await watched.page.evaluate(_CONTRASTS) == [], name


async def _warms(watched: Watched) -> None:
    """A job is begun, seen to get on, and ended."""
    page = watched.page
    await watched.section("Warming")
    await page.get_by_label("Namespace").fill("users")
    await page.get_by_label("Keys a second").fill("100")
    await page.get_by_role("button", name="Begin").click()
    row = page.get_by_role("row", name=re.compile("users"))
    await expect(row).to_contain_text("running")
    await expect(row).to_contain_text(re.compile(r"[1-9]\d+"))
    await _readable(watched, "warming-running")


async def _puts_dead_letters_right(watched: Watched, client: CacheClient, folder: Path) -> None:
    """One is dropped and the others are queued again, without a mouse; each is asked about first."""
    page = watched.page
    await watched.section("Write-behind")
    letters = page.get_by_role("table", name="Dead letters")
    for number in range(1_000):  # what fails is given up only while other writes succeed
        if await letters.get_by_role("row").count() == 4:
            break
        await client.set_many({f"good {at}": number for at in range(20)})
    await expect(letters.get_by_role("row")).to_have_count(4)
    await expect(letters).to_contain_text("<b>poison</b>")
    await _readable(watched, "dead-letters")
    drop = page.get_by_role("button", name=f"Drop {HOSTILE}1", exact=True)
    await drop.focus()
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text(f"{HOSTILE}1")
    await expect(dialog).to_contain_text("This cannot be taken back")
    await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    await _readable(watched, "dead-letter-drop")
    await page.keyboard.press("Enter")
    await expect(dialog).to_have_count(0)
    await expect(drop).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator(".toast", has_text="Dropped 1 write.")).to_be_visible()
    await expect(letters.get_by_role("row")).to_have_count(3)
    await expect(page.locator("#main")).to_be_focused()
    (folder / "down").touch()  # what is queued again waits
    await page.get_by_role("button", name="Queue all again").focus()
    await page.keyboard.press("Enter")
    await expect(dialog).to_contain_text("all 2 dead letters of orders")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator(".toast", has_text="Queued 2 writes again")).to_be_visible()
    await expect(letters).to_have_count(0)
    for number in range(2):
        await client.set(f"{HOSTILE}{number * 2}", number)


async def _shows_a_backlog(watched: Watched, client: CacheClient, folder: Path) -> None:
    """What waits is counted, with its age; when the origin is back it goes."""
    page = watched.page
    await asyncio.gather(*(client.set(f"order:{number}", number) for number in range(40)))
    row = page.get_by_role("row", name=re.compile("orders"))
    await expect(row).to_contain_text(re.compile(r"4[0-2] of 100[ ,.]?000 keys"))
    await page.get_by_role("button", name="Use dark colours").click()
    await _readable(watched, "backlog-dark")
    await page.get_by_role("button", name="Use light colours").click()
    (folder / "down").unlink()
    await expect(row.get_by_text(re.compile("^0 of 100"))).to_be_visible(timeout=60_000)


async def _loses_a_node(watched: Watched, cluster: LocalCluster) -> None:
    """While a node does not answer each page says whose numbers are missing, and no more once it does."""
    page = watched.page
    cluster.pause("node-1")
    try:
        await watched.section("Warming")
        await expect(page.locator("#main")).to_contain_text("node-1", timeout=30_000)
        await _readable(watched, "warming-node-gone")
        await watched.section("Write-behind")
        await _readable(watched, "write-behind-node-gone")
        await watched.section("Overview")
        await expect(page.locator(".finding").first).to_be_visible()
        await _readable(watched, "overview-node-gone-2")
    finally:
        cluster.resume("node-1")
    await expect(page.get_by_role("row", name=re.compile("^node-1"))).to_contain_text("up, 1 link", timeout=60_000)
    await _readable(watched, "overview-node-back")


async def _fits(watched: Watched) -> None:
    """The same on a phone in the dark."""
    for name in ("Warming", "Write-behind", "Overview"):
        await watched.section(name)
        await expect(watched.page.get_by_text("Asking the nodes…")).to_have_count(0)
        await _readable(watched, f"phone-work-{name.lower()}")
