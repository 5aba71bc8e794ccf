"""An HTTP service over SQLite: the nodes read the database, the service reads the cache and tells it of changes.

    python client/examples/http_service.py [HOST:PORT]

Then, with the address that it prints:

    curl -i http://127.0.0.1:8080/users/7
    curl -i http://127.0.0.1:8080/users/7 -H 'If-None-Match: "20000000001"'  # the ETag it gave: 304
    curl -i http://127.0.0.1:8080/users/7 -X PUT -d '{"name": "Grace"}'
    curl -i http://127.0.0.1:8080/teams/eu

A cluster of your own needs the origins of http_service.toml. PORT=0 takes a free port.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import closing

from aiohttp import web
from aiohttp.typedefs import Handler

from cachenode_client import CacheClient, LoadFailed, Lookup
from local import cluster

CACHE = web.AppKey("cache", CacheClient)
ADDRESS = web.AppKey("address", str)
DATABASE = web.AppKey("database", str)


async def show_user(request: web.Request) -> web.Response:
    """Answer GET /users/7. Browsers may keep it and must ask each time: the answer is mostly a 304 without a body."""
    found = await request.app[CACHE].lookup(f"user:{request.match_info['id']}")
    return answer(request, found, max_age_s=0)


async def show_team(request: web.Request) -> web.Response:
    """Answer GET /teams/eu. Nobody minds a summary that is ten seconds old: browsers and CDNs need not ask."""
    found = await request.app[CACHE].lookup(f"team:{request.match_info['name']}", namespace="teams")
    return answer(request, found, max_age_s=10)


def answer(request: web.Request, found: Lookup, max_age_s: int) -> web.Response:
    """Make a response of what the cache says, with validators of the value's version and remaining life.

    A version orders all writes and loads of a key, so the same version is the same value. It is 0 if the value was
    loaded and could not be stored: then there is no name for it.
    """
    if not found.found:
        return web.json_response({"error": "there is none"}, status=404)
    etag = f"{found.version:x}" if found.version else None
    if any(known.value == etag for known in request.if_none_match or ()):
        response = web.Response(status=304)
    else:
        response = web.json_response(found.value)
    if found.ttl_s is not None:  # nothing outside may outlive the value
        max_age_s = min(max_age_s, int(found.ttl_s))
    response.headers["Cache-Control"] = f"max-age={max_age_s}" if max_age_s and not found.stale else "no-cache"
    response.etag = etag
    return response


async def rename_user(request: web.Request) -> web.Response:
    """Answer PUT /users/7: change the row, and declare untrue what was made of it once that is committed."""
    number, name = request.match_info["id"], (await request.json())["name"]
    async with request.app[CACHE].after_commit() as later:
        later.invalidate(f"user:{number}")
        later.invalidate(tags=["teams"], namespace="teams")
        if not await asyncio.to_thread(rename, request.app[DATABASE], number, name):
            return web.json_response({"error": "there is none"}, status=404)
    return web.Response(status=204)  # whoever asks from here on, anywhere, gets the new name


@web.middleware
async def failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer that the database cannot be read now; nobody reads it again for a moment."""
    try:
        return await handler(request)
    except LoadFailed:
        return web.json_response({"error": "try again"}, status=503, headers={"Retry-After": "1"})


def rename(path: str, number: str, name: str) -> bool:
    """Change a row; return True if there is one. Committed when it returns."""
    with closing(sqlite3.connect(path)) as database, database:
        return database.execute("UPDATE users SET name = ? WHERE id = ?", (name, number)).rowcount > 0


def make_database(path: str) -> None:
    """Write the table of users."""
    people = [(7, "Ada", "eu"), (8, "Edsger", "eu"), (9, "Barbara", "us")]
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, name TEXT, team TEXT)")
        database.executemany("INSERT OR REPLACE INTO users VALUES (?, ?, ?)", people)


async def with_cache(app: web.Application) -> AsyncIterator[None]:
    """Open the client in the loop of the service, and close it at the end."""
    async with CacheClient(app[ADDRESS], namespace="users", timeout_s=5) as app[CACHE]:
        yield


def application(address: str, database: str) -> web.Application:
    """Return the service."""
    app = web.Application(middlewares=[failures])
    app[ADDRESS], app[DATABASE] = address, database
    app.cleanup_ctx.append(with_cache)
    app.add_routes(
        [
            web.get(r"/users/{id:\d+}", show_user),
            web.put(r"/users/{id:\d+}", rename_user),
            web.get(r"/teams/{name:\w+}", show_team),
        ]
    )
    return app


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="users-") as folder:
        path = f"{folder}/users.db"
        make_database(path)
        with cluster("http_service.toml", {"database-url": f"sqlite:///{path}"}) as found:
            web.run_app(application(found, path), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
