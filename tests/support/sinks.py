"""Sinks as users write them, for nodes of tests."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from cachenode.origins import ABSENT, Write

__all__ = ["Table", "make_table"]

_SLOW_S = 1.0
_UPSERT = """
INSERT INTO rows (key, value, version) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version WHERE excluded.version > rows.version
"""


def make_table(path: Path) -> None:
    """Make a database with a table whose rows keep their version, and a table of what was done to it."""
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(
            "CREATE TABLE rows (key TEXT PRIMARY KEY, value INTEGER CHECK (value >= 0), version INTEGER NOT NULL)"
        )
        database.execute("CREATE TABLE done (key TEXT, value INTEGER, version INTEGER, changed INTEGER)")
    database.close()


class Table:
    """A sink over that database; a removed key is a row without a value.

    Args:
        path: The database.
        folder: Where a test leaves word: while a file ``down`` is there calls fail, while there is one named ``slow``
            they take a second before they write; the process that first finds one named ``die`` after it has committed
            removes it and is gone.
    """

    def __init__(self, path: str, folder: str) -> None:
        self._path = path
        self._folder = Path(folder)

    def write_many(self, writes: Sequence[Write]) -> Mapping[str, Exception]:
        """Write, each if it is newer than its row; return what violates the constraint."""
        if (self._folder / "down").exists():
            raise ConnectionError("a secret")
        if (self._folder / "slow").exists():
            threading.Event().wait(_SLOW_S)
        failures: dict[str, Exception] = {}
        with sqlite3.connect(self._path, timeout=10.0) as database:
            for key, value, version in writes:
                number = None if value is ABSENT else int(value)
                try:
                    changed = database.execute(_UPSERT, (key, number, version)).rowcount
                except sqlite3.IntegrityError as error:
                    failures[str(key)] = error
                else:
                    database.execute("INSERT INTO done VALUES (?, ?, ?, ?)", (key, number, version, changed))
        database.close()
        self._die()
        return failures

    def _die(self) -> None:
        try:
            (self._folder / "die").unlink()
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
