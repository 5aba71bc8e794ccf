"""Keys in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachenode.adapters.key_files import read_keys
from cachenode.errors import OriginError


async def test_a_key_on_each_line(tmp_path: Path) -> None:
    """Empty lines are none; line ends of other systems are no part of a key, other bytes are."""
    path = tmp_path / "keys"
    path.write_bytes(b"a\n\nb\r\n c \n\xff")
    assert [key async for key in read_keys(str(path))] == [b"a", b"b", b" c ", b"\xff"]


async def test_file_that_is_not_there(tmp_path: Path) -> None:
    """The error names the setting."""
    with pytest.raises(OriginError, match="keys_file: cannot be read: No such file"):
        async for _ in read_keys(str(tmp_path / "gone")):
            pass
