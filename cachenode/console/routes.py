"""The console on the node's HTTP port: its files, its calls, and the live stream.

A call is a POST of JSON to /ui/api/NAME, answered with JSON; an error has "error" with a text and what to do next. The
live stream is server-sent events, read by `fetch` rather than by EventSource, which could not send a token.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web

from cachenode.console.assets import Asset, assets
from cachenode.console.feed import Feeds
from cachenode.console.guard import HEADERS, Caller, Guard
from cachenode.console.refusals import Refused
from cachenode.console.requests import Body, read_body
from cachenode.defects import new_request_id, told

__all__ = ["Call", "Console"]

_log = structlog.get_logger(__name__)

Call = Callable[[Caller, Body], Awaitable[dict[str, Any]]]
_ROOT = "/ui/"
_WRITE_S = 10.0
"""A watcher who takes nothing for so long is given up: its place is another's."""


class Console:
    """Serves the console.

    Args:
        guard: Looks at who asks.
        feeds: What is live.
        looks: Calls that show something, by name.
        changes: Calls that change something.
        on_close: Ends what the calls use.
    """

    def __init__(
        self,
        guard: Guard,
        feeds: Feeds,
        looks: dict[str, Call],
        changes: dict[str, Call],
        on_close: Callable[[], Awaitable[None]],
    ) -> None:
        self._guard = guard
        self._feeds = feeds
        self._looks = looks
        self._changes = changes
        self._on_close = on_close

    def add_to(self, app: web.Application) -> None:
        """Add the routes; what runs ends with the application."""
        app.router.add_get("/", _to_console)
        app.router.add_get("/ui", _to_console)
        app.router.add_get(_ROOT, _file(assets()["index.html"]))
        for path, asset in assets().items():
            app.router.add_get(_ROOT + path, _file(asset))
        app.router.add_post(f"{_ROOT}api/live", self._live)
        for name, call in (self._looks | self._changes).items():
            app.router.add_post(f"{_ROOT}api/{name}", self._answering(call, changes=name in self._changes))
        app.on_shutdown.append(self._shut_down)

    async def _shut_down(self, _: web.Application) -> None:
        await self._feeds.close()
        await self._on_close()

    def _answering(self, call: Call, *, changes: bool) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            try:
                caller = self._guard.admit(request)
                if changes:
                    self._guard.admit_change(caller)
                document = await call(caller, await read_body(request))
            except Refused as refused:
                return _refusal(refused)
            except ConnectionError:  # the caller has left
                raise
            except Exception as error:  # noqa: BLE001 - the border: no exception's text leaves the node
                return _refusal(_defect(error, request.path))
            if changes:
                _log.info("console_change", who=caller.name or "anybody", call=request.path.removeprefix(_ROOT))
            return _json(document)

        return answer

    async def _live(self, request: web.Request) -> web.StreamResponse:
        try:
            caller = self._guard.admit(request)
            stream = self._feeds.watch(caller.token)
            first = await anext(stream)
        except Refused as refused:
            return _refusal(refused)
        headers = HEADERS | {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        try:
            await response.prepare(request)
            await _send(response, *first)
            async for kind, document in stream:
                await _send(response, kind, document)
                self._guard.admit(request)  # the token may have been taken back meanwhile
        except (ConnectionError, TimeoutError, Refused):
            pass
        finally:
            await stream.aclose()
        return response


def _defect(error: Exception, path: str) -> Refused:
    request_id, kind = new_request_id(), type(error).__name__
    _log.error("console_call_failed", path=path, request_id=request_id, error_type=kind, exc_info=error)
    return Refused(500, told(request_id))


async def _send(response: web.StreamResponse, kind: str, document: dict[str, Any]) -> None:
    text = json.dumps(document, separators=(",", ":"))
    await asyncio.wait_for(response.write(f"event: {kind}\ndata: {text}\n\n".encode()), _WRITE_S)


async def _to_console(request: web.Request) -> web.Response:
    del request
    return web.Response(status=302, headers=HEADERS | {"Location": _ROOT})


def _file(asset: Asset) -> Callable[[web.Request], Awaitable[web.Response]]:
    headers = HEADERS | {"Cache-Control": "no-cache", "ETag": f'"{asset.etag}"'}

    async def answer(request: web.Request) -> web.Response:
        if any(each.value == asset.etag for each in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=asset.body, content_type=asset.content_type, charset="utf-8", headers=headers)

    return answer


def _json(document: dict[str, Any], status: int = 200) -> web.Response:
    headers = HEADERS | {"Cache-Control": "no-store"}
    return web.Response(
        text=json.dumps(document), status=status, content_type="application/json", charset="utf-8", headers=headers
    )


def _refusal(refused: Refused) -> web.Response:
    return _json({"error": {"text": refused.text, "hint": refused.hint}}, refused.status)
