"""The client's address: seed nodes by name, or one DNS name that stands for all nodes.

Accepted: ``host``, ``host:port``, ``[IPv6]:port``, several of these separated by commas, or ``dns:///name:port``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from cachenode_client.errors import InvalidArgument

__all__ = ["DEFAULT_PORT", "Addresses", "parse_address"]

DEFAULT_PORT = 7401
_MAX_PORT = 65_535
_DNS = "dns:///"
_ACCEPTED = "accepted are host:port, [IPv6]:port, several of them separated by commas, or dns:///name:port"
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?\Z")
_NUMERIC = re.compile(r"[0-9.]+\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where to find the cluster: either `seeds` or `dns` is set.

    Attributes:
        seeds: ``host:port`` of one or more nodes, without repetitions, in the order given; IPv6 in brackets.
        dns: Name and port whose address records are the nodes; look it up again when reconnecting.
    """

    seeds: tuple[str, ...] = ()
    dns: tuple[str, int] | None = None


def parse_address(address: str) -> Addresses:
    """Return the parts of a client's address.

    Raises:
        InvalidArgument: The address is not of an accepted form. The text names the position, not the
            address, since people paste addresses with passwords in them.
    """
    if not isinstance(address, str):
        raise InvalidArgument(f"address: must be str, not {type(address).__name__}; {_ACCEPTED}")
    text = address.strip()
    if text.startswith(_DNS):
        if "," in text:
            raise InvalidArgument(f"address: dns:/// takes one name; {_ACCEPTED}")
        return Addresses(dns=_host_and_port(text[len(_DNS) :], "after dns:///"))
    parts = text.split(",")
    pairs = [_host_and_port(part.strip(), f"item {at}") for at, part in enumerate(parts, start=1)]
    seeds = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in pairs)
    return Addresses(seeds=tuple(dict.fromkeys(seeds)))


def _host_and_port(text: str, where: str) -> tuple[str, int]:
    if not text:
        raise _problem(where, "is empty")
    if "/" in text or "@" in text:
        raise _problem(where, "holds a scheme, path or user name")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _problem(where, "has an IPv6 address without its closing bracket")
        return _ipv6(host, where), _port(rest[1:] if rest else None, where)
    if text.count(":") > 1:
        raise _problem(where, f"looks like IPv6 without brackets; write [::1]:{DEFAULT_PORT}")
    host, colon, port = text.partition(":")
    return _name_or_ipv4(host, where), _port(port if colon else None, where)


def _ipv6(host: str, where: str) -> str:
    try:
        return str(IPv6Address(host))
    except AddressValueError:
        raise _problem(where, "has something in brackets that is not an IPv6 address") from None


def _name_or_ipv4(host: str, where: str) -> str:
    if not host:
        raise _problem(where, "has no host")
    if _NUMERIC.match(host):
        try:
            return str(IPv4Address(host))
        except AddressValueError:
            raise _problem(where, "has a host of digits and dots that is not an IPv4 address") from None
    if not _HOST.match(host):
        raise _problem(where, "has a host that is not a DNS name (write international names in their xn-- form)")
    return host.lower()


def _port(text: str | None, where: str) -> int:
    if text is None:
        return DEFAULT_PORT
    if not _PORT.match(text) or not 1 <= int(text) <= _MAX_PORT:
        raise _problem(where, "has a port that is not a number from 1 to 65535")
    return int(text)


def _problem(where: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"address: {where} {what}; {_ACCEPTED}")
