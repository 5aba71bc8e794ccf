"""What a running node shows at /metrics."""

from __future__ import annotations

import aiohttp
import pytest

from cachenode_client import CacheClient
from tests.support.server import running_server


@pytest.mark.parametrize("durations", [True, False])
async def test_durations_can_be_left_unmeasured(durations: bool) -> None:
    """Then there is no sample of them, rather than some that say too little; everything else is counted."""
    async with running_server(node__durations=durations) as server, CacheClient(server.address) as client:
        await client.set("k", 1)
        await client.get_many(["k", "absent"])
        async with aiohttp.ClientSession() as http, http.get(f"http://{server.http_address}/metrics") as answer:
            text = await answer.text()
    assert ("cache_operation_duration_seconds_bucket{" in text) is durations
    assert 'cache_misses_total{namespace="default"} 1.0' in text
