"""Files with a key on each line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path

from cachenode.errors import OriginError

__all__ = ["read_keys"]

_LINES_AT_ONCE = 5_000


async def read_keys(path: str) -> AsyncIterator[bytes]:
    """Yield the keys of a file, which is read as they are wanted; empty lines are none.

    Raises:
        OriginError: The file cannot be read.
    """
    try:
        with await asyncio.to_thread(Path(path).open, "rb") as file:
            while lines := await asyncio.to_thread(lambda: list(islice(file, _LINES_AT_ONCE))):
                for line in lines:
                    key = line.rstrip(b"\r\n")
                    if key:
                        yield key
    except OSError as error:
        raise OriginError(f"keys_file: cannot be read: {error.strerror or type(error).__name__}", again=False) from None
