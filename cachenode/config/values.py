"""How configuration values are written: sizes, addresses, lists, lives and URLs; and how secrets stay out of sight.

Every parser raises ValueError with a text that names the rule and never the value, since the value may hold a password.
"""

from __future__ import annotations

import ipaddress
import math
import re

from cachenode.core.redis_url import FORMS, read_redis_url

__all__ = [
    "NO_URL",
    "is_loopback",
    "is_wildcard",
    "parse_address",
    "parse_list",
    "parse_size",
    "parse_ttl",
    "parse_url",
    "redact_url",
    "show_size",
]

_SIZE = re.compile(r"\s*(\d+)\s*([a-z]*)\s*\Z", re.IGNORECASE)
_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _UNITS[_letter + "ib"] = _UNITS[_letter + "i"] = 1024**_power
    _UNITS[_letter + "b"] = 1000**_power
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?\Z")
_MAX_PORT = 65_535
NO_URL = "none"


def parse_size(value: object) -> object:
    """Return the bytes that a text such as "256MiB", "1GB" or "4096" stands for; other types pass through."""
    if not isinstance(value, str):
        return value
    match = _SIZE.match(value)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError("must be a number of bytes or a size such as 64KiB, 256MiB or 1GiB")
    return int(match[1]) * unit


def show_size(count: int) -> str:
    """Return the shortest exact way to write a number of bytes."""
    for unit, size in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


def parse_ttl(value: object) -> object:
    """Return infinity for "never" or None; other values pass through."""
    return math.inf if value is None or value == "never" else value


def parse_list(value: object) -> object:
    """Return the parts of a comma-separated text; other types pass through."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def parse_address(text: str, *, any_port: bool = False) -> tuple[str, int]:
    """Return host and port of "host:port" or "[ipv6]:port".

    Args:
        text: The address.
        any_port: Whether port 0, "one that is free", is accepted.

    Raises:
        ValueError: It is not such an address.
    """
    host, colon, digits = text.rpartition(":")
    if not colon or not host:
        raise ValueError("must be host:port, for example 127.0.0.1:7401")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("must have an IPv6 address between the brackets, for example [::1]:7401") from None
    elif ":" in host:
        raise ValueError("must have an IPv6 address in brackets, for example [::1]:7401")
    elif not _HOST.match(host):
        raise ValueError("must be host:port with a host name or an IP address, for example 127.0.0.1:7401")
    port = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 5 else -1
    if not (0 if any_port else 1) <= port <= _MAX_PORT:
        raise ValueError(f"must end with a port from {0 if any_port else 1} to {_MAX_PORT}")
    return host, port


def is_loopback(host: str) -> bool:
    """Return whether nobody but this machine can reach a host; a name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_wildcard(host: str) -> bool:
    """Return whether a host stands for every address of this machine, so that others cannot dial it."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def parse_url(text: str) -> str:
    """Return the URL of a Redis or Valkey, "none" for none.

    Raises:
        ValueError: It is not one of the forms of `cachenode.core.redis_url`.
    """
    if text in {"", NO_URL}:
        return NO_URL
    try:
        read_redis_url(text)
    except ValueError as error:
        raise ValueError(f"must be none, {FORMS}; this one {error}") from None
    return text


def redact_url(url: str) -> str:
    """Return a URL without who logs in and without the values of its query, both of which may hold a password."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    # From the last "@", not the first: an unescaped one belongs to the password.
    user, _, place = rest.rpartition("@")
    place, _, query = place.partition("?")
    names = "&".join(f"{item.partition('=')[0]}=***" for item in query.split("&") if item)
    return f"{scheme}://{'***@' if user else ''}{place}{'?' if names else ''}{names}"
