"""The demonstration's loader: what the nodes load airports with, slowly, and what they say of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from cachenode.demo.data import Origin
from cachenode.origins import ABSENT

__all__ = ["DELAY_S", "Airports", "loads"]

DELAY_S = 0.1
"""What a query of a busy database takes."""


class Airports:
    """Loads an airport by its ICAO code, and writes a line for each load.

    Args:
        path: The SQLite file.
        ledger: Where the lines go; all nodes write to the same file.
    """

    def __init__(self, path: str, ledger: str) -> None:
        self._origin = Origin(Path(path))
        self._ledger = Path(ledger)

    async def load(self, icao: str) -> object:
        """Return the record of an airport, ABSENT if there is none."""
        with self._ledger.open("a", encoding="utf-8") as ledger:
            ledger.write(f"{icao}\n")
        await asyncio.sleep(DELAY_S)
        try:
            return self._origin.load(icao)
        except KeyError:
            return ABSENT

    def close(self) -> None:
        """Close the file."""
        self._origin.close()


def loads(ledger: Path) -> Counter[str]:
    """Return how often each code was loaded."""
    return Counter(ledger.read_text(encoding="utf-8").split() if ledger.exists() else ())
