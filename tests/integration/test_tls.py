"""A cluster that talks TLS: clients, peers, HTTP, commands, and certificates that are renewed while it runs."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from cachenode.cli.certs import make_certificates
from cachenode.cli.local_cluster import LocalCluster
from cachenode_client import CacheClient, CacheError, CacheUnavailable, InvalidArgument, Tls
from cachenode_client.blocking import CacheClient as BlockingCacheClient
from tests.adapters.test_tls import make


def trusted(folder: Path) -> Tls:
    """Return a client's files out of a folder that the command for certificates has filled."""
    return Tls(folder / "ca.pem", folder / "client.pem", folder / "client-key.pem")


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)


async def test_cluster_over_tls(tmp_path: Path) -> None:
    """Three nodes find each other over TLS, and serve clients of both kinds; who has no certificate gets nothing."""
    async with LocalCluster(nodes=3, directory=tmp_path / "c", tls=True) as cluster:
        tls, certs = cluster.tls, tmp_path / "c/certs"
        async with CacheClient(cluster.address, tls=tls, timeout_s=10) as cache:
            keys = [f"k{number}" for number in range(100)]
            await cache.set_many({key: key for key in keys})
            assert await cache.get_many(keys) == {key: key for key in keys}
            async with cache.watch() as events:
                assert events.members == 3
        with BlockingCacheClient(cluster.address, tls=tls, timeout_s=10) as blocking:
            assert await asyncio.to_thread(blocking.get, "k7") == "k7"

        for stranger, why in ((None, "as one does that expects TLS"), (Tls(certs / "ca.pem"), "or misses one")):
            async with CacheClient(cluster.address, tls=stranger, timeout_s=2) as cache:
                with pytest.raises(CacheUnavailable, match=why):
                    await cache.get("k7")
        make(tmp_path / "others")
        async with CacheClient(cluster.address, tls=trusted(tmp_path / "others"), timeout_s=2) as cache:
            with pytest.raises(CacheUnavailable, match="not signed by an authority that this client believes"):
                await cache.get("k7")


async def test_nodes_found_by_a_dns_name(tmp_path: Path) -> None:
    """Addresses that a name stands for need not be in certificates: the name is."""
    async with LocalCluster(nodes=1, directory=tmp_path / "c", tls=True) as cluster:
        make_certificates(tmp_path / "c/certs", hosts=["localhost"])
        port = cluster.address.rpartition(":")[2]
        async with CacheClient(f"dns:///localhost:{port}", tls=cluster.tls, timeout_s=10) as cache:
            await cache.set("k", 1)
            assert await cache.get("k") == 1
            async with cache.watch() as events:  # connections of their own
                assert events.members == 1
            with pytest.raises(CacheError, match="origin"):
                async for _ in cache.warm(keys=["k"]):
                    pass


async def test_commands_and_http_over_tls(tmp_path: Path) -> None:
    """Commands take their certificates from options; the HTTP port talks TLS, too."""
    certs = f"{tmp_path}/c/certs"
    files = {"--tls-ca": "ca.pem", "--tls-cert": "client.pem", "--tls-key": "client-key.pem"}
    options = [word for option, file in files.items() for word in (option, f"{certs}/{file}")]
    async with LocalCluster(nodes=1, directory=tmp_path / "c", tls=True) as cluster:
        command = [sys.executable, "-m", "cachenode"]
        for known, code, said in ((options, 0, "node-0"), ([], 4, "as one does that expects TLS")):
            words = [*command, *known, "view", "-a", cluster.address]
            ended = await asyncio.to_thread(
                subprocess.run, words, capture_output=True, text=True, timeout=30, check=False
            )
            assert ended.returncode == code, ended.stderr
            assert said in ended.stdout + ended.stderr
        context = ssl.create_default_context(cafile=f"{certs}/ca.pem")
        async with aiohttp.ClientSession() as http:
            async with http.get(f"https://{cluster.nodes[0].http}/metrics", ssl=context) as answer:
                assert "cachenode_certificate_expiry_timestamp_seconds" in await answer.text()
            async with http.get(f"https://{cluster.nodes[0].http}/ui/", ssl=context) as answer:
                assert answer.status == 200


async def test_certificates_are_renewed_while_it_runs(tmp_path: Path) -> None:
    """New certificates, even of a new authority, are in use from the next connection on; open ones stay.

    Scenario 63.
    """
    async with LocalCluster(nodes=1, directory=tmp_path / "c", tls=True) as cluster:
        tls = cluster.tls
        async with CacheClient(cluster.address, tls=tls, timeout_s=10, near_cache=None) as before:
            await before.set("k", 1)
            make(tmp_path / "new")
            for file in (tmp_path / "new").iterdir():
                file.replace(tmp_path / "c/certs" / file.name)
            async with CacheClient(cluster.address, tls=tls, timeout_s=10) as after:
                assert await after.get("k") == 1
            assert await before.get("k") == 1, "the connection that was open has been lost"


def test_settings_that_cannot_work(tmp_path: Path) -> None:
    """A client says at once what is wrong with its files."""
    make(tmp_path)
    with pytest.raises(InvalidArgument, match="give both or neither"):
        Tls(cert_file=tmp_path / "client.pem")
    with pytest.raises(InvalidArgument, match="ca_file cannot be read"):
        Tls(tmp_path / "absent")
