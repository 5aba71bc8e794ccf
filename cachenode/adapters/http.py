"""The HTTP port: metrics and probes, in the node's own event loop.

In the loop on purpose: a server in a thread of its own would go on answering /livez while the node is stuck. Who may
take how much of it is for the `Door` to say.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry

from cachenode.adapters.exposition import Exposition
from cachenode.adapters.http_door import Door, HttpLimits

__all__ = ["HttpServer"]

_BACKLOG = 128

_PAGE = """<!doctype html><html lang="en"><title>cachenode</title><body style="font-family:sans-serif;margin:2rem">
<h1>cachenode {id}</h1><p>version {version}</p>
<ul><li><a href="/metrics">/metrics</a>: for Prometheus</li>
<li><a href="/readyz">/readyz</a>: may clients come?</li><li><a href="/livez">/livez</a>: is the process
stuck?</li></ul></body></html>
"""


class HttpServer:
    """Serves /metrics, /livez, /readyz and a page that lists them.

    Args:
        listen: host:port; port 0 takes a free one.
        ready: Whether clients may come.
        live: Whether the process is not stuck.
        metrics: What /metrics shows.
        info: "id" and "version" for the page.
        context: For HTTPS; None for HTTP.
        posts: What answers POST requests, by path.
        add_routes: Adds what else is served, "/" included, instead of a page that lists the rest.
        limits: What strangers may have of it.

    Attributes:
        address: What it listens on, once it does.
        door: Lets connections in.
    """

    def __init__(
        self,
        listen: str,
        *,
        ready: Callable[[], bool],
        live: Callable[[], bool],
        metrics: CollectorRegistry,
        info: Callable[[], Mapping[str, str]],
        context: ssl.SSLContext | None = None,
        posts: Mapping[str, Callable[[web.Request], Awaitable[web.Response]]] | None = None,
        add_routes: Callable[[web.Application], None] | None = None,
        limits: HttpLimits | None = None,
    ) -> None:
        self.address = ""
        self.door = Door(limits or HttpLimits(), context)
        self._listen = listen
        self._ready = ready
        self._live = live
        self._metrics = Exposition(metrics)
        self._info = info
        self._posts = posts or {}
        self._add_routes = add_routes or self._add_index
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            OSError: The address cannot be bound.
        """
        app = web.Application(middlewares=[self.door.answer])
        app.on_response_prepare.append(self.door.let_stream)
        self._add_routes(app)
        app.router.add_get("/metrics", self._show_metrics)
        app.router.add_get("/livez", self._probe(self._live))
        app.router.add_get("/readyz", self._probe(self._ready))
        for path, answer in self._posts.items():
            app.router.add_post(path, answer)
        self._runner = web.AppRunner(app, handle_signals=False, **self.door.limits.options())
        await self._runner.setup()
        host, _, port = self._listen.rpartition(":")
        assert self._runner.server is not None
        protocol = self.door.opens_to(self._runner.server)
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                protocol, host.strip("[]") or None, int(port), backlog=_BACKLOG
            )
        except OSError as error:
            await self._runner.cleanup()
            why = error.strerror or type(error).__name__
            hint = "name another address in node.http_listen (--http-listen)"
            raise OSError(f"cannot listen on {self._listen} for HTTP: {why}; {hint}") from None
        bound = self._listener.sockets[0].getsockname()[1]
        self.address = f"{host}:{bound}"

    async def stop(self) -> None:
        """Stop serving. Safe to call before `start`."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _add_index(self, app: web.Application) -> None:
        app.router.add_get("/", self._index)

    async def _index(self, request: web.Request) -> web.Response:
        del request
        return web.Response(text=_PAGE.format(**self._info()), content_type="text/html")

    async def _show_metrics(self, request: web.Request) -> web.Response:
        body, content_type = await self._metrics.text(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    def _probe(self, healthy: Callable[[], bool]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            del request
            good = healthy()
            return web.Response(
                text=json.dumps({"ok": good}), status=200 if good else 503, content_type="application/json"
            )

        return answer
