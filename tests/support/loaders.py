"""Loaders as users write them, for nodes of tests."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from cachenode.origins import ABSENT, Loaded, Parent

__all__ = ["Database", "Fragile", "Listing", "count", "fail", "load", "load_in_thread", "load_many"]


async def load(key: str) -> object:
    """Return what the key says: an async function."""
    await asyncio.sleep(0)
    values: dict[str, object] = {
        "absent": ABSENT,
        "none": None,
        "tagged": Loaded({"n": 1}, ttl_s=5, tags=["b", "a"]),
        "unkept": Loaded(b"x", keep=False),
        "odd": object(),
        "ended": Loaded(1, ttl_s=0),
        "bad tag": Loaded(1, tags=[""]),
        "bad parent": Loaded(1, depends_on="a single string"),
        "dependent": Loaded("v", depends_on=["p", Parent("users", "u")]),
    }
    return values.get(key, f"value of {key!r}")


def load_in_thread(key: str) -> str:
    """A plain function."""
    return f"value of {key!r}"


async def fail(_key: str) -> object:
    """What a defect, or an outage, looks like."""
    raise OSError("a secret")


async def count(_keys: object) -> object:
    """Not what a loader of many keys should return."""
    return 7


def load_many(keys: list[str]) -> Mapping[str, object]:
    """Return values for keys of which some have none."""
    return {key: ABSENT if key == "absent" else key.upper() for key in keys if key != "missing"}


class Database:
    """An origin in SQLite: a table of users, and a line in another for each call.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        if not Path(path).exists():
            raise FileNotFoundError(path)
        self.path = path
        self.closed = False

    def load_many(self, keys: list[str]) -> dict[str, Any]:
        """Return the users of keys like ``user:7``."""
        ids = {key: key.removeprefix("user:") for key in keys}
        with closing(sqlite3.connect(self.path, timeout=30)) as database, database:
            database.executemany("INSERT INTO loads VALUES (?)", [(key,) for key in keys])
            marks = ",".join("?" * len(ids))
            rows = dict(database.execute(f"SELECT id, name FROM users WHERE id IN ({marks})", list(ids.values())))
        return {key: {"id": int(each), "name": rows[int(each)]} for key, each in ids.items() if int(each) in rows}

    def keys(self) -> Iterator[str]:
        """Return the key of each user."""
        with closing(sqlite3.connect(self.path, timeout=30)) as database:
            for (number,) in database.execute("SELECT id FROM users ORDER BY id"):
                yield f"user:{number}"

    def close(self) -> None:
        """Take note."""
        self.closed = True


class Listing:
    """A loader that lists keys without blocking, and fails at the one that is named ``bad``."""

    def __init__(self, *names: str | bytes) -> None:
        self.names = names or ("a", b"\xff", "b")

    async def load(self, key: str) -> str:
        """Return the key."""
        return key

    async def keys(self) -> AsyncIterator[str | bytes]:
        """Yield the names."""
        for name in self.names:
            if name == "bad":
                raise OSError("a secret")
            yield name


class Fragile:
    """An origin that is out of order as long as a file is there; each call writes a line, as a connection would cost.

    Args:
        down: The file.
        calls: Where the lines go.
    """

    def __init__(self, down: str, calls: str) -> None:
        self._down = Path(down)
        self._calls = Path(calls)

    async def load(self, key: str) -> object:
        """Return the key, ABSENT for one that begins with a question mark."""
        with self._calls.open("a") as calls:
            calls.write(f"{key}\n")
        await asyncio.sleep(0)
        if self._down.exists():
            raise OSError("a secret")
        return ABSENT if key.startswith("?") else key
