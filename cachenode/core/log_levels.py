"""How severe a line must be to be written, by logger: said while the node runs, for all of a package or one module.

A logger is a module's name, and what is said of a package is said of what is below it unless more is said of that. What
is said for a time is over by itself: nothing has to be running for it, each line looks at the clock.
"""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["LEVELS", "ROOT", "LogLevels", "Said"]

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
"""Numbers of the levels, those of Python's logging."""
ROOT = "cachenode"


class Said(NamedTuple):
    """What is said of a logger.

    Attributes:
        level: Its level.
        until: End of that, infinite if there is none.
    """

    level: str
    until: float


class LogLevels:
    """The levels in force.

    Args:
        level: Of loggers of which nothing is said.
    """

    def __init__(self, level: str = "info") -> None:
        self.level = level
        self._said: dict[str, Said] = {}
        self._known: dict[str, int] = {}
        """Levels of loggers, as long as nothing changes."""
        self._changes_at = math.inf

    def configure(self, level: str) -> None:
        """Set the level of loggers of which nothing is said."""
        self.level = level
        self._known.clear()

    def set(self, logger: str, level: str, until: float = math.inf) -> None:
        """Say a logger's level.

        Raises:
            KeyError: There is no such level.
        """
        LEVELS[level]
        self._said[logger] = Said(level, until)
        self._changed()

    def reset(self, logger: str) -> None:
        """Take back what was said of a logger."""
        self._said.pop(logger, None)
        self._changed()

    def said(self, now: float) -> dict[str, Said]:
        """Return what is said, by logger."""
        self._forget(now)
        return dict(sorted(self._said.items()))

    def writes(self, logger: str, level: int, now: float) -> bool:
        """Return True if a line is to be written."""
        if now >= self._changes_at:
            self._forget(now)
        least = self._known.get(logger)
        if least is None:
            least = self._known[logger] = LEVELS[self._level_of(logger)]
        return level >= least

    def _level_of(self, logger: str) -> str:
        name = logger
        while name:
            if name in self._said:
                return self._said[name].level
            name = name.rpartition(".")[0]
        return self.level

    def _forget(self, now: float) -> None:
        over = [logger for logger, said in self._said.items() if said.until <= now]
        for logger in over:
            del self._said[logger]
        if over:
            self._changed()

    def _changed(self) -> None:
        self._known.clear()
        self._changes_at = min((said.until for said in self._said.values()), default=math.inf)
