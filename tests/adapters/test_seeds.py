from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from structlog.testing import capture_logs

from cachenode.adapters.seeds import DnsSeeds, resolve
from tests.support.eventually import eventually


class Names:
    """A name server that fails when the test says so."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.up = True
        self.asked: list[tuple[str, int]] = []
        self.used: list[list[str]] = []

    async def look_up(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        if not self.up:
            raise socket.gaierror(socket.EAI_AGAIN, "name server away")
        return list(self.addresses)

    def seeds(self, **options: Any) -> DnsSeeds:
        return DnsSeeds("cache.example:7401", self.used.append, look_up=self.look_up, **options)


async def test_addresses_follow_the_name() -> None:
    """Each look-up passes on what the name has now."""
    names = Names("10.0.0.1:7401")
    seeds = names.seeds()
    await seeds.refresh()
    names.addresses = ["10.0.0.2:7401", "10.0.0.3:7401"]
    await seeds.refresh()
    assert names.used == [["10.0.0.1:7401"], ["10.0.0.2:7401", "10.0.0.3:7401"]]
    assert names.asked == [("cache.example", 7401)] * 2


async def test_failed_look_up_keeps_the_seeds() -> None:
    """A name server that is away changes nothing; the log says so once, and again after it had been back."""
    names = Names("10.0.0.1:7401")
    seeds = names.seeds()
    with capture_logs() as logs:
        for up in (True, False, False, True, False):
            names.up = up
            await seeds.refresh()
    assert names.used == [["10.0.0.1:7401"]] * 2
    assert [line["event"] for line in logs] == ["dns_failed"] * 2
    assert logs[0]["host"] == "cache.example"


async def test_looked_up_at_the_start_and_again_until_the_stop() -> None:
    """The first addresses are there when `start` returns; look-ups go on until `stop`."""
    names = Names("10.0.0.1:7401")
    seeds = names.seeds(every_s=0.001)
    await seeds.start()
    assert names.used
    names.up = False
    await eventually(lambda: len(names.asked) > 3)
    names.up = True
    before = len(names.used)
    await eventually(lambda: len(names.used) > before)
    task = seeds._task
    await seeds.stop()
    assert task is not None
    assert task.done()


async def test_stop_before_start() -> None:
    """Seeds that were never started can be stopped."""
    await Names().seeds().stop()


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["10.0.0.1", "10.0.0.1", "10.0.0.2"], ["10.0.0.1:7401", "10.0.0.2:7401"]),
        (["fd00::1"], ["[fd00::1]:7401"]),
    ],
)
async def test_each_address_once_and_ipv6_in_brackets(
    monkeypatch: pytest.MonkeyPatch, found: list[str], expected: list[str]
) -> None:
    """Addresses come as gRPC writes them, without repetition."""

    async def getaddrinfo(host: str, port: int, **_named: object) -> list[Any]:
        return [(0, 0, 0, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    assert await resolve("cache.example", 7401) == expected


async def test_the_machines_own_resolver() -> None:
    """A literal address needs no name server."""
    assert await resolve("127.0.0.1", 7401) == ["127.0.0.1:7401"]
