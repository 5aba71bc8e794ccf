"""Who did what that others feel: admin actions, events, and invalidations of more than single keys; also if refused.

A line says when, who (the name of a token or certificate), from where (the kind of address), what, on which namespace,
how much, and how it ended. It holds no key, value, payload, tag or pattern: of those there are counts, and keyed
hashes of what is named singly, so that two lines can be seen to mean the same. Who knows the cluster's name and has a
guess at a key can check the guess.

What is written follows from the messages' fields, so a new call is audited from its first day: numbers and lists'
lengths are shown, texts only where they name things of the configuration. Calls that only show something are listed
here and not audited.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import structlog
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from cachenode.rpc.gate import GRANT
from cachenode.rpc.status import REASON_KEY

if TYPE_CHECKING:
    from grpc import aio

    from cachenode.core.access import Grant
    from cachenode.core.entries import Batch, BatchResult

    Context = aio.ServicerContext[Any, Any]

_log = structlog.get_logger(__name__)

__all__ = ["Audit", "Note", "address_kind"]

_ADMIN = "/cachenode.v1.AdminService/"
_ALSO = {"/cachenode.v1.CacheService/Invalidate", "/cachenode.v1.CacheService/PublishEvent"}
_ONLY_SHOW = {
    *("GetView", "GetStats", "ListEvents", "Explain", "HotKeys", "BigKeys", "Dependents", "BloomStatus", "Advise"),
    *("ListNamespaces", "GetNamespace", "WarmStatus", "Ring", "GetLogLevels", "WriteBehindStatus", "ListDeadLetters"),
}
_NAMES = {"namespace", "origin", "logger", "level", "region", "job"}
"""Texts that name things of the configuration; an event's name is one, too."""
_SETTINGS = {"fields", "reset"}
"""Names of settings, of which the values are not told."""
_SELECTING = ("prefixes", "patterns", "tags", "whole_namespace")
_KINDS = {1: "prefixes", 2: "patterns", 3: "tags", 4: "whole_namespace"}
_MOST_HASHES = 8

Note = Callable[[object, object, "Context", str], None]
"""Takes what a call brought, what it was answered (None if it failed), its context, and from where it came."""


class Audit:
    """Writes what is done by calls.

    Args:
        write: Takes the fields of a line. Does not raise.
        salt: Makes the hashes of this cluster's keys.
    """

    def __init__(self, write: Callable[[dict[str, Any]], None], salt: str) -> None:
        self._write = write
        self._salt = salt.encode()[:64]

    def of(self, method: str) -> Note | None:
        """Return what takes note of a method's calls, by its whole name; None if they are not audited."""
        name = method.rpartition("/")[2]
        if method not in _ALSO and (not method.startswith(_ADMIN) or name in _ONLY_SHOW):
            return None

        def note(request: object, answer: object, context: Context, peer: str) -> None:
            if name == "Invalidate" and not any(getattr(request, field) for field in _SELECTING):
                return
            try:
                self._line(name, GRANT.get(), peer, self._what(request), _outcome(answer, context), answer)
            except Exception as error:  # noqa: BLE001 - a defect here must not be the call's
                _log.error("audit_failed", action=name, error_type=type(error).__name__, exc_info=error)

        return note

    def barrier(self, batch: Batch, grant: Grant | None, peer: str, result: BatchResult) -> None:
        """Take note of an invalidation that came over a session."""
        what: dict[str, Any] = {"namespace": batch.namespace, "hashes": self._hashes(batch.keys)}
        for kind in batch.flags:
            field = _KINDS.get(kind, "unknown")
            what[field] = what.get(field, 0) + 1
        reasons = {failure.reason.name.lower() for failure in result.failures.values()}
        self._line("Invalidate", grant, peer, what, ",".join(sorted(reasons)) or "ok", None)

    def _line(
        self, action: str, grant: Grant | None, peer: str, what: dict[str, Any], outcome: str, answer: object
    ) -> None:
        line = {"who": grant.name if grant is not None else "", "from": address_kind(peer), "action": action}
        found = self._what(answer) if isinstance(answer, Message) else {}
        self._write({**line, **what, "outcome": outcome, **({"answer": found} if found else {})})

    def _what(self, message: object) -> dict[str, Any]:
        """Return what may be told of a message."""
        if not isinstance(message, Message):
            return {}
        shown: dict[str, Any] = {}
        named: list[bytes] = []
        for field, value in message.ListFields():
            if field.name in _SETTINGS and message.DESCRIPTOR.name == "SetNamespaceRequest":
                shown[field.name] = sorted(value)
            elif field.is_repeated:
                shown[field.name] = len(value)
                if field.type in {FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING}:
                    named += [each if isinstance(each, bytes) else str(each).encode() for each in value[:_MOST_HASHES]]
            elif field.type == FieldDescriptor.TYPE_STRING:
                event = field.name == "name" and message.DESCRIPTOR.name == "PublishEventRequest"
                if field.name in _NAMES or event:
                    shown[field.name] = value[:128]
            elif field.type == FieldDescriptor.TYPE_BYTES:
                shown[f"{field.name}_bytes"] = len(value)
            elif field.type != FieldDescriptor.TYPE_MESSAGE:
                shown[field.name] = value
        return shown | ({"hashes": self._hashes(named)} if named else {})

    def _hashes(self, texts: Sequence[bytes]) -> list[str]:
        return [blake2b(text, digest_size=6, key=self._salt).hexdigest() for text in texts[:_MOST_HASHES]]


def _outcome(answer: object, context: Context) -> str:
    if answer is not None:
        return "ok"
    trailing = context.trailing_metadata() or ()
    return next((str(value).lower() for key, value in trailing if key == REASON_KEY), "not finished")


def address_kind(peer: str) -> str:
    """Return from how far a call came, as gRPC names its peer: unix, loopback, private, public, or unknown."""
    if peer.startswith("unix:"):
        return "unix"
    host = peer.partition(":")[2].rpartition(":")[0].replace("%5B", "[").replace("%5D", "]").strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "unknown"
    if address.is_loopback:
        return "loopback"
    return "private" if address.is_private else "public"
