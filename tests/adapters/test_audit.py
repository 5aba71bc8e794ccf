"""The audit's file: appended to, opened anew, and never in the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cachenode.adapters.audit import AuditFile
from cachenode.errors import ConfigError

LINE: dict[str, Any] = {"who": "ops", "action": "Drain", "outcome": "ok"}


def lines(file: Path) -> list[dict[str, Any]]:
    """Return what a file holds."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_lines_are_appended(tmp_path: Path) -> None:
    """One JSON object a line, with time and node; the owner alone may read it; nothing that was there is lost."""
    path = tmp_path / "audit.jsonl"
    for _ in range(2):
        file = AuditFile(str(path), "node-0")
        file.write(LINE)
        file.close()
    found = lines(path)
    assert [line.pop("time")[:2] for line in found] == ["20", "20"]
    assert found == [{"node": "node-0", **LINE}] * 2
    assert path.stat().st_mode & 0o077 == 0


def test_rotation(tmp_path: Path) -> None:
    """A file that was renamed is followed by a new one; one that was truncated goes on from its beginning."""
    path = tmp_path / "audit.jsonl"
    file = AuditFile(str(path), "node-0")
    file.write(LINE)
    path.rename(tmp_path / "audit.1")
    file.write(LINE)
    file.reopen()
    file.write(LINE)
    assert (len(lines(tmp_path / "audit.1")), len(lines(path))) == (2, 1)
    path.write_text("")
    file.write(LINE)
    assert len(lines(path)) == 1
    (tmp_path / "gone").mkdir()
    file.close()


def test_disk_that_is_full() -> None:
    """Lines are lost, counted and spoken of; nobody's call fails. Scenario 67."""
    file = AuditFile("/dev/full", "node-0")
    with capture_logs() as logs:
        file.write(LINE)
        file.write(LINE)
    assert file.lost == 2
    assert [line["event"] for line in logs] == ["audit_lost", "audit_lost"]
    file.close()


def test_refusals_do_not_fill_the_disk(tmp_path: Path) -> None:
    """Of what is refused over and over only some lines are written; what was done is always."""
    path = tmp_path / "audit.jsonl"
    file = AuditFile(str(path), "node-0")
    for _ in range(1_000):
        file.write(LINE | {"outcome": "permission_denied"})
        file.write(LINE)
    outcomes = [line["outcome"] for line in lines(path)]
    assert (outcomes.count("permission_denied"), outcomes.count("ok")) == (100, 1_000)
    file.close()


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    """At the start that is an error; later the old file goes on. Without a file lines are among the logs."""
    with pytest.raises(ConfigError, match=r"audit\.file: cannot be written"):
        AuditFile(str(tmp_path / "absent/audit"), "node-0")
    folder = tmp_path / "folder"
    folder.mkdir()
    file = AuditFile(str(folder / "audit"), "node-0")
    (folder / "audit").rename(tmp_path / "kept")
    folder.rmdir()
    with capture_logs() as logs:
        file.reopen()
        file.write(LINE)
        AuditFile("", "node-0").write(LINE)
    assert len(lines(tmp_path / "kept")) == 1
    assert [line["event"] for line in logs] == ["audit_not_reopened", "audit"]
    file.close()
