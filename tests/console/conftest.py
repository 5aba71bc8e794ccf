"""A real node with its console, and calls to it as its page makes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from cachenode.core.access import hash_of
from cachenode.server import Server
from tests.support.server import running_server

MARKED = {"X-Cachenode-Console": "1", "Content-Type": "application/json"}
TOKENS = {"admin": "a-token-of-an-administrator", "read": "a-token-of-a-reader", "write": "a-token-of-a-writer"}


@dataclass
class Page:
    """What a page can do.

    Attributes:
        url: Of the node's HTTP port.
        http: Makes the calls.
        headers: What each call bears.
    """

    url: str
    http: ClientSession
    headers: dict[str, str] = field(default_factory=lambda: dict(MARKED))

    def signed_in(self, who: str) -> Page:
        """Return a page that shows a token."""
        return Page(self.url, self.http, self.headers | {"Authorization": f"Bearer {TOKENS.get(who, who)}"})

    async def call(self, name: str, /, **body: Any) -> tuple[int, dict[str, Any]]:
        """Return the status and the document."""
        async with self.http.post(f"{self.url}/ui/api/{name}", json=body, headers=self.headers) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    """What requests are made with."""
    async with ClientSession() as session:
        yield session


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A node that asks nobody for a token."""
    async with running_server(cluster__name="tests") as running:
        yield running


@pytest.fixture
def page(server: Server, http: ClientSession) -> Page:
    """The page of that node."""
    return Page(f"http://{server.http_address}", http)


def tokens_in(folder: Path) -> dict[str, Any]:
    """Write a file of tokens, and return the settings that name it."""
    roles = {"peer": "peer"} | {name: name for name in TOKENS}
    secrets = TOKENS | {"peer": "a-token-of-a-peer"}
    lines = [
        f'[[token]]\nname = "{who}"\nsha256 = "{hash_of(secrets[who])}"\nrole = "{role}"\n'
        for who, role in roles.items()
    ]
    (folder / "tokens.toml").write_text("".join(lines))
    (folder / "peer").write_text(secrets["peer"])
    return {"auth__tokens_file": str(folder / "tokens.toml"), "auth__peer_token_file": str(folder / "peer")}


@pytest.fixture
async def guarded(tmp_path: Path, http: ClientSession) -> AsyncIterator[Page]:
    """The page of a node that asks for tokens."""
    async with running_server(**tokens_in(tmp_path)) as running:
        yield Page(f"http://{running.http_address}", http)
