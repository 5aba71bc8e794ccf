"""What the origin "sql" says of options that do not fit together, and which keys it knows values by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cachenode.adapters.key_pattern import KeyPattern
from cachenode.adapters.plugins import LOADERS, SINKS, find_plugin
from cachenode.adapters.sql_origin import SqlOrigin
from cachenode.errors import ConfigError
from cachenode.origins import ABSENT, OriginError, Write

URL = "sqlite://"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "options.url: must be the database's URL, or options.url_file the file that holds it"),
        ({"url": URL, "url_file": "x"}, "options.url: must be"),
        ({"url": "hunter2"}, "options.url: ArgumentError"),
        ({"url": "oracle+nodriver://hunter2@x/y"}, "options.url: NoSuchModuleError; is the driver installed?"),
        ({"url_file": "/nonexistent/hunter2"}, "options.url_file: FileNotFoundError"),
        ({"url": URL, "key": "user"}, "options.key: must hold one placeholder"),
        ({"url": URL, "select": "SELECT 1 WHERE x = :id"}, "options.select: must use :key, or IN :keys"),
        ({"url": URL, "upsert": "INSERT INTO t VALUES (:value)"}, "options.upsert: must use :key"),
        ({"url": URL, "delete": 7}, "options.delete: must be a statement"),
    ],
)
@pytest.mark.parametrize("group", [LOADERS, SINKS])
def test_options_that_do_not_fit(options: dict[str, Any], text: str, group: str) -> None:
    """Each is named, and no value is repeated."""
    with pytest.raises(ConfigError) as caught:
        find_plugin("sql", options, group)
    assert str(caught.value).startswith(text)
    assert "hunter2" not in str(caught.value)


async def test_what_there_is_no_statement_for(tmp_path: Path) -> None:
    """Reading, writing and removing are each refused; the URL may come from a file."""
    (tmp_path / "url").write_text(f"sqlite:///{tmp_path / 'db'}\n")
    origin = SqlOrigin(url_file=str(tmp_path / "url"))
    for failing, lacks in (
        (origin.load("k"), "select"),
        (origin.write(Write("k", 1, 1)), "upsert"),
        (origin.write(Write("k", ABSENT, 1)), "delete"),
    ):
        with pytest.raises(OriginError, match=f"^the origin has no `{lacks}`$") as caught:
            await failing
        assert not caught.value.again
    await origin.close()


@pytest.mark.parametrize(
    ("pattern", "key", "part"),
    [
        ("{key}", "a", "a"),
        ("{key}", "", None),
        ("user:{id}", "user:x:y", "x:y"),
        ("user:{id}", "user:", None),
        ("user:{id}", "use", None),
        ("user:{id}:profile", "user:7:profile", "7"),
        ("user:{id}:profile", "user:7:pro", None),
        ("user:{id:int}", "user:7", 7),
        ("user:{id:int}", "user:-7", -7),
        ("user:{id:int}", "user:0", 0),
        ("user:{id:int}", "user:07", None),
        ("user:{id:int}", "user:-0", None),
        ("user:{id:int}", "user:x", None),
        ("user:{id}", b"user:\xff", None),
    ],
)
def test_part_of_a_key(pattern: str, key: str | bytes, part: object) -> None:
    """What the placeholder stands for; and the key comes back from it."""
    found = KeyPattern(pattern)
    assert found.part(key) == part
    assert part is None or found.key(part) == key


@pytest.mark.parametrize("pattern", ["", "user", "{a}{b}", "{a", "{a:str}", "{}", "{a}}"])
def test_pattern_that_is_none(pattern: str) -> None:
    """There must be one placeholder."""
    with pytest.raises(ConfigError, match="must hold one placeholder"):
        KeyPattern(pattern)
