"""``cachenode console``: where the consoles are."""

from __future__ import annotations

import asyncio
import json
import webbrowser

import pytest

from cachenode.server import Server
from tests.cli.conftest import Invoke
from tests.support.server import running_server


async def test_consoles_are_found_and_opened(server: Server, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """The addresses are printed, for people and for programs; --open opens the first."""
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    url = f"http://{server.http_address}/ui/"
    result = await asyncio.to_thread(invoke, "console", "--open", "-a", server.address)
    assert (result.exit_code, result.stdout.strip(), opened) == (0, url, [url])
    result = await asyncio.to_thread(invoke, "console", "-o", "json", "-a", server.address)
    assert [each["url"] for each in json.loads(result.stdout)["consoles"]] == [url]


async def test_no_console_is_told(invoke: Invoke) -> None:
    """Where it is off the command says how it is switched on."""
    async with running_server(http__console=False) as server:
        result = await asyncio.to_thread(invoke, "console", "-a", server.address)
    assert result.exit_code == 3
    assert "http.console" in result.stderr
