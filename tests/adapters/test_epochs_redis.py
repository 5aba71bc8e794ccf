from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from cachenode.adapters.epochs_redis import RedisEpochs
from cachenode.adapters.redis_client import connect
from cachenode.errors import ConfigError
from tests.support.redis_server import OWN_LEGS, RedisServer, server


@pytest.fixture(scope="module", params=OWN_LEGS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for the tests that leave it alone."""
    with server(tmp_path_factory.mktemp("epochs"), request.param) as running:
        yield running


@pytest.fixture(params=OWN_LEGS)
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """A server for one test."""
    with server(tmp_path, request.param) as running:
        yield running


def epochs_at(url: str, cluster: str, timeout_s: float = 5.0) -> RedisEpochs:
    return RedisEpochs(connect(url, timeout_s=timeout_s, connect_timeout_s=timeout_s), cluster, timeout_s=timeout_s)


def new_cluster() -> str:
    return f"t{secrets.token_hex(6)}"


async def test_epochs_only_rise(shared: RedisServer) -> None:
    """Each answer is above the one before and above what the caller has heard of."""
    epochs = epochs_at(shared.url, new_cluster())
    assert await epochs.after(0) == (1, True)
    assert await epochs.after(0) == (2, True)
    assert await epochs.after(10) == (11, True)
    assert await epochs.after(3) == (12, True)
    assert await epochs.after(12) == (13, True)
    await epochs.close()


async def test_largest_epoch_is_exact(shared: RedisServer) -> None:
    """Epochs near the largest that a version holds are counted exactly, though scripts count in floating point."""
    epochs = epochs_at(shared.url, new_cluster())
    assert await epochs.after(2**24 - 3) == (2**24 - 2, True)
    assert await epochs.after(0) == (2**24 - 1, True)
    assert await epochs.after(2**50) == (2**50 + 1, True)
    assert await epochs.after(0) == (2**50 + 2, True)
    await epochs.close()


async def test_count_survives_the_nodes(shared: RedisServer) -> None:
    """A node that begins again, knowing nothing, gets an epoch above those of its former life."""
    cluster = new_cluster()
    first = epochs_at(shared.url, cluster)
    await first.after(6)
    await first.close()
    second = epochs_at(shared.url, cluster)
    assert await second.after(0) == (8, True)
    await second.close()


async def test_clusters_count_for_themselves(shared: RedisServer) -> None:
    """Two clusters on one server do not share a count."""
    one, other = epochs_at(shared.url, new_cluster()), epochs_at(shared.url, new_cluster())
    await one.after(50)
    assert await other.after(0) == (1, True)
    await one.close()
    await other.close()


async def test_unsure_while_the_server_is_away(own: RedisServer) -> None:
    """Without the server the next epoch is a guess and is marked as one; with it back the answer is sure again."""
    cluster = new_cluster()
    epochs = epochs_at(own.url, cluster)
    assert await epochs.after(4) == (5, True)
    own.kill()
    assert await epochs.after(5) == (6, False)
    own.restart()
    assert await epochs.after(6) == (7, True)
    await epochs.close()


async def test_unsure_when_the_server_hangs(own: RedisServer) -> None:
    """A server that does not answer holds nobody up for longer than the time limit."""
    epochs = epochs_at(own.url, new_cluster(), timeout_s=0.2)
    own.freeze()
    try:
        assert await epochs.after(5) == (6, False)
    finally:
        own.thaw()
        await epochs.close()


async def test_name_of_the_cluster_is_checked(shared: RedisServer) -> None:
    """A name that would break the key is refused."""
    client = connect(shared.url, timeout_s=1.0, connect_timeout_s=1.0)
    with pytest.raises(ConfigError):
        RedisEpochs(client, "a}b")
    await client.aclose()
