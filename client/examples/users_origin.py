"""The loader of http_service.toml: it runs in the nodes and reads the service's SQLite database."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

from cachenode.origins import ABSENT, Loaded

__all__ = ["load"]

_USER = "SELECT id, name, team FROM users WHERE id = ?"
_TEAM = "SELECT name FROM users WHERE team = ? ORDER BY name"


def load(key: str) -> object:
    """Return the user of a key like `user:7`, or the names in `team:eu`, tagged by who is in it."""
    kind, _, name = key.partition(":")
    with closing(sqlite3.connect(os.environ["USERS_DB"])) as database:
        if kind == "team":
            names = [row[0] for row in database.execute(_TEAM, (name,))]
            return Loaded(names, tags=["teams"]) if names else ABSENT
        row = database.execute(_USER, (name,)).fetchone()
    return ABSENT if row is None else dict(zip(("id", "name", "team"), row, strict=True))
