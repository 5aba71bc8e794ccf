"""An origin that takes its time and writes down when it was asked: for nodes of tests, as a loader."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["SlowOrigin", "calls_at_once", "calls_in"]


class SlowOrigin:
    """Has so many users; each call takes so long, and leaves a line.

    Args:
        log: A file that all nodes append to.
        users: How many there are.
        call_s: How long a call takes.
    """

    def __init__(self, log: str, users: int, call_s: float) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._users = users
        self._call_s = call_s

    def load_many(self, keys: list[str]) -> dict[str, str]:
        """Return a value for each key."""
        began = time.monotonic()
        time.sleep(self._call_s)
        os.write(self._log, f"{began} {time.monotonic()} {len(keys)}\n".encode())
        return {key: f"value of {key}" for key in keys}

    def keys(self) -> Iterator[str]:
        """Yield the key of each user."""
        for number in range(self._users):
            yield f"user:{number}"


def calls_in(log: Path) -> list[tuple[float, float, int]]:
    """Return when each call began and ended, and its keys."""
    return [
        (float(began), float(ended), int(keys)) for began, ended, keys in map(str.split, log.read_text().splitlines())
    ]


def calls_at_once(calls: list[tuple[float, float, int]]) -> int:
    """Return how many calls were under way at most at one moment."""
    turns = sorted([(began, 1) for began, _, _ in calls] + [(ended, -1) for _, ended, _ in calls])
    at_once = most = 0
    for _, turn in turns:
        at_once += turn
        most = max(most, at_once)
    return most
