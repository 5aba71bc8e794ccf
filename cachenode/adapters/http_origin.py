"""The origin "http": a value is what a service answers at a URL that is made of the key.

What a response says of its own freshness counts (RFC 9111): ``max-age``, less ``Age``, is the value's life;
``no-store`` and ``no-cache`` say that it is for those who wait, and nobody else. Values with a validator (``ETag`` or
``Last-Modified``) are remembered up to a limit, so that the service may answer 304 instead of sending them again.

404 and 410 say that there is none. 429 and 5xx may be tried again; after a ``Retry-After`` nothing is asked before its
time. Other answers are the service's last word. Redirects are not followed: they would take secrets along.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from cachetools import LRUCache

from cachenode.adapters.key_pattern import KeyPattern
from cachenode.adapters.secret_files import secrets_of
from cachenode.adapters.value_format import ValueFormat
from cachenode.errors import ConfigError, OriginError
from cachenode.origins import ABSENT, Loaded, Write
from cachenode_api.tracing import carried

__all__ = ["HttpOrigin"]

_GONE = frozenset({404, 410})
_NOT_DONE = frozenset({429, 503})
"""Answers that may be tried again, after which nothing was done."""
_NOT_MODIFIED = 304
_LONGEST_PAUSE_S = 60.0
_MARK = "{}"
_VERSION = "Cachenode-Version"


class _Remembered(NamedTuple):
    """A response that the service may say is still the one."""

    etag: str
    modified: str
    body: bytes


class HttpOrigin:
    """A service over HTTP as loader and sink: GET, PUT and DELETE of one key each.

    A write bears its version in the header ``Cachenode-Version``.

    Args:
        url: With the placeholder of `key`, as in ``https://users.example/v1/users/{id}``; what stands for it is quoted.
        key: Which part of a cache key the URL gets.
        format: "json", or "bytes" for bodies as they are.
        headers: Sent with each request.
        header_files: The same, but the values are in files: for secrets.
        timeout_s: How long a request may take; less than the origin's ``timeout_s``.
        connections: Most connections at a time.
        max_bytes: Largest body.
        remember_bytes: Memory for values with validators; 0: none.

    Raises:
        ConfigError: They do not fit together.
    """

    def __init__(
        self,
        *,
        url: str,
        key: str = "{key}",
        format: Literal["json", "bytes"] = "json",  # noqa: A002 - as the configuration says it
        headers: Mapping[str, str] | None = None,
        header_files: Mapping[str, str] | None = None,
        timeout_s: float = 4.0,
        connections: int = 100,
        max_bytes: int = 64 << 20,
        remember_bytes: int = 16 << 20,
    ) -> None:
        self._pattern = KeyPattern(key)
        place = f"{{{self._pattern.name}}}"
        if not url.startswith(("http://", "https://")) or url.count(place) != 1:
            raise ConfigError([f"options.url: must begin with http:// or https:// and hold {place} once"])
        self._url = url.replace(place, _MARK)
        self._format = ValueFormat(format)
        self._headers = {**(headers or {}), **secrets_of("header_files", header_files or {})}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._connections = connections
        self._max_bytes = max_bytes
        self._remembered: LRUCache[str | int, _Remembered] = LRUCache(remember_bytes, getsizeof=_size)
        self._not_before = 0.0
        self._session: aiohttp.ClientSession | None = None

    # Reading.

    async def load(self, key: str | bytes) -> object:
        """Return what the service has for a key.

        Raises:
            OriginError: It cannot be found out.
        """
        part = self._pattern.part(key)
        if part is None:
            return ABSENT
        known = self._remembered.get(part)
        status, headers, body = await self._request("GET", part, _conditions(known))
        if status in _GONE:
            self._remembered.pop(part, None)
            return ABSENT
        if status == _NOT_MODIFIED and known is not None:
            return self._loaded(known.body, headers)
        _check(status)
        self._remember(part, headers, body)
        return self._loaded(body, headers)

    def _remember(self, part: str | int, headers: Mapping[str, str], body: bytes) -> None:
        self._remembered.pop(part, None)
        entry = _Remembered(headers.get("ETag", ""), headers.get("Last-Modified", ""), body)
        if (entry.etag or entry.modified) and _size(entry) <= self._remembered.maxsize:
            self._remembered[part] = entry

    def _loaded(self, body: bytes, headers: Mapping[str, str]) -> Loaded:
        life_s, keep = _freshness(headers)
        return Loaded(self._format.value(body), life_s, keep=keep)

    # Writing.

    async def write(self, write: Write) -> None:
        """Put or delete a value.

        Raises:
            OriginError: That has not been done, or may have been.
        """
        part = self._pattern.part(write.key)
        if part is None:
            raise OriginError("the key does not fit the pattern of the origin's keys", again=False)
        version = {_VERSION: str(write.version)}
        if write.value is ABSENT:
            status, _, _ = await self._request("DELETE", part, version, writes=True)
            if status in _GONE:
                return
        else:
            headers, body = {**version, "Content-Type": self._format.media_type}, self._format.data(write.value)
            status, _, _ = await self._request("PUT", part, headers, body, writes=True)
        _check(status, writes=True)

    # Requests.

    async def _request(
        self,
        method: str,
        part: str | int,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        writes: bool = False,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request, and return the response's status, headers and body."""
        if time.monotonic() < self._not_before:
            raise OriginError("the service has asked to be left alone for a while")
        if self._session is None:  # here, because it belongs to the running loop
            connector = aiohttp.TCPConnector(limit=self._connections)
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, headers=self._headers)
        url = self._url.replace(_MARK, quote(str(part), safe=""))
        try:
            async with self._session.request(
                method, _as_it_is(url), headers={**headers, **carried()}, data=body, allow_redirects=False
            ) as response:
                found = await self._read(response)
        except aiohttp.ClientConnectorError as error:
            raise OriginError(type(error).__name__) from None
        except (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError) as error:
            raise OriginError(type(error).__name__, maybe_done=writes) from None
        if response.status in _NOT_DONE:
            self._not_before = time.monotonic() + _pause_s(response.headers.get("Retry-After", ""))
        return response.status, response.headers, found

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        found = bytearray()
        async for chunk in response.content.iter_chunked(1 << 16):
            found += chunk
            if len(found) > self._max_bytes:
                text = f"the response exceeds the limit of {self._max_bytes:,} bytes (options.max_bytes)"
                raise OriginError(text, again=False)
        return bytes(found)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


def _as_it_is(url: str) -> Any:  # noqa: ANN401 - of a library that aiohttp brings along
    from yarl import URL

    return URL(url, encoded=True)


def _check(status: int, *, writes: bool = False) -> None:
    """Raise unless a status says that all is well."""
    if 200 <= status < 300:
        return
    server = status >= 500
    again = server or status in _NOT_DONE
    raise OriginError(f"status {status}", again=again, maybe_done=writes and server and status not in _NOT_DONE)


def _conditions(known: _Remembered | None) -> dict[str, str]:
    if known is None:
        return {}
    if known.etag:
        return {"If-None-Match": known.etag}
    return {"If-Modified-Since": known.modified}


def _freshness(headers: Mapping[str, str]) -> tuple[float | None, bool]:
    """Return how long a response may be kept, None if it does not say, and whether it may be at all."""
    said: dict[str, str] = {}
    for each in headers.get("Cache-Control", "").lower().split(","):
        name, _, value = each.strip().partition("=")
        said[name] = value.strip('"')
    if "no-store" in said or "no-cache" in said:
        return None, False
    age = said.get("s-maxage") or said.get("max-age") or ""
    if not age.isdecimal():
        return None, True
    passed = headers.get("Age", "")
    left_s = float(int(age) - (int(passed) if passed.isdecimal() else 0))
    return (left_s, True) if left_s > 0 else (None, False)


def _pause_s(said: str) -> float:
    """Return how long a service asks to be left alone: seconds, or a date."""
    if said.isdecimal():
        return min(float(said), _LONGEST_PAUSE_S)
    try:
        until = parsedate_to_datetime(said).timestamp()
    except (TypeError, ValueError):
        return 0.0
    return max(0.0, min(until - time.time(), _LONGEST_PAUSE_S))


def _size(entry: _Remembered) -> int:
    return len(entry.body) + len(entry.etag) + len(entry.modified) + 300
