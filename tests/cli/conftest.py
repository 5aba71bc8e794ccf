"""Runs commands in this process, as the shell would, less the process."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable

import pytest
from typer.testing import CliRunner, Result

from cachenode.cli.main import app
from cachenode.server import Server
from tests.support.server import running_server

Invoke = Callable[..., Result]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A node of its own, joined."""
    async with running_server() as started:
        yield started


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Return a function that runs ``cachenode`` with arguments, in an environment without settings of ours."""
    for name in os.environ:
        if name.startswith("CACHENODE_"):
            monkeypatch.delenv(name)

    def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, arguments, input=stdin, env={"COLUMNS": "200"})

    return run
