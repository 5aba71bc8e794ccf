"""What the audit says, over real calls; and that no key, value or secret is found in it, in logs, errors or metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from grpc import aio

from cachenode.core.access import hash_of
from cachenode.rpc.audit import Audit, address_kind
from cachenode_api.v1 import admin_pb2, admin_pb2_grpc, cache_pb2, cache_pb2_grpc
from cachenode_client import CacheClient, CacheError

CANARY = "canary-5e1f"
SECRETS = {"ops": f"{CANARY}-token-admin", "shop": f"{CANARY}-token-write", "peer": f"{CANARY}-token-peer"}
ROLES = {"ops": "admin", "shop": "write", "peer": "peer"}


def shown(name: str) -> Any:
    """Return the metadata that shows a token."""
    return (("authorization", f"Bearer {SECRETS[name]}"),)


@pytest.fixture
async def audited(start_server: Any, tmp_path: Path) -> Any:
    """A node that knows three tokens, and the file of its audit."""
    table = '[[token]]\nname = "{}"\nsha256 = "{}"\nrole = "{}"\n'
    tokens = "".join(table.format(name, hash_of(SECRETS[name]), role) for name, role in ROLES.items())
    (tmp_path / "tokens.toml").write_text(tokens)
    (tmp_path / "peer").write_text(SECRETS["peer"])
    server = await start_server(
        {
            "auth.tokens_file": str(tmp_path / "tokens.toml"),
            "auth.peer_token_file": str(tmp_path / "peer"),
            "audit.file": str(tmp_path / "audit.jsonl"),
        }
    )
    return server, tmp_path / "audit.jsonl"


def lines(file: Path) -> list[dict[str, Any]]:
    """Return the audit's lines, without the time."""
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(line.pop("time") and line.pop("node") for line in found)
    return found


async def test_who_did_what(audited: Any) -> None:
    """Each action has a line with who, what, how much and how it ended; what only shows something has none."""
    server, file = audited
    async with aio.insecure_channel(server.address) as channel:
        cache, admin = cache_pb2_grpc.CacheServiceStub(channel), admin_pb2_grpc.AdminServiceStub(channel)
        await admin.GetStats(admin_pb2.GetStatsRequest(), metadata=shown("ops"))
        await cache.Set(cache_pb2.SetRequest(key=b"k", value=b"v"), metadata=shown("shop"))
        await cache.Invalidate(cache_pb2.InvalidateRequest(keys=[b"k"]), metadata=shown("shop"))
        bulk = cache_pb2.InvalidateRequest(namespace="users", prefixes=[b"a", b"b"], tags=["t"])
        await cache.Invalidate(bulk, metadata=shown("shop"))
        await cache.PublishEvent(cache_pb2.PublishEventRequest(name="user.gone", payload=b"{}"), metadata=shown("shop"))
        change = admin_pb2.SetNamespaceRequest(namespace="default", fields={"ttl_s": "77s"})
        with pytest.raises(aio.AioRpcError):
            await admin.SetNamespace(change, metadata=shown("shop"))
        with pytest.raises(aio.AioRpcError):
            await admin.SetNamespace(change)
        await admin.SetNamespace(change, metadata=shown("ops"))
    async with CacheClient(server.address, token=SECRETS["shop"], timeout_s=10) as client:
        await client.invalidate(prefix="c", namespace="users")
    found = lines(file)
    assert [(line["who"], line["action"], line["outcome"]) for line in found] == [
        ("shop", "Invalidate", "ok"),
        ("shop", "PublishEvent", "ok"),
        ("shop", "SetNamespace", "permission_denied"),
        ("", "SetNamespace", "unauthenticated"),
        ("ops", "SetNamespace", "ok"),
        ("shop", "Invalidate", "ok"),
    ]
    assert {line["from"] for line in found} == {"loopback"}
    first, event, *_, change_line, session = found
    assert (first["namespace"], first["prefixes"], first["tags"], len(first["hashes"])) == ("users", 2, 1, 3)
    assert (event["name"], event["payload_bytes"]) == ("user.gone", 2)
    assert change_line["fields"] == ["ttl_s"]
    assert (session["namespace"], session["prefixes"], len(session["hashes"])) == ("users", 1, 1)


async def test_nothing_secret_is_told(audited: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys, values, tags, patterns, payloads and tokens stay out of logs, errors, metrics and the audit.

    Scenario 68.
    """
    server, file = audited
    heard: list[str] = []

    async def tried(call: Any) -> None:
        try:
            heard.append(str(await call)[:0])
        except CacheError as error:
            heard.append(str(error))
        except aio.AioRpcError as error:
            heard.append(f"{error.details()} {error.trailing_metadata()}")

    async with CacheClient(server.address, token=SECRETS["shop"], timeout_s=5) as client:
        await client.set(f"{CANARY}-key", f"{CANARY}-value", tags=[f"{CANARY}-tag"])
        await client.invalidate(tags=[f"{CANARY}-tag"])
        await tried(client.invalidate(pattern=f"{CANARY}-*"))
        await tried(client.incr(f"{CANARY}-key"))
        await tried(client.set(f"{CANARY}-large", bytes(2 << 20)))
        await tried(client.publish("user.gone", {"id": f"{CANARY}-payload"}))
        await tried(client.get(f"{CANARY}-key", namespace="n" * 64))
    async with aio.insecure_channel(server.address) as channel:
        cache, admin = cache_pb2_grpc.CacheServiceStub(channel), admin_pb2_grpc.AdminServiceStub(channel)
        for metadata in (shown("shop"), (("authorization", f"Bearer {CANARY}-unknown"),), None):
            await tried(cache.Set(cache_pb2.SetRequest(key=b"", value=CANARY.encode()), metadata=metadata))
            pattern = f"{CANARY}[".encode()
            await tried(cache.Invalidate(cache_pb2.InvalidateRequest(patterns=[pattern]), metadata=metadata))
            await tried(admin.Explain(admin_pb2.ExplainRequest(key=CANARY.encode()), metadata=metadata))
    async with ClientSession() as http, http.get(f"http://{server.http_address}/metrics") as answer:
        metrics = await answer.text()
    written = capsys.readouterr()
    assert len([text for text in heard if text]) >= 8
    for place in (written.out, written.err, metrics, file.read_text(), *heard):
        assert CANARY not in place
    assert file.read_text().count("\n") >= 3


def test_kinds_of_addresses() -> None:
    """Said is only how far away a caller is."""
    peers = {
        "ipv4:127.0.0.1:1": "loopback",
        "ipv6:%5B::1%5D:1": "loopback",
        "ipv4:10.1.2.3:1": "private",
        "ipv4:8.8.8.8:1": "public",
        "unix:/run/x": "unix",
        "": "unknown",
    }
    assert {peer: address_kind(peer) for peer in peers} == peers


def test_new_calls_are_audited() -> None:
    """An admin call that nobody has thought of is audited; reads and ordinary writes are not."""
    audit = Audit(lambda _: None, "c")
    assert audit.of("/cachenode.v1.AdminService/New") is not None
    assert audit.of("/cachenode.v1.AdminService/GetStats") is None
    assert audit.of("/cachenode.v1.CacheService/Set") is None
    assert audit.of("/grpc.health.v1.Health/Check") is None
