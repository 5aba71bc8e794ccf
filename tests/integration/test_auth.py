"""Tokens and roles with real nodes: who may do what, over sessions, unary calls and commands."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from typer.testing import CliRunner

from cachenode.cli.certs import make_certificates
from cachenode.cli.local_cluster import LocalCluster
from cachenode.cli.main import app
from cachenode_api.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    cache_pb2,
    cache_pb2_grpc,
    peer_pb2_grpc,
)
from cachenode_client import CacheClient, CacheUnavailable, InvalidArgument, PermissionDenied, Tls


def settings(folder: Path) -> list[str]:
    """Make a token for each role, and one for a namespace alone; return the nodes' arguments."""
    lines = ""
    asked: dict[str, list[str]] = {
        "read": [],
        "write": [],
        "admin": [],
        "peer": [],
        "users": ["--role", "write", "-n", "users"],
    }
    for name, options in asked.items():
        words = ["token", name, *(options or ["--role", name]), "-o", "json"]
        made = json.loads(CliRunner().invoke(app, words).output)
        (folder / name).write_text(made["token"] + "\n")
        lines += f'[[token]]\nname = "{name}"\nsha256 = "{made["sha256"]}"\nrole = "{made["role"]}"\n'
        lines += f"namespaces = {json.dumps(made['namespaces'])}\n" if made["namespaces"] else ""
    (folder / "tokens.toml").write_text(lines)
    (folder / "node.toml").write_text(
        f'[auth]\ntokens_file = "{folder}/tokens.toml"\npeer_token_file = "{folder}/peer"\n'
    )
    return ["--config", str(folder / "node.toml")]


async def refusal(call: Awaitable[object]) -> grpc.StatusCode:
    """Return how a call was refused."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def refused(client: CacheClient, why: str) -> None:
    """Read until the refusal says why, three times at most: gRPC may tell of a reset stream before its status."""
    said: list[str] = []
    while not any(why in each for each in said):
        assert len(said) < 3, said
        with pytest.raises(CacheUnavailable) as caught:
            await client.get("k1")
        said.append(str(caught.value))


async def test_roles(tmp_path: Path) -> None:
    """Readers read, writers write, each in their namespaces; who shows no token, or another, does nothing at all."""
    arguments = settings(tmp_path)
    async with LocalCluster(
        nodes=2, directory=tmp_path / "c", arguments=arguments, token_file=tmp_path / "read"
    ) as cluster:
        options: dict[str, Any] = {"timeout_s": 10.0, "near_cache": None}
        async with (
            CacheClient(cluster.address, token=tmp_path / "write", **options) as writer,
            CacheClient(cluster.address, token=(tmp_path / "read").read_text(), **options) as reader,
            CacheClient(cluster.address, token=tmp_path / "users", namespace="users", **options) as limited,
        ):
            keys = [f"k{number}" for number in range(50)]
            await writer.set_many(dict.fromkeys(keys, 1))
            assert len(await reader.get_many(keys)) == 50
            for write in (reader.set("k1", 2), reader.invalidate("k1"), reader.get_or_load("new", lambda: 1)):
                with pytest.raises(PermissionDenied):
                    await write
            await limited.set("u", 1)
            assert await limited.get("u") == 1
            for other in (limited.get("k1", namespace="default"), limited.set("k1", 2, namespace="default")):
                with pytest.raises(PermissionDenied):
                    await other
            assert not (await writer.publish("nothing.known")).known
            for publishing in (reader.publish("any"), limited.publish("any")):  # a rule may concern any namespace
                with pytest.raises(PermissionDenied):
                    await publishing
            with pytest.raises(PermissionDenied):
                async with limited.watch(namespace="*"):
                    pass
        for token, why in ((None, "asks for a token"), ("wrong", "does not know the client's token")):
            async with CacheClient(cluster.address, token=token, timeout_s=1) as stranger:
                await refused(stranger, why)


async def test_unary_calls_and_commands(tmp_path: Path) -> None:
    """Every service asks: a reader is no administrator, and an administrator is no peer. Health is open."""
    arguments = settings(tmp_path)
    async with LocalCluster(
        nodes=1, directory=tmp_path / "c", arguments=arguments, token_file=tmp_path / "read"
    ) as cluster:
        async with aio.insecure_channel(cluster.address) as channel:
            cache, admin = cache_pb2_grpc.CacheServiceStub(channel), admin_pb2_grpc.AdminServiceStub(channel)

            def shown(name: str) -> tuple[tuple[str, str]]:
                return (("authorization", f"Bearer {(tmp_path / name).read_text().strip()}"),)

            get, write = cache_pb2.GetRequest(key=b"k"), cache_pb2.SetRequest(key=b"k", value=b"v")
            stats, hot = admin_pb2.GetStatsRequest(), admin_pb2.HotKeysRequest()
            assert await refusal(cache.Get(get)) is grpc.StatusCode.UNAUTHENTICATED
            assert await refusal(cache.Set(write, metadata=shown("read"))) is grpc.StatusCode.PERMISSION_DENIED
            assert (await cache.Set(write, metadata=shown("write"))).version
            assert (await cache.Get(get, metadata=shown("read"))).entry.found
            assert await refusal(cache.Get(get, metadata=shown("users"))) is grpc.StatusCode.PERMISSION_DENIED
            assert await refusal(admin.HotKeys(hot, metadata=shown("write"))) is grpc.StatusCode.PERMISSION_DENIED
            assert (await admin.GetStats(stats, metadata=shown("read"))).uptime_s
            assert await refusal(admin.GetStats(stats, metadata=shown("users"))) is grpc.StatusCode.PERMISSION_DENIED
            assert (await admin.GetStats(stats, metadata=shown("admin"))).uptime_s
            link = peer_pb2_grpc.PeerServiceStub(channel).Link(metadata=shown("admin"))
            assert await link.code() is grpc.StatusCode.PERMISSION_DENIED
        expected = (("admin", 0, "There are no rules"), ("read", 1, "does not allow this"), ("", 4, "asks for a token"))
        for token, code, said in expected:
            before = ["--token-file", str(tmp_path / token)] if token else []
            words = [sys.executable, "-m", "cachenode", *before, "events", "list", "-a", cluster.address]
            ended = await asyncio.to_thread(run, words)
            assert ended.returncode == code, (token, ended.stdout, ended.stderr)
            assert said in ended.stdout + ended.stderr


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)


def certified(folder: Path, authority: Path) -> tuple[Tls, grpc.ChannelCredentials]:
    """Make a certificate for a client of the shop, of an authority that is there."""
    folder.mkdir()
    for name in ("ca.pem", "ca-key.pem"):
        shutil.copy(authority / name, folder / name)
    make_certificates(folder, client_names=["spiffe://example.org/shop/web"])
    files = [folder / name for name in ("ca.pem", "client-key.pem", "client.pem")]
    tls = Tls(files[0], files[2], files[1])
    return tls, grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))


async def test_certificates_instead_of_tokens(tmp_path: Path) -> None:
    """Nodes and clients are known by the names in their certificates; a client's makes no peer.

    Scenario 62.
    """
    settings(tmp_path)  # whoever waits for the cluster shows a token
    tables = {"node": ("127.0.0.1", "peer"), "shop": ("spiffe://example.org/shop/*", "write")}
    text = "".join(
        f'[[certificate]]\nname = "{name}"\nsan = "{san}"\nrole = "{role}"\n' for name, (san, role) in tables.items()
    )
    tokens, config = tmp_path / "tokens.toml", tmp_path / "node.toml"
    tokens.write_text(tokens.read_text() + text)
    config.write_text(f'[auth]\ntokens_file = "{tokens}"\n')
    async with LocalCluster(
        nodes=2,
        directory=tmp_path / "c",
        arguments=["--config", str(config)],
        tls=True,
        token_file=tmp_path / "read",
    ) as cluster:
        tls, credentials = certified(tmp_path / "shop", tmp_path / "c/certs")
        async with CacheClient(cluster.address, tls=tls, timeout_s=10) as cache:
            await cache.set_many({f"k{number}": number for number in range(50)})
            assert len(await cache.get_many([f"k{number}" for number in range(50)])) == 50
        async with CacheClient(cluster.address, tls=cluster.tls, timeout_s=2) as nameless:
            await refused(nameless, "asks for a token")
        async with aio.secure_channel(cluster.nodes[0].address, credentials) as channel:
            link = peer_pb2_grpc.PeerServiceStub(channel).Link()
            assert await link.code() is grpc.StatusCode.PERMISSION_DENIED


def test_token_that_cannot_be_read(tmp_path: Path) -> None:
    """The client says so at once."""
    with pytest.raises(InvalidArgument, match="token: "):
        CacheClient(token=tmp_path / "absent")
