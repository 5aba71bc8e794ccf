from __future__ import annotations

from pathlib import Path

import pytest

from cachenode.cli.child import Child, ended


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "it ended with code 0"), (2, "it ended with code 2"), (-9, "it was killed by SIGKILL"), (-99, "signal 99")],
)
def test_ends_are_told(code: int, text: str) -> None:
    """An exit code is told from a signal, and signals have names."""
    assert text in ended(code)


def test_last_words_are_the_end_of_the_log(tmp_path: Path) -> None:
    """Only the end of a long log is shown, also if it is not all text."""
    log = tmp_path / "node-0.log"
    log.write_bytes(b"".join(b"line %d \xff\n" % number for number in range(5_000)))
    words = Child("node-0", log, {}).last_words().splitlines()
    assert words[0] == f" The end of {log}:"
    assert len(words) == 16
    assert words[-1].startswith("    line 4999")


@pytest.mark.parametrize("content", [None, b"", b"\n"])
def test_silent_child_is_said_to_be_silent(tmp_path: Path, content: bytes | None) -> None:
    """A log without a word, or none at all, is named all the same."""
    log = tmp_path / "node-0.log"
    if content is not None:
        log.write_bytes(content)
    assert Child("node-0", log, {}).last_words() == f" Nothing is in {log}."


async def test_child_that_was_never_started_can_be_stopped(tmp_path: Path) -> None:
    """After a start that failed early, some children exist and do not run."""
    child = Child("node-0", tmp_path / "node-0.log", {})
    assert not child.running
    await child.stop(1.0)
    assert await child.wait() == 0
