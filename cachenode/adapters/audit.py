"""The audit's lines: JSON, one a line, in a file of their own or among the node's logs.

A file is appended to, so it may be copied and truncated under the node, and it is opened anew at SIGHUP, so it may be
renamed, too. A disk that is full costs lines, which are counted and spoken of, and never a call.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from typing import Any

import structlog

from cachenode.core.log_bursts import LogBursts
from cachenode.errors import ConfigError

__all__ = ["AuditFile"]

_log = structlog.get_logger("cachenode.audit")
_MOST_REFUSED = 100
"""Lines of one action and outcome in ten seconds, if it was refused: strangers must not fill the disk."""


class AuditFile:
    """Where lines go.

    Args:
        path: Of the file; empty for the node's logs.
        node_id: Put in every line.

    Raises:
        ConfigError: The file cannot be written.
    """

    def __init__(self, path: str, node_id: str) -> None:
        self._path = path
        self._node_id = node_id
        self._descriptor = -1
        self._bursts = LogBursts(_MOST_REFUSED)
        self.lost = 0
        """Lines that could not be written."""
        if path:
            try:
                self._descriptor = self._open()
            except OSError as error:
                raise ConfigError([f"audit.file: cannot be written ({error.strerror})"]) from None

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def reopen(self) -> None:
        """Go on in the file that has the name now. If there is none and none can be made, go on in the old one."""
        if not self._path:
            return
        try:
            fresh = self._open()
        except OSError as error:
            _log.warning("audit_not_reopened", why=error.strerror)
            return
        os.close(self._descriptor)
        self._descriptor = fresh

    def write(self, fields: dict[str, Any]) -> None:
        """Write a line. Never raises."""
        left_out = 0
        if fields.get("outcome") != "ok":
            left_out = self._bursts.admit((fields.get("action"), fields.get("outcome")), time.monotonic())
            if left_out < 0:
                return
        more = {"left_out": left_out} if left_out else {}
        if not self._path:
            _log.info("audit", **fields, **more)
            return
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "node": self._node_id, **fields, **more}
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        try:
            os.write(self._descriptor, data)
        except OSError as error:
            self.lost += 1
            _log.error("audit_lost", lost=self.lost, why=error.strerror)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
