"""Warming: have keys loaded by the cluster before anybody asks for them, and hear how far that is.

A job runs on one node. If its stream breaks, what becomes of it depends on who has its keys:

1. The caller has: the keys that were not done with go to the next member, under the same id.
2. The origin lists them, or the nodes know them: another node goes on, within about ten seconds, and is looked for
   among all members.

A job that is left before its end is cancelled. Streams are always cancelled at the end, as in `_watch`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc
from grpc import aio

from cachenode_api.metadata import REASON_KEY
from cachenode_api.reasons import Reason
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import admin_pb2_grpc
from cachenode_client.errors import CacheError, CacheUnavailable, InvalidArgument, NodeError, from_reason

if TYPE_CHECKING:
    from cachenode_api.view import Member
    from cachenode_client._engine import Engine

__all__ = ["BlockingWarmer", "WarmAsk", "WarmStep", "Warmer", "checked_warm"]

T = TypeVar("T")

_MOST_KEYS = 5_000
_MOST_BYTES = 1 << 20
_PATIENCE_S = 20.0
"""How long a job may be nowhere: a dead node's lock ends after 5 s, its place in the view after 6."""
_LOOK_S = 0.3
_ANSWER_S = 2.0
_FASTEST = 1_000_000.0
_ENDS = frozenset({"done", "failed", "cancelled"})
_GONE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})


@dataclass(frozen=True, slots=True)
class WarmStep:
    """How far a warming job is.

    Attributes:
        job_id: Names the job.
        state: "running", "done", "failed", "cancelled", or "stopped" (its node stops; another goes on).
        total: How many keys there are, 0 if that is not known.
        done: Keys that are done with.
        loaded: Values that were loaded.
        fresh: Values that were there.
        absent: Keys that have none.
        failed: Keys that could not be loaded.
        error: Why the job failed.
        node_id: Where it runs.
    """

    job_id: str
    state: str = "running"
    total: int = 0
    done: int = 0
    loaded: int = 0
    fresh: int = 0
    absent: int = 0
    failed: int = 0
    error: str = ""
    node_id: str = ""

    @property
    def ended(self) -> bool:
        """True if this is the last step."""
        return self.state in _ENDS


@dataclass(frozen=True, slots=True)
class WarmAsk:
    """What is asked for."""

    namespace: str
    keys: tuple[bytes, ...]
    origin: bool
    top: int
    rate_per_s: float
    job_id: str


def checked_warm(
    namespace: str, keys: Sequence[bytes] | None, *, origin: bool, top: int, rate_per_s: float | None
) -> WarmAsk:
    """Return what is asked for.

    Raises:
        InvalidArgument: Not one source is named, or a number is out of its range.
    """
    if (keys is not None) + bool(origin) + bool(top) != 1:
        raise InvalidArgument("warm: name one of keys, origin and top")
    if type(top) is not int or not 0 <= top <= 1_000_000:
        raise InvalidArgument("top: must be a whole number of at most 1,000,000")
    if rate_per_s is not None and (type(rate_per_s) not in (int, float) or not 0 < rate_per_s <= _FASTEST):
        raise InvalidArgument(f"rate_per_s: must be above 0 and at most {_FASTEST:,.0f}")
    return WarmAsk(namespace, tuple(keys or ()), bool(origin), top, float(rate_per_s or 0), secrets.token_hex(6))


class _Run:
    """One job as its caller follows it."""

    def __init__(self, engine: Engine, ask: WarmAsk, timeout_s: float) -> None:
        self._engine = engine
        self._ask = ask
        self._timeout_s = timeout_s
        self._turn = 0
        self._step = WarmStep(ask.job_id, total=len(ask.keys))

    async def steps(self) -> AsyncGenerator[WarmStep, None]:
        """Yield how far the job is, until it has ended; cancel it if nobody wants to know any more."""
        await self._engine.router.wait_route(b"warm", self._timeout_s)
        told = self._by_keys() if not (self._ask.origin or self._ask.top) else self._by_nodes()
        try:
            async with aclosing(told):
                async for step in told:
                    self._step = step
                    yield step
        finally:
            if not self._step.ended:
                await asyncio.shield(self._cancel())

    def _members(self) -> Sequence[Member]:
        view = self._engine.router.view
        return view.members if view is not None else ()

    def _next(self) -> str:
        members = self._members()
        if not members:
            raise CacheUnavailable("No node has told its view yet; call again.")
        self._turn += 1
        return members[self._turn % len(members)].address

    # The caller has the keys.

    async def _by_keys(self) -> AsyncGenerator[WarmStep, None]:
        before = self._step
        for portion in _portions(self._ask.keys):
            left, lost_at = portion, 0.0
            while left:
                last: WarmStep | None = None
                try:
                    async with aclosing(self._call(replace(self._ask, keys=tuple(left)))) as messages:
                        async for message in messages:
                            last = _step(message)
                            if last.state in {"failed", "cancelled"}:
                                yield _sum(before, last, last.state)
                                return
                            yield _sum(before, last, "running")
                except aio.AioRpcError as error:
                    lost_at = self._patience(error, lost_at)
                if last is not None:
                    before, left = _sum(before, last, "running"), left[last.done :]
                    lost_at = lost_at if not last.done else 0.0
                if left:
                    lost_at = lost_at or self._engine.loop.time()
                    await asyncio.sleep(_LOOK_S)
        yield replace(before, state="done")

    def _patience(self, error: aio.AioRpcError, lost_at: float) -> float:
        """Return since when no node has taken the keys; raise if that is too long, or the error is another."""
        running = lost_at and _reason(error) is Reason.JOB_RUNNING  # our own, at a node that has just been lost
        if error.code() not in _GONE and not running:
            raise _refusal(error) from None
        now = self._engine.loop.time()
        if lost_at and now - lost_at > _PATIENCE_S:
            raise CacheUnavailable("No node goes on with the job; begin it again.") from None
        return lost_at or now

    # The nodes have the keys.

    async def _by_nodes(self) -> AsyncGenerator[WarmStep, None]:
        begun, step = False, self._step
        try:
            async with aclosing(self._call(self._ask)) as messages:
                async for message in messages:
                    begun, step = True, _step(message)
                    yield step
        except aio.AioRpcError as error:
            if not begun or error.code() not in _GONE:
                raise _refusal(error) from None
        seen_at = self._engine.loop.time()
        while not step.ended:
            await asyncio.sleep(_LOOK_S)
            found = await self._look()
            if found is not None:
                seen_at = self._engine.loop.time()
                if found != step:
                    step = found
                    yield step
            elif self._engine.loop.time() - seen_at > _PATIENCE_S:
                raise CacheUnavailable("No node goes on with the job; begin it again.")

    async def _look(self) -> WarmStep | None:
        """Return how far the job is at the node that runs it, or where it has ended."""
        request = pb.WarmStatusRequest(namespace=self._ask.namespace)
        answers = await asyncio.gather(
            *(self._ask_one(member.address, "WarmStatus", request) for member in self._members())
        )
        found = [_step(job) for answer in answers if answer for job in answer.jobs if job.job_id == self._ask.job_id]
        live = [step for step in found if step.state != "stopped"]
        return max(live, key=lambda step: (step.ended, step.done), default=None)

    async def _cancel(self) -> None:
        """End the job, wherever it runs."""
        request = pb.CancelWarmRequest(namespace=self._ask.namespace, job_id=self._ask.job_id)
        members = self._members()
        await asyncio.gather(*(self._ask_one(member.address, "CancelWarm", request) for member in members))

    async def _ask_one(self, address: str, method: str, request: Any) -> Any:
        """Return a node's answer, None if it gives none."""
        try:
            async with self._engine.router.channels.open(address, showing_token=True) as channel:
                return await getattr(admin_pb2_grpc.AdminServiceStub(channel), method)(request, timeout=_ANSWER_S)
        except (aio.AioRpcError, CacheUnavailable):
            return None

    async def _call(self, ask: WarmAsk) -> AsyncGenerator[pb.WarmProgress, None]:
        async with self._engine.router.channels.open(self._next(), showing_token=True) as channel:
            call = admin_pb2_grpc.AdminServiceStub(channel).Warm(
                pb.WarmRequest(
                    namespace=ask.namespace,
                    keys=ask.keys,
                    origin=ask.origin,
                    top=ask.top,
                    rate_per_s=ask.rate_per_s,
                    job_id=ask.job_id,
                )
            )
            try:
                async for message in call:
                    yield message
            finally:
                call.cancel()


class Warmer:
    """The steps of a job, for asyncio: ``async for step in cache.warm(keys=…)``.

    It begins with the first step that is asked for. Who leaves before the last one cancels the job: at once with
    ``async with`` or `aclose`, else when the steps are collected as garbage.

    Args:
        started: Returns the client's engine, or raises if the client cannot be used.
        ask: What is asked for.
        timeout_s: How long a node may be looked for at the beginning.
    """

    def __init__(self, started: Callable[[], Engine], ask: WarmAsk, timeout_s: float) -> None:
        self._started = started
        self._ask = ask
        self._timeout_s = timeout_s
        self._steps: AsyncGenerator[WarmStep, None] | None = None

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> WarmStep:
        """Wait for the next step."""
        if self._steps is None:
            self._steps = _Run(self._started(), self._ask, self._timeout_s).steps()
        return await self._steps.__anext__()

    async def aclose(self) -> None:
        """Cancel the job if it has not ended. Safe to call twice."""
        if self._steps is not None:
            await self._steps.aclose()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End it."""
        await self.aclose()

    def __repr__(self) -> str:
        return f"<Warmer {self._ask.job_id}>"


class BlockingWarmer:
    """The steps of a job, for threads: ``for step in cache.warm(keys=…)``.

    Args:
        started: As `Warmer`, as all below.
        ask: What is asked for.
        timeout_s: How long a node may be looked for.
    """

    def __init__(self, started: Callable[[], Engine], ask: WarmAsk, timeout_s: float) -> None:
        self._started = started
        self._warmer = Warmer(started, ask, timeout_s)

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> WarmStep:
        """Wait for the next step."""
        step = self._wait(_next_of(self._warmer))
        if step is None:
            raise StopIteration
        return step

    def close(self) -> None:
        """Cancel the job if it has not ended. Safe to call twice."""
        self._wait(self._warmer.aclose())

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            waiting = asyncio.run_coroutine_threadsafe(work, self._started().loop)
        except BaseException:
            work.close()
            raise
        try:
            return waiting.result()
        except BaseException:  # Ctrl-C above all: nobody waits any more
            waiting.cancel()
            raise

    def __repr__(self) -> str:
        return f"<blocking {self._warmer!r}>"


async def _next_of(warmer: Warmer) -> WarmStep | None:
    with contextlib.suppress(StopAsyncIteration):
        return await anext(warmer)
    return None


def _portions(keys: Iterable[bytes]) -> Iterable[list[bytes]]:
    """Yield the keys in portions that a request may have."""
    portion: list[bytes] = []
    size = 0
    for key in keys:
        if portion and (len(portion) >= _MOST_KEYS or size + len(key) > _MOST_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(key)
        size += len(key)
    if portion:
        yield portion


def _step(message: pb.WarmProgress) -> WarmStep:
    names = ("state", "total", "done", "loaded", "fresh", "absent", "failed", "error", "node_id")
    return WarmStep(message.job_id, **{name: getattr(message, name) for name in names})


def _sum(before: WarmStep, now: WarmStep, state: str) -> WarmStep:
    """Return a step of a whole job from what was done before and a step of the portion under way."""
    counts = {
        name: getattr(before, name) + getattr(now, name) for name in ("done", "loaded", "fresh", "absent", "failed")
    }
    return replace(before, state=state, error=now.error, node_id=now.node_id, **counts)


def _reason(error: aio.AioRpcError) -> Reason | None:
    name = str(dict(error.trailing_metadata() or ()).get(REASON_KEY, ""))
    return Reason[name] if name in Reason.__members__ else None


def _refusal(error: aio.AioRpcError) -> CacheError:
    reason = _reason(error)
    if reason is not None:
        return from_reason(reason, error.details() or "")
    if error.code() in _GONE:
        return CacheUnavailable("The node does not answer; call again.")
    return NodeError("A node cannot warm keys; use the same release of cachenode and cachenode-client.")
