"""A real Prometheus scrapes real nodes: the alert for a node that is gone fires, and recording rules answer."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from cachenode.cli.local_cluster import LocalCluster
from cachenode.cli.ports import free_ports
from cachenode_client import CacheClient
from tests.deploy.rendering import DEPLOY
from tests.integration.load import Load, until

_KNOWN = {'cache_keys_total non-counter metrics should not have "_total" suffix'}
"""What promtool has to say: the strategy document calls the gauge so."""


def debian(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: it comes with Debian's package prometheus, which CI installs")
    return found


def hurried(rules: str) -> str:
    """Return the rules as they are, but for time: minutes are seconds, since a test cannot wait so long."""
    return re.sub(r"for: \d+[mh]", "for: 1s", re.sub(r"\[\d+m\]", "[5s]", rules))


@asynccontextmanager
async def prometheus(folder: Path, targets: list[str]) -> AsyncIterator[str]:
    """Run a Prometheus that scrapes twice a second; give its address."""
    (folder / "rules.yaml").write_text(hurried((DEPLOY / "monitoring/rules.yaml").read_text()))
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "400ms", "evaluation_interval": "500ms"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "cachenode", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    [port] = free_ports(1)
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            debian("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


class Asker:
    """Asks a Prometheus, patiently while it starts."""

    def __init__(self, address: str, http: aiohttp.ClientSession) -> None:
        self._address, self._http = address, http

    async def query(self, expression: str) -> list[dict[str, Any]]:
        try:
            async with self._http.get(f"{self._address}/api/v1/query", params={"query": expression}) as answer:
                return list((await answer.json())["data"]["result"]) if answer.status == 200 else []
        except aiohttp.ClientConnectionError:
            return []

    async def firing(self) -> dict[str, str]:
        """Return the instances of the alerts that fire, by alert."""
        found = await self.query('ALERTS{alertstate="firing"}')
        return {each["metric"]["alertname"]: each["metric"].get("instance", "") for each in found}


async def scrape(address: str, accept: str) -> tuple[str, str]:
    """Return the type and the text of a node's metrics, for who accepts such."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://{address}/metrics", headers={"Accept": accept}) as got,
    ):
        return got.content_type, await got.text()


async def test_metrics_are_well_formed(tmp_path: Path) -> None:
    """promtool has no more to say of a real node's metrics than is known; who prefers OpenMetrics gets that."""
    async with (
        LocalCluster(nodes=1, directory=tmp_path, memory="64MiB") as cluster,
        CacheClient(cluster.address, near_cache=None) as client,
    ):
        await client.set("k", 1)
        assert await client.get_many(["k", "absent"]) == {"k": 1}
        [node] = cluster.nodes
        kind, text = await scrape(node.http, "text/plain")
        opened, other = await scrape(node.http, "application/openmetrics-text; version=1.0.0,text/plain;q=0.5")
    assert (kind, opened) == ("text/plain", "application/openmetrics-text")
    assert other.endswith("# EOF\n")
    assert "# EOF" not in text
    families = parse_openmetrics(other)  # type: ignore[no-untyped-call]
    hits = {family.name: family.samples[0].value for family in families if family.samples}
    assert hits["cache_hits"] == 1
    checked = await asyncio.create_subprocess_exec(
        debian("promtool"), "check", "metrics", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await checked.communicate(text.encode())
    assert set(said.decode().splitlines()) == _KNOWN


async def test_lost_node_raises_the_alarm(tmp_path: Path) -> None:
    """Nothing fires while all is well, and the recording rule says how many reads hit; then a node is killed."""
    debian("prometheus")
    (tmp_path / "prometheus").mkdir()
    async with (
        LocalCluster(nodes=3, directory=tmp_path / "cluster", memory="64MiB") as cluster,
        CacheClient(cluster.address, near_cache=None, on_error="miss") as client,
        prometheus(tmp_path / "prometheus", [node.http for node in cluster.nodes]) as address,
        aiohttp.ClientSession() as http,
    ):
        asker = Asker(address, http)
        load = Load(client, keys=100, callers=1, writes=0.0)
        await load.fill()
        async with load:
            await until(lambda: asker.query("sum(up) == 3"), 20, "every node is scraped")
            await until(lambda: asker.query("cachenode:hit_ratio:rate5m > 0.5"), 20, "the recording rule answers")
            [ratio] = await asker.query("cachenode:hit_ratio:rate5m")
            assert ratio["metric"]["namespace"] == "default"
            assert 0.7 < float(ratio["value"][1]) <= 1
            assert "CacheNodeDown" not in await asker.firing()
            lost = cluster.nodes[-1]
            await cluster.kill(lost.id)
            await until(lambda: asker.query('ALERTS{alertname="CacheNodeDown",alertstate="firing"}'), 20, "it fires")
            assert (await asker.firing())["CacheNodeDown"] == lost.http
