"""Nothing is decided by the time of day but what is due at one: a clock that is set moves no lease, TTL or timeout.

Scenario 64. Deadlines in memory are of the boot-time clock, those in L2 of its server's.
"""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.syntax import parse

TOP = Path(__file__).parents[2]
MAY = {
    "cachenode/adapters/audit.py": "the time in the audit's lines",
    "cachenode/adapters/http_origin.py": "what an origin's Retry-After says, at most its longest pause",
    "cachenode/adapters/leases_kubernetes.py": "times for people to read",
    "cachenode/adapters/webhook.py": "the age of a signature",
    "cachenode/cli/certs.py": "the life of certificates",
    "cachenode/cli/watch.py": "times for people to read",
    "cachenode/console/picture.py": "times for people to read",
    "cachenode/node/service.py": "jobs that are due at a time of day",
}
_FOLDERS = ("cachenode", "client/cachenode_client", "client/cachenode_api")


def asks_for_the_time_of_day(code: str) -> bool:
    """Return whether code uses `time.time`, or now of a datetime."""
    for node in ast.walk(parse(code)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            name = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            if (name, node.attr) in {
                ("time", "time"),
                ("time", "time_ns"),
                ("datetime", "now"),
                ("datetime", "utcnow"),
            }:
                return True
    return False


def test_only_some_files_ask_for_the_time_of_day() -> None:
    """Each of them has its reason."""
    files = [file for folder in _FOLDERS for file in (TOP / folder).rglob("*.py")]
    found = {
        file.relative_to(TOP).as_posix()
        for file in files
        if "demo" not in file.parts and asks_for_the_time_of_day(file.read_text(encoding="utf-8"))
    }
    assert found == MAY.keys()


def test_asking_is_noticed() -> None:
    """The search itself works."""
    for code in ("time.time()", "wall = time.time", "dt.datetime.now(dt.UTC)", "datetime.now()"):
        assert asks_for_the_time_of_day(code)
    assert not asks_for_the_time_of_day("time.monotonic(); clock.now(); time.sleep(1)")
