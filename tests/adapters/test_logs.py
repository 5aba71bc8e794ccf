from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]
CODE = """
import structlog
from cachenode.adapters.logs import configure
configure({level!r}, {form!r}, "node-0")
log = structlog.get_logger("test")
log.debug("small")
log.info("started", address="127.0.0.1:1")
try:
    local = "".join(["hun", "ter2"])
    raise KeyError("x")
except KeyError:
    log.exception("failed")
"""


def lines(level: str, form: str) -> list[str]:
    """Return what a process writes; its standard error is no terminal, and its standard output stays empty."""
    code = f"import sys; sys.path[:0] = {[str(TOP), str(TOP / 'client')]!r}\n{CODE.format(level=level, form=form)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_away_from_a_terminal() -> None:
    """Where a program reads, each event is one JSON line with level, time and node, tracebacks included."""
    started, failed = (json.loads(line) for line in lines("info", "auto"))
    assert (started["event"], started["level"], started["node"]) == ("started", "info", "node-0")
    assert started["address"] == "127.0.0.1:1"
    assert started["timestamp"].endswith("Z")
    assert failed["exception"][0]["exc_type"] == "KeyError"


def test_locals_stay_out_of_logs() -> None:
    """Variables of a failed function may hold values; no form of the log shows them."""
    for form in ("json", "text"):
        assert "hunter2" not in "".join(lines("info", form))


def test_level_is_the_least_severe() -> None:
    """Lines below the level are not written."""
    events = [json.loads(line)["event"] for line in lines("debug", "json")]
    assert events == ["small", "started", "failed"]
    events = [json.loads(line)["event"] for line in lines("error", "json")]
    assert events == ["failed"]


def test_text_for_people() -> None:
    """Text can be asked for; away from a terminal it has no colours."""
    first = lines("info", "text")[0]
    assert "\x1b" not in first
    assert "started" in first
    assert "127.0.0.1:1" in first
    assert not first.startswith("{")


def test_levels_change_while_it_runs() -> None:
    """What is said of a logger that has been used already counts from its next line on."""
    code = """
import sys; sys.path[:0] = {paths!r}
import structlog
from cachenode.adapters.logs import configure, levels
configure("info", "json", "node-0")
log, other = structlog.get_logger("cachenode.node.drain"), structlog.get_logger("cachenode.rpc")
log.debug("before")
levels.set("cachenode.node", "debug")
log.debug("after")
other.debug("not meant")
levels.set("cachenode.node.drain", "error", 1.0)
log.debug("over, so the package counts")
"""
    code = code.format(paths=[str(TOP), str(TOP / "client")])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["after", "over, so the package counts"]


def test_repeated_events_are_counted() -> None:
    """Beyond so many in a while, lines of an event are left out; others are not."""
    code = """
import sys; sys.path[:0] = {paths!r}
import structlog
from cachenode.adapters.logs import configure
configure("info", "json", "node-0", burst=3)
log = structlog.get_logger("cachenode.node.drain")
for number in range(100): log.info("again", number=number)
log.info("once")
"""
    code = code.format(paths=[str(TOP), str(TOP / "client")])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["again"] * 3 + ["once"]
