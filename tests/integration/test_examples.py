"""The examples run as their reader runs them: each a process, with a cluster of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from email.message import Message
from pathlib import Path

import pytest

from tests.support.postgres import postgres

TOP = Path(__file__).parents[2]
EXAMPLES = TOP / "client/examples"
PATHS = os.pathsep.join((str(TOP), str(TOP / "client"), os.environ.get("PYTHONPATH", ""))).rstrip(os.pathsep)
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("CACHENODE_")} | {
    "PYTHONPATH": PATHS,
    "PYTHONUNBUFFERED": "1",
}
RUN_S = 100.0
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
"""What a reader can start; the others are modules of these."""


def run(name: str, **environ: str) -> list[str]:
    """Run an example to its end; return the lines that it writes."""
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRON | environ, timeout=RUN_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_batch_loader() -> None:
    """Two pages that overlap load each of the fifty users once; two hundred reads are a few calls of the loader."""
    first, second = run("batch_loader.py")
    assert first.startswith("by the program: [30, 30] users, ")
    assert sum(map(int, re.findall(r"\d+", first.partition(" users, ")[2]))) == 50
    found = re.fullmatch(r"by the nodes: 200 reads, (\d+) calls of the loader", second)
    assert found is not None
    assert int(found[1]) <= 10


def test_worker_pool() -> None:
    """Each product is loaded once, most requests are near hits, and a change is seen by all workers at once."""
    first, second = run("worker_pool.py")
    found = re.fullmatch(r"2000 requests in [\d.]+ s: (\d+) loads, (\d+) near hits", first)
    assert found is not None
    assert int(found[1]) == 10
    assert int(found[2]) > 1_000
    assert second == "after the change all workers say: {900}"


def test_event_invalidation() -> None:
    """An event has what its rule names queried again, with the new state, and nothing else."""
    before, posted, renamed = run("event_invalidation.py")
    assert before.endswith("queried: feed, posts, profile (5)")
    titles = "['On engines', 'On poetry']"
    assert posted == f"after post.created: ({{'name': 'Ada'}}, {titles}, {titles}); queried: feed, posts (2)"
    assert renamed.startswith("after user.updated: ({'name': 'Ada Lovelace'}, ")
    assert renamed.endswith("queried: profile (1)")


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_write_behind(kind: str) -> None:
    """A thousand writes are acknowledged and read at once; each of twenty rows gets the last of its fifty, in few."""
    with postgres() if kind == "postgresql" else nullcontext() as server:
        written, table, loaded = run("write_behind.py", **({} if server is None else {"DATABASE_URL": server.url}))
    last = "{'id': 7, 'item': 'tea', 'count': 50}"
    assert re.fullmatch(rf"1000 writes acknowledged in [\d.]+ s; order:7 reads {re.escape(last)}", written)
    found = re.fullmatch(r"the table has 20 rows, 20 of them with the last count, and was written (\d+) times", table)
    assert found is not None, table
    assert 20 <= int(found[1]) < 1_000
    assert loaded == f"after an invalidation order:7 is loaded from it: {last}"


@contextmanager
def service(name: str) -> Iterator[str]:
    """Run an example that serves HTTP; yield its address."""
    command = [sys.executable, str(EXAMPLES / name)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRON | {"PORT": "0"})
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield found[0]
                break
        else:
            pytest.fail("the service has not started")
    finally:
        process.terminate()
        assert process.wait(RUN_S) == 0
        process.stdout.close()


def ask(
    url: str, *, method: str = "GET", body: object = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Message, object]:
    """Return status, headers and decoded body of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, dict(headers or {}), method=method)
    try:
        answer = urllib.request.urlopen(request, timeout=10)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        content = answer.read()
    return answer.status, answer.headers, json.loads(content) if content else None


def test_http_service() -> None:
    """A row is read through the cache, its ETag holds until an update, and then nobody gets the old name or summary."""
    with service("http_service.py") as url:
        status, headers, user = ask(f"{url}/users/7")
        assert (status, user) == (200, {"id": 7, "name": "Ada", "team": "eu"})
        assert headers["Cache-Control"] == "no-cache"
        known = {"If-None-Match": headers["ETag"]}
        assert ask(f"{url}/users/7", headers=known)[::2] == (304, None)
        status, headers, team = ask(f"{url}/teams/eu")
        assert (status, team, headers["Cache-Control"]) == (
            200,
            {"team": "eu", "people": 2, "first": "Ada"},
            "max-age=10",
        )

        assert ask(f"{url}/users/7", method="PUT", body={"name": "Grace"})[0] == 204
        status, headers, user = ask(f"{url}/users/7", headers=known)
        assert (status, user) == (200, {"id": 7, "name": "Grace", "team": "eu"})
        assert headers["ETag"] != known["If-None-Match"]
        assert ask(f"{url}/teams/eu")[2] == {"team": "eu", "people": 2, "first": "Edsger"}
        assert ask(f"{url}/users/10")[0] == 404
        assert ask(f"{url}/users/10", method="PUT", body={"name": "Nobody"})[0] == 404


def test_every_example_is_listed_and_run() -> None:
    """The README has a row for each program, and this file a test."""
    listed = re.findall(r"^\| \[(\w+\.py)\]", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == PROGRAMS
    assert {f"test_{Path(name).stem}" for name in PROGRAMS} <= set(globals())
