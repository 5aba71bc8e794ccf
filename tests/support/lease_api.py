"""The part of a Kubernetes API server that keeps Leases, over HTTP, with its rules and its refusals.

A watch tells each change after a resourceVersion, in order, as lines of JSON; it ends in time, and says with an ERROR
of code 410 that changes after that version are forgotten ("Efficient detection of changes").

As the server does (API conventions, "Concurrency Control and Consistency"): each write gives the object a new
resourceVersion, of one counter for all; a PUT that names another than the present one, and a DELETE whose precondition
does, is answered with 409 and a Status, as is a PUT that names another uid; a PUT of what does not exist makes it, with
whatever resourceVersion; a POST of what exists is answered with 409, a GET or DELETE of what does not with 404.
Objects are checked like coordination.k8s.io/v1 checks them, and unknown fields are refused, so that a client's mistake
shows.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

__all__ = ["TOKEN", "LeaseApi", "lease_api"]

TOKEN = "a-service-account's-token"
NAMESPACE = "caches"
_PATH = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")
_SPEC = {
    "holderIdentity",
    "leaseDurationSeconds",
    "acquireTime",
    "renewTime",
    "leaseTransitions",
    "strategy",
    "preferredHolder",
}
_MOST_ANNOTATIONS = 256 << 10


class LeaseApi:
    """Leases of one namespace.

    Attributes:
        leases: The objects, by name.
        requests: Method and name of each request.
        status: Answer everything with this instead, unless 0.
        kubeconfig: A file that leads here.
        before_watch: Called when a watch has been asked for, before it is begun.
        watches: How many are open.
    """

    def __init__(self) -> None:
        self.leases: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.status = 0
        self.kubeconfig = ""
        self.before_watch: Callable[[], Awaitable[object]] | None = None
        self._version = 1000
        self._events: list[tuple[int, str, dict[str, Any]]] = []
        self._forgotten = 1000
        self._watches: set[_Watch] = set()

    @property
    def watches(self) -> int:
        return len(self._watches)

    @property
    def renewals(self) -> int:
        """How many writes of leases were asked for."""
        return sum(method == "PUT" for method, _ in self.requests)

    def forget_changes(self) -> None:
        """Forget what has changed until now: etcd's compaction, after which a watch must not begin from before it."""
        self._forgotten, self._events = self._version, []

    def bookmark(self) -> None:
        """Tell each watch how far it has got."""
        for watch in self._watches:
            meta = {"resourceVersion": str(self._version), "creationTimestamp": None}
            lease = {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": meta, "spec": {}}
            watch.lines.put_nowait({"type": "BOOKMARK", "object": lease})

    def end_watches(self) -> None:
        """End each in good order, as when its time is over."""
        for watch in self._watches:
            watch.lines.put_nowait(None)

    def cut_watches(self) -> None:
        """Cut the connection of each."""
        for watch in self._watches:
            if watch.request.transport is not None:
                watch.request.transport.abort()

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[self._rules])
        app.router.add_get(_PATH, self._list)
        app.router.add_post(_PATH, self._create)
        app.router.add_get(_PATH + "/{name}", self._read)
        app.router.add_put(_PATH + "/{name}", self._replace)
        app.router.add_delete(_PATH + "/{name}", self._delete)
        return app

    @web.middleware
    async def _rules(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append((request.method, request.match_info.get("name", "")))
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or token != TOKEN:
            return _status(401, "Unauthorized", "Unauthorized")
        if self.status:
            return _status(self.status, "InternalError", "as the test wants it")
        try:
            answer: web.StreamResponse = await handler(request)
        except _Refused as refused:
            return _status(*refused.args)
        return answer

    async def _list(self, request: web.Request) -> web.StreamResponse:
        known = {"labelSelector", "fieldSelector"}
        if request.query.get("watch") in {"true", "True", "1"}:
            known |= {"watch", "resourceVersion", "allowWatchBookmarks", "timeoutSeconds"}
        unknown = set(request.query) - known
        if unknown:
            raise _Refused(400, "BadRequest", f"not known here: {unknown}")
        if "watch" in request.query:
            return await self._watch(request)
        items = [lease for lease in self.leases.values() if _selected(lease, request.query)]
        meta = {"resourceVersion": str(self._version)}
        return web.json_response(
            {"kind": "LeaseList", "apiVersion": "coordination.k8s.io/v1", "metadata": meta, "items": items}
        )

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if self.before_watch is not None:
            await self.before_watch()
        since = int(request.query["resourceVersion"])  # without one it would begin with what there is: not used here
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if since < self._forgotten:
            gone = {"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410}
            await response.write(_line({"type": "ERROR", "object": gone | {"message": "too old resource version"}}))
            return response
        watch = _Watch(request)
        for version, kind, lease in self._events:
            if version > since:
                watch.tell(kind, lease)
        self._watches.add(watch)
        try:
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", "1800"))):
                while (event := await watch.lines.get()) is not None:
                    await response.write(_line(event))
        except TimeoutError:
            pass
        finally:
            self._watches.discard(watch)
        return response

    def _note(self, kind: str, lease: dict[str, Any]) -> None:
        told = json.loads(json.dumps(lease))
        self._events.append((self._version, kind, told))
        for watch in self._watches:
            watch.tell(kind, told)

    async def _create(self, request: web.Request) -> web.Response:
        lease = _checked(await request.json())
        name = lease["metadata"]["name"]
        if lease["metadata"].get("resourceVersion"):
            raise _Refused(400, "BadRequest", "resourceVersion should not be set on objects to be created")
        if name in self.leases:
            raise _Refused(409, "AlreadyExists", f'leases.coordination.k8s.io "{name}" already exists')
        return web.json_response(self._put(lease, str(uuid.uuid4())), status=201)

    async def _read(self, request: web.Request) -> web.Response:
        return web.json_response(self._find(request))

    async def _replace(self, request: web.Request) -> web.Response:
        lease = _checked(await request.json())
        present = self.leases.get(request.match_info["name"])
        if lease["metadata"].get("uid") not in {None, present and present["metadata"]["uid"]}:
            raise _Refused(409, "Conflict", "Precondition failed: UID in precondition")
        if present is None:  # the server allows create on update for leases, whatever version is named
            return web.json_response(self._put(lease, str(uuid.uuid4())), status=201)
        if lease["metadata"]["name"] != present["metadata"]["name"]:
            raise _Refused(400, "BadRequest", "the name of the object does not match the name on the URL")
        version = lease["metadata"].get("resourceVersion")
        if version and version != present["metadata"]["resourceVersion"]:
            raise _Refused(409, "Conflict", "the object has been modified; please apply your changes to the latest")
        return web.json_response(self._put(lease, present["metadata"]["uid"]))

    async def _delete(self, request: web.Request) -> web.Response:
        present = self._find(request)
        options = json.loads(await request.text() or "{}")
        wanted = options.get("preconditions", {}).get("resourceVersion")
        if wanted and wanted != present["metadata"]["resourceVersion"]:
            raise _Refused(409, "Conflict", "Precondition failed: ResourceVersion in precondition")
        self._version += 1
        del self.leases[present["metadata"]["name"]]
        self._note("DELETED", present | {"metadata": present["metadata"] | {"resourceVersion": str(self._version)}})
        return web.json_response({"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _find(self, request: web.Request) -> dict[str, Any]:
        name = request.match_info["name"]
        if name not in self.leases:
            raise _Refused(404, "NotFound", f'leases.coordination.k8s.io "{name}" not found')
        return self.leases[name]

    def _put(self, lease: dict[str, Any], uid: str) -> dict[str, Any]:
        self._version += 1
        lease["metadata"] |= {"namespace": NAMESPACE, "uid": uid, "resourceVersion": str(self._version)}
        kind = "MODIFIED" if lease["metadata"]["name"] in self.leases else "ADDED"
        self.leases[lease["metadata"]["name"]] = lease
        self._note(kind, lease)
        return lease


class _Watch:
    """An open watch, and what is still to be sent to it."""

    def __init__(self, request: web.Request) -> None:
        self.request = request
        self.lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    def tell(self, kind: str, lease: dict[str, Any]) -> None:
        """Send what it has asked for."""
        if _selected(lease, self.request.query):
            self.lines.put_nowait({"type": kind, "object": lease})


def _selected(lease: dict[str, Any], query: Mapping[str, str]) -> bool:
    """Return whether selectors by equality select a lease."""
    terms = [term.split("=") for term in query.get("labelSelector", "").split(",") if term]
    labels = lease["metadata"].get("labels", {})
    field, _, name = query.get("fieldSelector", "").partition("=")
    if field not in {"", "metadata.name"}:
        raise _Refused(400, "BadRequest", f"field label not supported: {field}")
    return all(labels.get(label) == value for label, value in terms) and (
        not field or lease["metadata"]["name"] == name
    )


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode() + b"\n"


class _Refused(Exception):
    """Status code, reason and message of a refusal."""


def _checked(lease: dict[str, Any]) -> dict[str, Any]:
    meta, spec = lease.get("metadata", {}), lease.get("spec", {})
    problems = [f"unknown field {name}" for name in set(spec) - _SPEC]
    if len(name := meta.get("name", "")) > 253 or not _SUBDOMAIN.fullmatch(name):
        problems.append("metadata.name: a lowercase RFC 1123 subdomain")
    if not all(_LABEL.fullmatch(value) for value in meta.get("labels", {}).values()):
        problems.append("metadata.labels: 63 characters of [A-Za-z0-9-_.]")
    if sum(map(len, [*meta.get("annotations", {}).values(), *meta.get("annotations", {})])) > _MOST_ANNOTATIONS:
        problems.append("metadata.annotations: must have at most 262144 bytes")
    if not isinstance(spec.get("leaseDurationSeconds", 1), int) or spec.get("leaseDurationSeconds", 1) < 1:
        problems.append("spec.leaseDurationSeconds: must be greater than 0")
    if "renewTime" in spec and not _MICRO_TIME.fullmatch(spec["renewTime"]):
        problems.append("spec.renewTime: MicroTime")
    if spec.get("holderIdentity") == "":
        problems.append("spec.holderIdentity: must not be empty")
    if problems:
        raise _Refused(422, "Invalid", "; ".join(problems))
    return {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": dict(meta), "spec": dict(spec)}


def _status(code: int, reason: str, message: str) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message}
    return web.json_response(body | {"code": code}, status=code)


@asynccontextmanager
async def lease_api(folder: Path, tls: ssl.SSLContext | None = None) -> AsyncIterator[LeaseApi]:
    """Run one on a free port, with a kubeconfig in the folder."""
    api = LeaseApi()
    runner = web.AppRunner(api.app(), handler_cancellation=True)  # a watch ends with its caller
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    host, port = runner.addresses[0][:2]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": f"http://{host}:{port}"}}],
        "users": [{"name": "me", "user": {"token": TOKEN}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": NAMESPACE}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    api.kubeconfig = str(path)
    try:
        yield api
    finally:
        api.end_watches()
        await runner.cleanup()
