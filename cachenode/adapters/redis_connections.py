"""redis-py's connections, which notice by themselves that they were reset while nobody used them.

The pool takes such a connection for a good one, and the next command finds out. On asyncio's own loop the write passes
and fails when it is waited for, an OSError that redis-py calls a lost connection. uvloop's transport refuses the write
with a RuntimeError, and the streams of some CPython releases fail with whatever comes first (redis-py's issue 4287):
redis-py closes the connection then, too, but passes those on as they are, and no caller takes them for a server that is
away. So here a write to a connection that is no more fails as one on asyncio's loop
(``test_a_connection_that_was_reset``).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import TypeVar

from redis.asyncio.connection import AbstractConnection

__all__ = ["noticing"]


C = TypeVar("C", bound=AbstractConnection)


class _Noticing(AbstractConnection):
    async def _send_packed_command(self, command: Iterable[bytes]) -> None:
        if self._writer is not None and self._writer.is_closing():
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        await super()._send_packed_command(command)


def noticing(kind: type[C]) -> type[C]:
    """Return a kind of connection that notices."""
    return type(f"Noticing{kind.__name__}", (_Noticing, kind), {})
