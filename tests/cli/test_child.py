from __future__ import annotations

from pathlib import Path

import pytest

from cachenode.cli.child import Child, ended


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "with code 0"), (2, "with code 2"), (-9, "by SIGKILL"), (-15, "by SIGTERM"), (-99, "signal 99")],
)
def test_how_a_process_ended(code: int, text: str) -> None:
    """Exit codes and signals are told apart, signals by name."""
    assert text in ended(code)


def test_last_words_are_the_end_of_the_log(tmp_path: Path) -> None:
    """A long log is cut to its end; one that is empty or missing is said to be."""
    log = tmp_path / "node-0.log"
    child = Child("node-0", log, {})
    assert "Nothing is in" in child.last_words()
    log.write_text("".join(f"line {number}\n" for number in range(5_000)))
    words = child.last_words().splitlines()
    assert len(words) == 16
    assert words[-1].strip() == "line 4999"


async def test_a_child_that_was_not_started_can_be_stopped(tmp_path: Path) -> None:
    """Stopping and signalling what does not run does nothing."""
    child = Child("node-0", tmp_path / "log", {})
    child.send(9)  # type: ignore[arg-type]
    await child.stop(1.0)
    assert not child.running
