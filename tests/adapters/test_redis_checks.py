"""What a node finds at real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachenode.adapters.redis_checks import RedisChecks
from cachenode.adapters.redis_client import FAILURES, connect
from tests.support.eventually import eventually
from tests.support.redis_server import OWN_LEGS, server


@pytest.mark.parametrize("leg", OWN_LEGS)
async def test_settings_of_a_real_server(tmp_path: Path, leg: str) -> None:
    """What the server says is read as it says it; what is mended is found no more, and an outage changes nothing."""
    with server(tmp_path, leg, settings={"maxmemory-policy": "allkeys-lru"}) as running:
        client = connect(running.url, timeout_s=10.0, connect_timeout_s=10.0, max_connections=2)
        checks = RedisChecks([(client, ("values", "membership", "queue"))])
        checks.start()
        await eventually(lambda: checks.problems)
        assert [(each.kind, each.use) for each in checks.problems] == [
            ("evicts", "membership"),
            ("evicts", "queue"),
            ("no_file", "queue"),
        ]
        await client.config_set("maxmemory-policy", "volatile-lru")
        await client.config_set("appendonly", "yes")
        await checks.look()
        assert checks.problems == ()
        await client.config_set("maxmemory-policy", "allkeys-lru")
        await checks.look()
        before = checks.problems
        running.kill()
        with pytest.raises(FAILURES):
            await checks.look()
        assert checks.problems == before
        await checks.stop()


async def test_nothing_to_look_at() -> None:
    """A node without a Redis looks at none."""
    checks = RedisChecks([])
    checks.start()
    await checks.stop()
    assert checks.problems == ()
