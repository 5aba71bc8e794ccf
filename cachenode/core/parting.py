"""What a node hands over of the entries that it loses: the hottest, as many as a limit allows.

The walk that drops moved entries meets them in no order, so all that fit are kept until it has ended, in one queue for
each degree of heat. When there are too many, the one that has waited longest in the coldest queue goes. They are
records, objects that the store has let go of: nothing is copied.
"""

from __future__ import annotations

from collections import deque
from operator import itemgetter
from typing import NamedTuple

from cachenode_api.records import HEADER

__all__ = ["MAX_HEAT", "Parcel", "Parting"]

MAX_HEAT = 7
_OVERHEAD = 160
"""Bytes that a waiting entry costs beside key and record, about."""


class Parcel(NamedTuple):
    """One entry to be handed over.

    `position` is that of its namespace's newest barrier when it was taken out of memory: no older one covers it.
    `latest` is the time beyond which no read may prolong it, None if that is not known.
    """

    namespace: str
    key: bytes
    record: bytes
    position: int
    latest: float | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes while it waits."""
        return len(self.key) + len(self.record) + _OVERHEAD


class Parting:
    """The entries that wait to be handed over after one change of view.

    Args:
        max_bytes: Most bytes.
        max_entries: Most entries.
    """

    __slots__ = ("_max_bytes", "_max_entries", "_queues", "_size", "used_bytes")

    def __init__(self, max_bytes: int, max_entries: int) -> None:
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self.used_bytes = 0
        self._size = 0
        self._queues: list[deque[tuple[int, str, Parcel]]] = [deque() for _ in range(MAX_HEAT + 1)]

    def add(self, owner: str, parcel: Parcel, heat: int) -> None:
        """Let an entry wait for its new owner, in place of colder ones if there is no room.

        Args:
            owner: Id of the new owner.
            parcel: The entry.
            heat: How often it was read, as far as is known: 0 to `MAX_HEAT`.
        """
        self._queues[heat].append((HEADER.unpack_from(parcel.record)[2], owner, parcel))
        self._size += 1
        self.used_bytes += parcel.size
        while self.used_bytes > self._max_bytes or self._size > self._max_entries:
            _, _, dropped = next(queue for queue in self._queues if queue).popleft()
            self._size -= 1
            self.used_bytes -= dropped.size

    def by_owner(self) -> dict[str, deque[Parcel]]:
        """Take all entries out: for each owner the hottest first, and of those the youngest versions."""
        found: dict[str, deque[Parcel]] = {}
        for queue in reversed(self._queues):
            for _, owner, parcel in sorted(queue, key=itemgetter(0), reverse=True):
                found.setdefault(owner, deque()).append(parcel)
            queue.clear()
        self._size = self.used_bytes = 0
        return found

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<Parting {self._size} entries, {self.used_bytes} bytes>"
