"""The node's listeners: where it is bound, and under which address others reach it.

A port of 0 is chosen by the system, and a listener on all interfaces has no address of its own. So what is told to
others is made of what was bound, of `node.advertise`, and else of the host's name.
"""

from __future__ import annotations

import socket

from grpc import aio
from grpc_health.v1 import health_pb2

from cachenode.adapters.tls import NodeTls

__all__ = ["bind", "reachable", "reflect"]

_ALL_INTERFACES = ("0.0.0.0", "[::]", "")  # noqa: S104 - compared, not bound


def bind(server: aio.Server, listen: str, advertise: str, tls: NodeTls | None) -> str:
    """Bind the listener; return the address that others should use."""
    host, _, port = listen.rpartition(":")
    try:
        if tls is None:
            bound = server.add_insecure_port(listen)
        else:
            bound = server.add_secure_port(listen, tls.server_credentials())
    except RuntimeError:
        bound = 0
    if not bound:
        raise OSError(
            f"cannot listen on {listen}: another program has the port, or the address is none of this machine's; "
            "name another in node.listen (--listen), with port 0 for a free one"
        )
    if advertise:
        name, colon, named = advertise.rpartition(":")
        return advertise if colon and named != "0" else f"{name or advertise}:{bound}"
    if host in _ALL_INTERFACES:
        host = socket.gethostname()
    return f"{host}:{bound if port == '0' else port}"


def reachable(bound: str, advertised: str) -> str:
    """Return an address that others can use for a listener on all interfaces: the host they reach the node under."""
    host, _, port = bound.rpartition(":")
    if host in _ALL_INTERFACES:
        host = advertised.rpartition(":")[0]
    return f"{host}:{port}"


def reflect(server: aio.Server) -> None:
    """Have a server tell tools such as grpcurl which services and messages it has."""
    from grpc_reflection.v1alpha import reflection

    from cachenode_api.v1 import admin_pb2, cache_pb2, session_pb2

    names = [
        cache_pb2.DESCRIPTOR.services_by_name["CacheService"].full_name,
        session_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name,
        admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
        health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
        reflection.SERVICE_NAME,
    ]
    reflection.enable_server_reflection(names, server)
