"""Who is let in: each call shows a token or comes with a certificate that is known, and each method takes a role.

A token goes before a certificate: who shows one that is not known is not let in, whatever the certificate. Where peers
have authorities of their own, a peer's call must come with a certificate of theirs, token or not.

A method that is not listed takes the highest role of its service, so that a new one is closed until it is opened. A
grant for some namespaces opens no call that concerns others, or all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import structlog
from grpc import aio

from cachenode.core.access import Grant, Grants, Role
from cachenode.core.entries import Failure
from cachenode.core.failures import over_rate
from cachenode.core.rates import Rates
from cachenode.rpc.status import abort
from cachenode_api.keys import DEFAULT_NAMESPACE
from cachenode_api.metadata import AUTHORIZATION_KEY, BEARER
from cachenode_api.reasons import Reason

__all__ = ["GRANT", "NOT_ALLOWED", "Gate"]

_log = structlog.get_logger(__name__)

GRANT: ContextVar[Grant | None] = ContextVar("grant", default=None)
"""What the caller of the method that runs may do; None where nobody is asked for a token."""
NOT_ALLOWED = Failure(Reason.PERMISSION_DENIED, "the token does not allow this, or not in this namespace")
_NO_TOKEN = Failure(Reason.UNAUTHENTICATED, "a token is needed, and none that is known was shown")
_CHAIN = ("x509_pem_cert", "x509_pem_cert_chain")

_SERVICES = {
    "cachenode.v1.SessionService": Role.READ,  # each batch is looked at by itself
    "cachenode.v1.CacheService": Role.WRITE,
    "cachenode.v1.AdminService": Role.ADMIN,
    "cachenode.v1.PeerService": Role.PEER,
    "cachenode.v1.RegionService": Role.PEER,
}
_METHODS = {
    "/cachenode.v1.CacheService/Get": Role.READ,
    "/cachenode.v1.CacheService/GetMany": Role.READ,
    "/cachenode.v1.CacheService/Watch": Role.READ,
    "/cachenode.v1.AdminService/GetView": Role.READ,
    "/cachenode.v1.AdminService/GetStats": Role.READ,  # what /metrics shows to anybody
    "/cachenode.v1.AdminService/Ring": Role.READ,
}
_CACHE = "/cachenode.v1.CacheService/"
_ENDS_LOADS = frozenset({f"{_CACHE}Fulfill", f"{_CACHE}Abandon"})
_OF_NO_NAMESPACE = frozenset(
    {
        "/cachenode.v1.SessionService/Session",
        "/cachenode.v1.AdminService/GetView",
        "/cachenode.v1.AdminService/Ring",
    }
)
_OF_ALL_IF_UNNAMED = frozenset(
    {
        "/cachenode.v1.CacheService/Watch",
        "/cachenode.v1.AdminService/Advise",
        "/cachenode.v1.AdminService/BigKeys",
        "/cachenode.v1.AdminService/BloomStatus",
        "/cachenode.v1.AdminService/HotKeys",
        "/cachenode.v1.AdminService/Snapshot",
        "/cachenode.v1.AdminService/WarmStatus",
        "/cachenode.v1.AdminService/WriteBehindStatus",
    }
)


class Gate:
    """Lets callers in, or not.

    Args:
        grants: Returns the grants in force.
        is_peers: Says whether a chain of certificates is one of peers; None where they need none.
        rates: How many keys a second each may ask for; None for any number.
        now: Says the time to them.
    """

    def __init__(
        self,
        grants: Callable[[], Grants],
        is_peers: Callable[[Sequence[bytes]], bool] | None = None,
        rates: Rates | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grants = grants
        self._is_peers = is_peers
        self._rates = rates
        self._now = now
        self.refused = 0
        """Calls that were not let in."""

    async def admit(self, method: str, request: object, context: aio.ServicerContext[Any, Any]) -> None:
        """Return if a call may be made, and let its method see who makes it; else end it.

        Args:
            method: Its whole name, /package.Service/Method.
            request: What it brings; None for a stream.
            context: Of the call.
        """
        role = _METHODS.get(method) or _SERVICES.get(method[1:].partition("/")[0])
        if role is None:  # health, which says nothing that matters
            return
        grant = self._grant(context)
        if grant is None:
            self.refused += 1
            await abort(context, _NO_TOKEN)
        GRANT.set(grant)  # also if it does not cover the call: the audit says who was refused
        if not _covers(grant, role, method, request) or (role is Role.PEER and not self._may_link(context)):
            self.refused += 1
            _log.warning("call_refused", who=grant.name, method=method)
            await abort(context, NOT_ALLOWED)
        if self._rates is not None and method.startswith(_CACHE):
            await self._weigh(self._rates, grant, method, request, context)

    async def _weigh(
        self, rates: Rates, grant: Grant, method: str, request: object, context: aio.ServicerContext[Any, Any]
    ) -> None:
        """Return if a call is within its caller's rate; what ends a load always is."""
        now = self._now()
        bucket = rates.of(grant, now)
        if bucket is None:
            return
        keys = len(getattr(request, "keys", ()) or getattr(request, "items", ()))
        wait_s = bucket.take(keys, now, anyway=method in _ENDS_LOADS)
        if wait_s:
            rates.refused += 1
            _log.warning("over_rate", who=grant.name, method=method)
            await abort(context, over_rate(bucket.per_s, wait_s))

    def _grant(self, context: aio.ServicerContext[Any, Any]) -> Grant | None:
        for key, value in context.invocation_metadata() or ():
            if key == AUTHORIZATION_KEY and isinstance(value, str) and value.startswith(BEARER):
                return self._grants().of(value.removeprefix(BEARER))
        grants = self._grants()
        return grants.of_names(_names(context)) if grants.certificates else None

    def _may_link(self, context: aio.ServicerContext[Any, Any]) -> bool:
        if self._is_peers is None:
            return True
        shown = context.auth_context()
        return self._is_peers([bytes(pem) for name in _CHAIN for pem in shown.get(name, ())])


def _names(context: aio.ServicerContext[Any, Any]) -> list[str]:
    """Return the alternative names of the certificate that a call came with."""
    raw = context.auth_context().get("x509_subject_alternative_name", ())
    return [bytes(name).decode("utf-8", "replace") for name in raw]


def _covers(grant: Grant, role: Role, method: str, request: object) -> bool:
    if method in _OF_NO_NAMESPACE:
        return grant.role >= role
    namespace = getattr(request, "namespace", None)
    if namespace == "":
        namespace = None if method in _OF_ALL_IF_UNNAMED else DEFAULT_NAMESPACE
    return grant.allows(role, namespace)
