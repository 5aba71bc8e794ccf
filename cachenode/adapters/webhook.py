"""POST /events: events over HTTP, from whoever knows the secret.

The body is ``{"event": "user.deleted", "fields": {"userId": 7}, "id": "…"}``, signed as `cachenode.core.signatures`
says. The answer comes when nobody serves the old values any more, so its sender may go on. What could not be done may
be sent again with the same signature; else each attempt is signed anew, and the id says that it is the same event.

The secret lies in a file, one in each line, and is read again when the file changes: so secrets are replaced without a
restart. It is never shown nor logged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from cachenode.core.events import parse_event
from cachenode.core.signatures import Signatures, Verdict
from cachenode.errors import ConfigError, EventRefused
from cachenode_api.reasons import Reason

if TYPE_CHECKING:
    from cachenode.node.events import Events, Published

__all__ = ["SIGNATURE_HEADER", "SecretFile", "Webhook"]

_log = structlog.get_logger(__name__)

SIGNATURE_HEADER = "Cachenode-Signature"
_LEAST_SECRET = 16
_LARGEST_FILE = 4_096
_AROUND = 1_024
"""Bytes of a body beside the fields."""
_UNSIGNED = {
    Verdict.MALFORMED: (401, f"{SIGNATURE_HEADER}: must be t=<seconds since 1970>,v1=<hex HMAC-SHA256>"),
    Verdict.WRONG: (401, f"{SIGNATURE_HEADER}: is not that of this body under the secret"),
    Verdict.LATE: (403, f"{SIGNATURE_HEADER}: its time is more than five minutes away from this node's"),
    Verdict.REPLAYED: (403, f"{SIGNATURE_HEADER}: has been used; sign each attempt anew"),
}
_BAD = frozenset({Reason.INVALID_REQUEST, Reason.EVENT_TOO_BROAD, Reason.UNKNOWN_EVENT, Reason.UNKNOWN_NAMESPACE})


class SecretFile:
    """Secrets in a file, one in each line.

    Raises:
        ConfigError: It cannot be read, or a secret is too short.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed_at = -1
        self._secrets: tuple[bytes, ...] = ()
        try:
            self._read()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError([f"events.webhook_secret_file: {why}"]) from None

    def secrets(self) -> Sequence[bytes]:
        """Return the secrets; those from before if the file is gone or bad by now."""
        try:
            if self._path.stat().st_mtime_ns != self._changed_at:
                self._read()
        except (OSError, ValueError) as error:
            _log.warning("webhook_secret_unreadable", error_type=type(error).__name__)
        return self._secrets

    def _read(self) -> None:
        changed_at = self._path.stat().st_mtime_ns
        with self._path.open("rb") as file:
            lines = [line.strip() for line in file.read(_LARGEST_FILE).splitlines() if line.strip()]
        if not lines or min(map(len, lines)) < _LEAST_SECRET:
            raise ValueError(f"must hold secrets of at least {_LEAST_SECRET} bytes, one in each line")
        self._secrets, self._changed_at = tuple(lines), changed_at


class Webhook:
    """Answers POST /events.

    Args:
        events: Returns what acts on them: the HTTP port is there before the node is.
        secrets: Those who may send.
        max_payload_bytes: Largest fields.
        wall: Seconds since 1970.
    """

    def __init__(
        self,
        events: Callable[[], Events],
        secrets: SecretFile,
        *,
        max_payload_bytes: int,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._events = events
        self._secrets = secrets
        self._most = max_payload_bytes + _AROUND
        self._wall = wall
        self._signatures = Signatures()

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one request."""
        body = await _read(request, self._most)
        if body is None:
            return self._refused(413, f"body: more than {self._most:,} bytes")
        header = request.headers.get(SIGNATURE_HEADER, "")
        verdict = self._signatures.check(header, body, self._secrets.secrets(), self._wall())
        if verdict is not Verdict.GOOD:
            return self._refused(*_UNSIGNED[verdict])
        event = parse_event(body)
        if event is None:
            return self._refused(400, 'body: must be a JSON object with "event", "fields" (an object) and "id"')
        try:
            published = await self._events().publish(event[0], event[1], "webhook", event_id=event[2])
        except EventRefused as error:
            if error.reason in _BAD:
                return _json(400, {"error": str(error), "reason": error.reason.name.lower()})
            self._signatures.take_back(header)
            return _json(503, {"error": str(error), "reason": error.reason.name.lower()})
        return _json(202, _shown(event[0], published))

    def _refused(self, status: int, text: str) -> web.Response:
        self._events().counts["webhook", "refused"] += 1
        return _json(status, {"error": text})


async def _read(request: web.Request, most: int) -> bytes | None:
    """Return the body, None if it is too large: then it is not read to its end."""
    if (request.content_length or 0) > most:
        return None
    body = b""
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > most:
            return None
    return body


def _shown(name: str, published: Published) -> dict[str, Any]:
    places = [
        {"namespace": each.namespace, "keys": len(each.keys), "selectors": len(each.selectors)}
        for each in published.invalidations
    ]
    found = {"event": name, "known": published.known, "duplicate": published.duplicate}
    return found | {"found": published.found, "invalidations": places}


def _json(status: int, document: dict[str, Any]) -> web.Response:
    return web.json_response(document, status=status)
