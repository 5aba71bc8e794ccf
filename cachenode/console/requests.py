"""What the console's calls bring: fields of a JSON object, each checked where it is taken."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from cachenode.console.refusals import Refused
from cachenode_api.errors import InvalidNamespace
from cachenode_api.keys import DEFAULT_NAMESPACE, MAX_KEY_BYTES, check_namespace

__all__ = ["Body", "read_body"]

_MOST_BYTES = 64 * 1024


class Body:
    """The fields of a call.

    Args:
        fields: As they came.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def text(self, name: str, default: str = "") -> str:
        """Return a text."""
        found: str = self._of(name, str, default, "a text")
        return found

    def flag(self, name: str) -> bool:
        """Return whether something is so."""
        found: bool = self._of(name, bool, False, "true or false")
        return found

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """Return a number within limits."""
        found = self._fields.get(name, default)
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not low <= found <= high:
            raise Refused(400, f"{name}: must be a number, {low:g} to {high:,.0f}")
        return found

    def texts(self, name: str) -> list[str]:
        """Return a list of texts."""
        found: list[Any] = self._of(name, list, [], "a list of texts")
        if not all(isinstance(each, str) for each in found):
            raise Refused(400, f"{name}: must be a list of texts")
        return found

    def mapping(self, name: str) -> dict[str, str]:
        """Return texts by name."""
        found: dict[str, Any] = self._of(name, dict, {}, "an object of texts")
        if not all(isinstance(each, str) for each in found.values()):
            raise Refused(400, f"{name}: must be an object of texts")
        return found

    def namespace(self, default: str = DEFAULT_NAMESPACE) -> str:
        """Return the name of a namespace."""
        name = self.text("namespace", default)
        try:
            return check_namespace(name) if name else name
        except InvalidNamespace as error:
            raise Refused(400, f"namespace: {error}") from None

    def key(self) -> bytes:
        """Return a key: "key" is its text, "key_base64" its bytes."""
        coded = self.text("key_base64")
        try:
            raw = base64.b64decode(coded, validate=True) if coded else self.text("key").encode()
        except (binascii.Error, UnicodeEncodeError):
            raise Refused(400, "key: cannot be read") from None
        if not 0 < len(raw) <= MAX_KEY_BYTES:
            raise Refused(400, f"key: {len(raw):,} bytes; it must be 1 to {MAX_KEY_BYTES:,}")
        return raw

    def _of(self, name: str, kind: type, default: Any, what: str) -> Any:  # noqa: ANN401 - of any field
        found = self._fields.get(name, default)
        if not isinstance(found, kind):
            raise Refused(400, f"{name}: must be {what}")
        return found


async def read_body(request: web.Request) -> Body:
    """Return the fields of a request.

    Raises:
        Refused: It brings no JSON object, or too much.
    """
    if request.content_type != "application/json":
        raise Refused(415, "the body must be JSON (Content-Type: application/json)")
    raw = bytearray()
    async for chunk in request.content.iter_any():
        raw += chunk
        if len(raw) > _MOST_BYTES:
            raise Refused(413, f"the body must be at most {_MOST_BYTES:,} bytes")
    try:
        fields = json.loads(raw or b"{}")
    except ValueError:
        raise Refused(400, "the body is not JSON") from None
    if not isinstance(fields, dict):
        raise Refused(400, "the body must be a JSON object")
    return Body(fields)
