"""Warming jobs: which keys, how fast, how far; one at a time for each namespace of the cluster.

A job runs on one node, which has every key warmed by its owner (`cachenode.node.warm_loads`). It holds a lock in L2,
and notes there once a second how far it is. Interleavings, each forced by a test in ``tests/node/test_warming.py``:

1. The node that runs a job dies or stops: its lock ends, and the node that owns the namespace's name goes on from where
   the job was noted. A few keys may be looked at twice; their values are there (``test_another_node_goes_on``).
2. Two nodes want to begin, or to go on: one gets the lock (``test_one_job_at_a_time``).
3. A view changes while keys are under way: they are sent again, to their owners of then
   (``test_keys_that_move_are_sent_again``).
4. A job is cancelled at another node than the one it runs on: that is noted beside it, and seen with the next second
   (``test_job_is_cancelled_from_elsewhere``).

A job whose keys a caller brought is not gone on with by nodes: the caller has its keys, and does so. Without an L2 a
job is known to its node alone, and ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.core.failures import JOB_RUNNING
from cachenode.core.warming import Pace, Warmed, WarmJob, portion_size
from cachenode.errors import OriginError
from cachenode_api.reasons import Reason

if TYPE_CHECKING:
    from cachenode.core.entries import Failure
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node

__all__ = ["Warming"]

_log = structlog.get_logger(__name__)

JOBS, _CANCELS = ".warm", ".warm-cancel"
_LOCK_S = 5.0
_NOTE_S = 1.0
_KEEP_S = 86_400.0
_AT_ONCE = 4
"""Portions that may be under way: one that is slow does not leave the origin idle."""
_WAIT_S = 60.0
_AGAIN_S = 1.0
_TRIES = 8
"""A view without a dead node is there within six seconds."""
_SEND_AGAIN = frozenset(
    {
        Reason.NOT_OWNER,
        Reason.NOT_READY,
        Reason.OWNER_UNREACHABLE,
        Reason.OVERLOADED,
        Reason.UNCERTAIN,
        Reason.DEADLINE_EXCEEDED,
    }
)


class Warming:
    """The part of a node that runs jobs.

    Attributes:
        jobs: The last job of each namespace that this node has run, or runs.
        loaded: Values that its jobs had loaded, by namespace.
        failed: Keys that they could not have loaded.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._beginning: set[str] = set()
        self._cancelled: set[str] = set()
        self._stopping = False
        self._noted = 0
        self.jobs: dict[str, WarmJob] = {}
        self.loaded: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def running(self, namespace: str) -> bool:
        """Return True if this node runs a job of a namespace."""
        return namespace in self._tasks

    async def start(
        self, namespace: Namespace, job: WarmJob, keys: Callable[[], AsyncIterator[bytes]], *, alone: bool = True
    ) -> asyncio.Task[None] | Failure:
        """Begin a job, or go on with one.

        Args:
            namespace: Whose keys.
            job: The job; its first `done` keys are left out.
            keys: Yields all of its keys.
            alone: Whether no other job of the namespace may run anywhere.

        Returns:
            What ends with the job, or why it cannot begin.
        """
        name = namespace.policy.name
        if name in self._tasks or name in self._beginning or self._stopping:
            return JOB_RUNNING
        tier, me = self._node.tier, self._node.placement.me
        token = f"{job.id}/{me.id}/{me.incarnation}".encode()
        self._beginning.add(name)
        try:
            free = not alone or tier is None or await tier.lock(JOBS, name.encode(), token, _LOCK_S)
        finally:
            self._beginning.discard(name)
        if not free:
            return JOB_RUNNING
        job = replace(job, node_id=me.id, state="running")
        self.jobs[name] = job
        running = asyncio.get_running_loop().create_task(self._run(namespace, job, keys, token if alone else b""))
        self._tasks[name] = running
        running.add_done_callback(lambda _: self._ended(job))
        return running

    def _ended(self, job: WarmJob) -> None:
        del self._tasks[job.namespace]
        self._cancelled.discard(job.namespace)
        if job.state == "running":  # it was stopped before it had begun
            job.state = "stopped"

    async def cancel(self, namespace: str, job_id: str = "") -> bool:
        """End the job of a namespace; return False if it is not known that there is one.

        A job of another node is over within about a second.

        Args:
            namespace: Whose.
            job_id: Only this one; empty for whichever runs.
        """
        if namespace in self._tasks:
            if job_id not in {"", self.jobs[namespace].id}:
                return False
            self._cancelled.add(namespace)
            await asyncio.wait([self._tasks[namespace]])
            return True
        tier = self._node.tier
        if tier is None:
            return False
        job = WarmJob.read(await self._noted_at(JOBS, namespace))
        if job is None or job.state not in {"running", "stopped"} or job_id not in {"", job.id}:
            return False
        return await tier.note(_CANCELS, namespace.encode(), job.id.encode(), _KEEP_S, self._version())

    async def to_go_on(self, namespace: str) -> WarmJob | None:
        """Return a job that no node runs any more, as far as can be told without its lock."""
        tier = self._node.tier
        if tier is None or namespace in self._tasks:
            return None
        job, cancelled = WarmJob.read(await self._noted_at(JOBS, namespace)), await self._noted_at(_CANCELS, namespace)
        if job is None or job.state not in {"running", "stopped"}:
            return None
        if cancelled == job.id.encode():
            await self._save(replace(job, state="cancelled"))
            return None
        return job

    async def _noted_at(self, kind: str, namespace: str) -> bytes:
        """Return what is noted of a namespace, by whatever node."""
        assert self._node.tier is not None, "called only with one"
        [entry] = await self._node.tier.noted(kind, [namespace.encode()])
        self._noted = max(self._noted, entry.version if entry is not None else 0)
        return entry.value if entry is not None else b""

    def _version(self) -> int:
        """Return a version above all that this node has noted or seen; the nodes' own belong to keys, each to one."""
        self._noted = max(self._noted + 1, int(self._node.wall() * 1_000))
        return self._noted

    # One job.

    async def _run(
        self, namespace: Namespace, job: WarmJob, keys: Callable[[], AsyncIterator[bytes]], token: bytes
    ) -> None:
        name, state = job.namespace, "failed"
        noting = asyncio.get_running_loop().create_task(self._note(job, token))
        sending = asyncio.get_running_loop().create_task(self._send_all(namespace, job, keys))
        try:
            done, _ = await asyncio.wait([noting, sending], return_when=asyncio.FIRST_COMPLETED)
            if sending in done:
                await sending
                state = "done"
            elif await noting:
                state = "cancelled"
            else:
                state, token = "stopped", b""
        except OriginError as error:
            job.error = str(error)
        except asyncio.CancelledError:
            state = "stopped"
        except Exception as error:  # noqa: BLE001 - a defect must be seen in the job's state
            job.error = "a defect in the node; its log tells more"
            _log.error("warming_failed", namespace=name, error_type=type(error).__name__, exc_info=error)
        finally:
            for task in (noting, sending):
                task.cancel()
            await asyncio.gather(noting, sending, return_exceptions=True)
            job.state = state
            with contextlib.suppress(asyncio.CancelledError):
                await self._settle(job, token)
            counts = {"loaded": job.loaded, "fresh": job.fresh, "absent": job.absent, "failed": job.failed}
            _log.info("warmed", namespace=name, job=job.id, state=job.state, **counts)

    async def _note(self, job: WarmJob, token: bytes) -> bool:
        """Say how far the job is, until it is cancelled; return False if another node has taken it over."""
        tier, name = self._node.tier, job.namespace.encode()
        while job.namespace not in self._cancelled:
            if tier is not None and token:
                if not await tier.lock(JOBS, name, token, _LOCK_S):
                    return False
                await self._save(job)
                if await self._noted_at(_CANCELS, job.namespace) == job.id.encode():
                    return True
            for _ in range(int(_NOTE_S / 0.1)):
                if job.namespace not in self._cancelled:
                    await asyncio.sleep(0.1)
        return True

    async def _save(self, job: WarmJob) -> None:
        if self._node.tier is not None and job.source != "keys":
            await self._node.tier.note(JOBS, job.namespace.encode(), job.save(), _KEEP_S, self._version())

    async def _settle(self, job: WarmJob, token: bytes) -> None:
        """Note the end, and give the lock back: if the node stops, another may go on."""
        if self._node.tier is not None and token:
            await self._save(job)
            await self._node.tier.unlock(JOBS, job.namespace.encode(), token)

    async def _send_all(self, namespace: Namespace, job: WarmJob, keys: Callable[[], AsyncIterator[bytes]]) -> None:
        """Have all keys warmed, in their order."""
        clock, pace = self._node.clock, Pace(job.rate_per_s, self._node.clock.now())
        flying: deque[asyncio.Task[tuple[list[int], int]]] = deque()
        try:
            async for portion in _portions(keys(), job.done, portion_size(job.rate_per_s)):
                wait_s = pace.wait_s(len(portion), clock.now())
                if wait_s:
                    await asyncio.sleep(wait_s)
                flying.append(asyncio.get_running_loop().create_task(self._send(namespace, portion)))
                while len(flying) >= _AT_ONCE or (flying and flying[0].done()):
                    self._count(namespace, job, *await flying[0])
                    flying.popleft()
            while flying:
                self._count(namespace, job, *await flying[0])
                flying.popleft()
        finally:
            for task in flying:
                task.cancel()
            await asyncio.gather(*flying, return_exceptions=True)

    def _count(self, namespace: Namespace, job: WarmJob, codes: list[int], failed: int) -> None:
        job.note(codes, failed)
        self.loaded[namespace.policy.name] += codes.count(Warmed.LOADED)
        self.failed[namespace.policy.name] += failed

    async def _send(self, namespace: Namespace, keys: Sequence[bytes]) -> tuple[list[int], int]:
        """Have some keys warmed by their owners; return what became of each, and how many failed for good."""
        codes = [0] * len(keys)
        left = list(range(len(keys)))
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_AGAIN_S)
            again: list[int] = []
            self._answers(await self._ask(namespace, [keys[at] for at in left]), left, codes, again)
            left = again
            if not left:
                break
        return codes, codes.count(0)

    async def _ask(self, namespace: Namespace, keys: list[bytes]) -> list[BatchResult]:
        results: list[BatchResult] = []
        batch = Batch(Operation.WARM, namespace.policy.name, keys, timeout_s=_WAIT_S)
        rest = self._node.execute(batch, results.append)
        if rest is not None:
            await rest
        return results

    @staticmethod
    def _answers(results: Sequence[BatchResult], left: list[int], codes: list[int], again: list[int]) -> None:
        for result in results:
            for at, index in enumerate(range(len(left)) if result.indices is None else result.indices):
                failure = result.failures.get(at)
                if failure is None:
                    codes[left[index]] = result.versions[at]
                elif failure.reason in _SEND_AGAIN:
                    again.append(left[index])

    async def close(self) -> None:
        """Stop all jobs, so that others go on with them."""
        self._stopping = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _portions(keys: AsyncIterator[bytes], skip: int, size: int) -> AsyncIterator[list[bytes]]:
    """Yield keys in portions, without the first ones."""
    portion: list[bytes] = []
    async with aclosing(keys) as listed:  # type: ignore[type-var]
        async for key in listed:
            if skip:
                skip -= 1
                continue
            portion.append(key)
            if len(portion) >= size:
                yield portion
                portion = []
    if portion:
        yield portion
