"""Addresses that users pass to a client."""

from __future__ import annotations

from typing import Any

import pytest

from cachenode_client._address import Addresses, parse_address
from cachenode_client.errors import InvalidArgument

ACCEPTED = "accepted are host:port, [IPv6]:port, several of them separated by commas, or dns:///name:port"


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("127.0.0.1:7401", ("127.0.0.1:7401",)),
        ("localhost", ("localhost:7401",)),
        (" Node-0.Example.org:9 ", ("node-0.example.org:9",)),
        ("a:1,b:2, c", ("a:1", "b:2", "c:7401")),
        ("a:1,b:2,a:1,A:1", ("a:1", "b:2")),
        ("[::1]:7401", ("[::1]:7401",)),
        ("[0:0:0:0:0:0:0:1]", ("[::1]:7401",)),
        ("[::1]:1,127.0.0.1:65535", ("[::1]:1", "127.0.0.1:65535")),
        ("cache_node.internal.:1", ("cache_node.internal.:1",)),
    ],
)
def test_seeds(text: str, seeds: tuple[str, ...]) -> None:
    """Seeds are written uniformly as host:port, in their order, without repetitions, with their port filled in."""
    assert parse_address(text) == Addresses(seeds=seeds, dns=None)


@pytest.mark.parametrize(
    ("text", "dns"),
    [
        ("dns:///cachenode.svc:7401", ("cachenode.svc", 7401)),
        ("dns:///cachenode", ("cachenode", 7401)),
        ("dns:///[::1]:5", ("::1", 5)),
    ],
)
def test_dns(text: str, dns: tuple[str, int]) -> None:
    """A dns:/// address is a name and a port to look up."""
    assert parse_address(text) == Addresses(seeds=(), dns=dns)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "item 1 is empty"),
        ("a:1,,b:2", "item 2 is empty"),
        ("dns:///", "after dns:/// is empty"),
        ("dns:///a,b", "dns:/// takes one name"),
        ("a,dns:///b", "item 2 holds a scheme, path or user name"),
        ("dns://8.8.8.8/name", "item 1 holds a scheme, path or user name"),
        ("redis://user:canary@host:1", "item 1 holds a scheme, path or user name"),
        ("user:canary@host", "item 1 holds a scheme, path or user name"),
        ("::1", "item 1 looks like IPv6 without brackets; write [::1]:7401"),
        ("[::1", "item 1 has an IPv6 address without its closing bracket"),
        ("[::1]7401", "item 1 has an IPv6 address without its closing bracket"),
        ("[canary]:1", "item 1 has something in brackets that is not an IPv6 address"),
        (":7401", "item 1 has no host"),
        ("300.1.1.1:1", "item 1 has a host of digits and dots that is not an IPv4 address"),
        (
            "can ary:1",
            "item 1 has a host that is not a DNS name (write international names in their xn-- form)",
        ),
        ("-a:1", "item 1 has a host that is not a DNS name (write international names in their xn-- form)"),
        ("a..b", "item 1 has a host that is not a DNS name (write international names in their xn-- form)"),
        ("a" * 254, "item 1 has a host that is not a DNS name (write international names in their xn-- form)"),
        ("a:", "item 1 has a port that is not a number from 1 to 65535"),
        ("a:0", "item 1 has a port that is not a number from 1 to 65535"),
        ("a:65536", "item 1 has a port that is not a number from 1 to 65535"),
        ("b,a:canary", "item 2 has a port that is not a number from 1 to 65535"),
        ("a:١", "item 1 has a port that is not a number from 1 to 65535"),
        ("[::1]:", "item 1 has a port that is not a number from 1 to 65535"),
    ],
)
def test_what_is_refused(text: str, problem: str) -> None:
    """The text says which item is wrong and what is accepted, without quoting an address that may hold a password."""
    with pytest.raises(InvalidArgument) as caught:
        parse_address(text)
    assert str(caught.value) == f"address: {problem}; {ACCEPTED}"
    assert "canary" not in str(caught.value)


def test_another_type_is_refused() -> None:
    """A list of addresses is not an address."""
    address: Any = ["a:1"]
    with pytest.raises(InvalidArgument) as caught:
        parse_address(address)
    assert str(caught.value) == f"address: must be str, not list; {ACCEPTED}"
