"""What a region keeps of its links, in memory: a model of what `regions_redis` does, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from cachenode.core.regions import Cursor, Outgoing, RegionEntry
from cachenode.errors import L2Unavailable
from cachenode.ports import Clock

__all__ = ["MemoryRegions"]


class MemoryRegions:
    """A `RegionStore` in memory.

    Args:
        clock: For ages and leases.
        remotes: The other regions: what all of them have acted on is removed.
        most: Entries that the outbox holds.

    Attributes:
        down: True lets every call fail.
    """

    def __init__(self, clock: Clock, remotes: Sequence[str], *, most: int = 100_000) -> None:
        self.down = False
        self._clock = clock
        self._remotes = tuple(remotes)
        self._most = most
        self._lives = count(1)
        self._cursors: dict[str, Cursor] = {}
        self._leases: dict[str, tuple[str, float]] = {}
        self.lose()

    def lose(self) -> None:
        """Forget everything, as a server does that begins anew and kept nothing."""
        self._outbox = f"memory-{next(self._lives)}"
        self._head = 0
        self._entries: dict[int, tuple[float, RegionEntry]] = {}
        self._acted: dict[str, int] = {}
        self._paused: set[str] = set()
        self._leases.clear()
        self._cursors.clear()

    def _must_be_up(self) -> None:
        if self.down:
            raise L2Unavailable("the store of regions is down on purpose")

    async def append(self, entries: Sequence[RegionEntry]) -> None:
        """Add entries at the end of the outbox."""
        self._must_be_up()
        for entry in entries:
            self._head += 1
            self._entries[self._head] = (self._clock.now(), entry)
        self._drop(self._head - self._most)

    def _drop(self, up_to: int) -> None:
        for number in [number for number in self._entries if number <= up_to]:
            del self._entries[number]

    async def fetch(
        self, remote: str, sender: str, *, lease_s: float, after: Cursor | None, most: int
    ) -> Outgoing | None:
        """Take the link to another region, and return what is to be told there."""
        self._must_be_up()
        now = self._clock.now()
        holder, until = self._leases.get(remote, (sender, 0.0))
        if holder != sender and until > now:
            return None
        self._leases[remote] = (sender, now + lease_s)
        if after is not None and after.outbox == self._outbox and after.sequence <= self._head:
            self._acted[remote] = after.sequence
            self._drop(min(self._acted.get(each, 0) for each in self._remotes))
        start = self._acted.get(remote, 0)
        found = [(number, *kept) for number, kept in self._entries.items() if number > start][:most]
        return Outgoing(
            self._outbox,
            self._head,
            start,
            tuple((number, entry) for number, _, entry in found),
            now - found[0][1] if found else 0.0,
            remote in self._paused,
        )

    async def release(self, remote: str, sender: str) -> None:
        """Give the link back, if the sender has it."""
        self._must_be_up()
        if self._leases.get(remote, ("", 0.0))[0] == sender:
            del self._leases[remote]

    async def pause(self, remote: str, *, paused: bool) -> None:
        """Have nothing sent to a region any more, or again."""
        self._must_be_up()
        (self._paused.add if paused else self._paused.discard)(remote)

    async def cursor(self, origin: str) -> Cursor | None:
        """Return up to where this region has acted on another's outbox."""
        self._must_be_up()
        return self._cursors.get(origin)

    async def advance(self, origin: str, known: Cursor | None, to: Cursor) -> bool:
        """Move the cursor of another region's outbox, unless it is no more the one that is known."""
        self._must_be_up()
        if self._cursors.get(origin) != known:
            return False
        self._cursors[origin] = to
        return True

    async def close(self) -> None:
        """Do nothing."""
