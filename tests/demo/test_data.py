"""The origin's SQLite file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cachenode.demo.data import DataMissing, Origin, airports, create_origin

RECORDS: list[dict[str, Any]] = [
    {
        "icao": icao,
        "iata": "",
        "name": f"Airport of {icao}",
        "city": "Zürich",
        "subd": "",
        "country": "CH",
        "elevation": 1416.0,
        "lat": 47.458056,
        "lon": 8.548056,
        "tz": "Europe/Zurich",
        "lid": "",
    }
    for icao in ("LSZH", "LSGG")
]


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Origin]:
    assert create_origin(tmp_path / "airports.sqlite", RECORDS) == 2
    origin = Origin(tmp_path / "airports.sqlite")
    yield origin
    origin.close()


def test_a_record_comes_back_as_it_was(origin: Origin) -> None:
    """A query returns the record with its types."""
    assert origin.load("LSZH") == RECORDS[0]


def test_all_records_are_ordered_by_code(origin: Origin) -> None:
    """All processes see the records in the same order, so that they agree on ranks."""
    assert list(origin.load_all()) == ["LSGG", "LSZH"]
    assert origin.load_all()["LSGG"] == RECORDS[1]


def test_an_unknown_code_is_an_error(origin: Origin) -> None:
    """A code without a record does not look like a record."""
    with pytest.raises(KeyError):
        origin.load("XXXX")


def test_missing_data_set_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the data set the message holds the command that installs it."""
    monkeypatch.setitem(sys.modules, "airportsdata", None)
    with pytest.raises(DataMissing, match=r"pip install 'cachenode\[demo\]'"):
        airports()
