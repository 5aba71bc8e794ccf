"""Every method of every service against every role: what is not opened by name is closed."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import ServiceDescriptor

from cachenode.core.access import Grant, Grants, Role, hash_of
from cachenode.rpc.gate import Gate
from cachenode_api.v1 import admin_pb2, cache_pb2, peer_pb2, session_pb2

ROLES = {"SessionService": Role.READ, "CacheService": Role.WRITE, "AdminService": Role.ADMIN, "PeerService": Role.PEER}
READERS = {"Get", "GetMany", "Watch", "GetView", "GetStats", "Ring"}
SERVICES: list[ServiceDescriptor] = [
    service
    for file in (admin_pb2, cache_pb2, peer_pb2, session_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
]
METHODS = [(service.name, method) for service in SERVICES for method in service.methods]
TOKENS = [(hash_of(role.name), Grant(role.name, role)) for role in Role]


class Refused(Exception):
    """A call was ended."""


class Context:
    """A call with what its caller has shown."""

    def __init__(self, token: str | None = None, shown: Any = None) -> None:
        self._metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()
        self._shown: dict[str, list[bytes]] = shown or {}

    def invocation_metadata(self) -> Any:
        return self._metadata

    def auth_context(self) -> Any:
        return self._shown

    async def abort(self, code: grpc.StatusCode, *_: Any, **__: Any) -> None:
        raise Refused(code)


async def let_in(gate: Gate, method: str, context: Context, request: object = None) -> bool:
    """Return whether a call is."""
    try:
        await gate.admit(method, request, context)  # type: ignore[arg-type]
    except Refused:
        return False
    return True


@pytest.mark.parametrize(("service", "method"), METHODS, ids=lambda each: getattr(each, "name", each))
async def test_every_method_takes_a_role(service: str, method: Any) -> None:
    """Roles below are refused, those from it on let in; no token, or another, never."""
    gate = Gate(lambda: Grants(TOKENS))
    needed = Role.READ if method.name in READERS else ROLES[service]
    request = None if method.client_streaming else method.input_type._concrete_class()
    name = f"/cachenode.v1.{service}/{method.name}"
    found = [await let_in(gate, name, Context(role.name), request) for role in Role]
    assert found == [role >= needed for role in Role]
    assert not await let_in(gate, name, Context(), request)
    assert not await let_in(gate, name, Context("other"), request)


async def test_new_methods_are_closed() -> None:
    """A method that nobody has thought of takes its service's highest role."""
    gate = Gate(lambda: Grants(TOKENS))
    for service, role in (("AdminService", Role.ADMIN), ("PeerService", Role.PEER), ("CacheService", Role.WRITE)):
        found = [await let_in(gate, f"/cachenode.v1.{service}/New", Context(each.name)) for each in Role]
        assert found == [each >= role for each in Role]


SAN = "x509_subject_alternative_name"


async def test_certificates() -> None:
    """A certificate counts by its names where no token is shown; a token that is not known is no way around it."""
    grants = Grants(TOKENS, [("*.shop.example", Grant("shop", Role.WRITE)), ("spiffe://x/*", Grant("x", Role.READ))])
    gate = Gate(lambda: grants)
    write, read = "/cachenode.v1.CacheService/Set", "/cachenode.v1.CacheService/Get"
    shop = {SAN: [b"unknown", b"a.shop.example"]}
    assert await let_in(gate, write, Context(None, shop))
    assert not await let_in(gate, write, Context("unknown", shop))
    assert not await let_in(gate, write, Context("READ", shop)), "the token's role counts"
    assert not await let_in(gate, write, Context(None, {SAN: [b"spiffe://x/billing"]}))
    assert await let_in(gate, read, Context(None, {SAN: [b"spiffe://x/billing"]}))
    for stranger in (b"shop.example", b"spiffe://x/a/b", b"spiffe://y/a", b"\xff"):
        assert not await let_in(gate, read, Context(None, {SAN: [stranger]}))
    assert gate.refused == 7


async def test_peers_with_authorities_of_their_own() -> None:
    """Neither token nor name makes a peer where its certificate is not one of peers."""
    asked: list[list[bytes]] = []

    def is_peers(chain: Any) -> bool:
        asked.append(list(chain))
        return list(chain) == [b"node"]

    gate = Gate(lambda: Grants(TOKENS, [("node", Grant("node", Role.PEER))]), is_peers)
    link = "/cachenode.v1.PeerService/Link"
    for pem, good in ((b"node", True), (b"client", False)):
        assert await let_in(gate, link, Context("PEER", {"x509_pem_cert": [pem]})) is good
        assert await let_in(gate, link, Context(None, {"x509_pem_cert": [pem], SAN: [b"node"]})) is good
    assert len(asked) == 4
    assert await let_in(gate, "/cachenode.v1.CacheService/Get", Context("READ"))
    assert len(asked) == 4, "clients need none"
