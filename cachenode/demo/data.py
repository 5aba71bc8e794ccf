"""The origin of the demonstration: the world's airports, in a SQLite file.

The records are those of the package airportsdata: real, public, and installed, so that nothing is downloaded.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

__all__ = ["DataMissing", "Origin", "airports", "create_origin"]

Airport = dict[str, Any]

_COLUMNS = ("icao", "iata", "name", "city", "subd", "country", "elevation", "lat", "lon", "tz", "lid")
_ROW = f"SELECT {', '.join(_COLUMNS)} FROM airports"  # noqa: S608 - constants of this file


class DataMissing(Exception):
    """The data set is not installed."""


def airports() -> list[Mapping[str, Any]]:
    """Return all records.

    Raises:
        DataMissing: The package that holds them is not installed.
    """
    try:
        import airportsdata
    except ImportError:
        text = "The demo's data set, airportsdata, is not installed. Run: pip install 'cachenode[demo]'"
        raise DataMissing(text) from None
    return list(airportsdata.load("ICAO").values())


def create_origin(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write the records to a new SQLite file and return their number."""
    marks = ", ".join("?" * len(_COLUMNS))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"CREATE TABLE airports ({', '.join(_COLUMNS)}, PRIMARY KEY (icao)) WITHOUT ROWID")
        rows = [[record[column] for column in _COLUMNS] for record in records]
        database.executemany(f"INSERT INTO airports VALUES ({marks})", rows)  # noqa: S608 - marks only
    return len(rows)


class Origin:
    """Reads the SQLite file.

    Args:
        path: What `create_origin` has written.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)

    def load(self, icao: str) -> Airport:
        """Return one record by its ICAO code, by a query.

        Raises:
            KeyError: There is no such airport.
        """
        row = self._database.execute(f"{_ROW} WHERE icao = ?", (icao,)).fetchone()
        if row is None:
            raise KeyError(icao)
        return dict(zip(_COLUMNS, row, strict=True))

    def load_all(self) -> dict[str, Airport]:
        """Return all records by their codes, ordered by code."""
        rows = self._database.execute(f"{_ROW} ORDER BY icao")
        return {row[0]: dict(zip(_COLUMNS, row, strict=True)) for row in rows}

    def close(self) -> None:
        """Close the file."""
        self._database.close()
