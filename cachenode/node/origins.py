"""An origin, as one node reads and writes it.

Reading and writing have queues and breakers of their own (`Calls`): an origin that takes no writes may still answer.
The pause between loads of one key that has failed is not kept here (`cachenode.core.load_backoff`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from cachenode.core.entries import Loaded, SinkWrite
from cachenode.core.origin_limits import OriginLimits, Priority
from cachenode.core.stats import OriginCounters
from cachenode.errors import OriginError
from cachenode.node.origin_calls import Calls
from cachenode.ports import Clock, Loader, Sink
from cachenode_api.tracing import recording, spanned, switch

__all__ = ["Origin"]


class Origin:
    """One origin, as one node asks it.

    Args:
        name: Its name in the configuration.
        loader: Reads it; None if it is only written.
        limits: How hard it may be asked.
        clock: Of the breakers.
        sink: Writes it; None if it is only read.
    """

    def __init__(
        self, name: str, loader: Loader | None, limits: OriginLimits, clock: Clock, sink: Sink | None = None
    ) -> None:
        self.name = name
        self.limits = limits
        self._loader = loader
        self._sink = sink
        self._reads: Calls[bytes, Loaded | None] | None = None
        self._writes: Calls[SinkWrite, None] | None = None
        if loader is not None:
            self._reads = Calls(loader.load, loader.most_keys, limits, clock, name=name)
        if sink is not None:
            self._writes = Calls(sink.write, sink.most_writes, limits, clock, writes=True, name=name)
        self._written = self._refused = self._uncertain = 0

    @property
    def readable(self) -> bool:
        """True if it has a loader."""
        return self._reads is not None

    @property
    def writable(self) -> bool:
        """True if it has a sink."""
        return self._writes is not None

    def hurry(self, key: bytes) -> None:
        """Somebody waits for a key that is being loaded for nobody: it is moved up, if it is not being asked for."""
        if self._reads is not None:
            self._reads.hurry(key)

    @property
    def sink(self) -> Sink:
        """What writes it, for who sees to order, pace and attempts himself (`Drain`)."""
        assert self._sink is not None, "only an origin with a sink is written"
        return self._sink

    @property
    def enumerates(self) -> bool:
        """True if it can list the keys that it has."""
        return self._loader is not None and self._loader.enumerates

    @property
    def soft_timeout_s(self) -> float:
        """How long a read waits for the load of a value that there is, past its TTL."""
        return self.limits.soft_timeout_s

    async def load(self, key: bytes, priority: Priority = Priority.DEMAND) -> Loaded | None:
        """Return what the origin has for a key, None if it has nothing.

        Raises:
            OriginError: That could not be found out.
        """
        assert self._reads is not None, "only an origin with a loader is asked"
        asking = self._reads.ask(key, priority)
        if switch.tracer is not None and recording():
            asking = spanned(asking, "origin load", "client", {"cachenode.origin": self.name})
        return await asking

    async def write(
        self, write: SinkWrite, priority: Priority = Priority.DEMAND, *, allowed: Callable[[], bool] | None = None
    ) -> None:
        """Write to the origin. Returns when it has the value, or no longer has one.

        Of one key there may be one write at a time: that is the caller's to see to.

        Args:
            write: The write.
            priority: Of those that wait.
            allowed: Looked at before each attempt: False ends them.

        Raises:
            OriginError: It has not been done, or, with `maybe_done`, may have been.
        """
        assert self._writes is not None, "only an origin with a sink is written"
        try:
            writing = self._writes.ask(write, priority, allowed)
            if switch.tracer is not None and recording():
                writing = spanned(writing, "origin write", "client", {"cachenode.origin": self.name})
            await writing
        except OriginError as error:
            self._uncertain += error.maybe_done
            self._refused += not error.maybe_done
            raise
        self._written += 1

    def keys(self) -> AsyncIterator[bytes]:
        """Yield the key of everything that the origin has (`Loader.enumerate`).

        Raises:
            OriginError: That could not be found out.
        """
        assert self._loader is not None, "only an origin with a loader is asked"
        return self._loader.enumerate()

    def counters(self) -> OriginCounters:
        """Return what it has counted."""
        reads, writes = self._reads, self._writes
        return OriginCounters(
            name=self.name,
            calls=reads.made if reads else 0,
            keys=reads.questions if reads else 0,
            failures=reads.failed if reads else 0,
            retries=reads.retried if reads else 0,
            seconds=reads.seconds if reads else 0.0,
            busy=reads.busy if reads else 0,
            waiting=reads.waiting if reads else 0,
            state=reads.state if reads else "closed",
            written=self._written,
            write_failures=self._refused,
            uncertain_writes=self._uncertain,
            write_calls=writes.made if writes else 0,
            write_retries=writes.retried if writes else 0,
            write_seconds=writes.seconds if writes else 0.0,
            writes_waiting=writes.waiting if writes else 0,
            write_state=writes.state if writes else "closed",
        )

    async def close(self) -> None:
        """Ask nothing more, and give back connections."""
        for calls in (self._reads, self._writes):
            if calls is not None:
                await calls.close()
        ends: Sequence[Loader | Sink | None] = (self._sink, self._loader)
        for end in ends:
            if end is not None:
                await end.close()

    def __repr__(self) -> str:
        counts = [
            f"{calls.busy} {kind} calls, {calls.waiting} wait"
            for kind, calls in (("load", self._reads), ("write", self._writes))
            if calls is not None
        ]
        return f"<Origin {self.name}: {'; '.join(counts)}>"
