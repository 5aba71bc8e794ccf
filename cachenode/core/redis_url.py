"""How the place of a Redis is written, in each of its topologies.

::

    redis://[user:password@]host[:port][/db]                          one server; rediss:// with TLS
    unix://[user:password@]/path/to/socket[?db=N]                     one server on this machine
    redis+sentinel://[user:password@]host[:port][,host…]/master[/db]  the master that these sentinels name
    redis+cluster://[user:password@]host[:port][,host…]               a Cluster that these nodes belong to

``rediss+sentinel`` and ``rediss+cluster`` speak TLS with all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["FORMS", "RedisAddress", "Topology", "read_redis_url"]

Topology = Literal["standalone", "sentinel", "cluster"]

FORMS = (
    "redis://[user:password@]host[:port][/db], rediss:// (the same with TLS), "
    "unix://[user:password@]/path/to/socket[?db=N], redis+sentinel://[user:password@]host[:port],…/master[/db] and "
    "redis+cluster://[user:password@]host[:port],… (both also with rediss); special characters in user and password "
    "are percent-encoded"
)
"""What is accepted, for people."""
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*))(?::(?P<port>[0-9]{1,5}))?\Z")
_MASTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
_PORTS: dict[Topology, int] = {"standalone": 6379, "sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis is and how to log in. The password is not shown by `repr`.

    Attributes:
        topology: What is at `hosts`: the server itself, sentinels, or some nodes of a Cluster.
        hosts: Host and port of each; of a server by itself there is one, none if it has a `path`.
        path: Of a Unix socket.
        master: What the sentinels call the master.
    """

    topology: Topology = "standalone"
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    master: str = ""
    db: int = 0
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)


def read_redis_url(url: str) -> RedisAddress:
    """Return what a URL says.

    Raises:
        ValueError: It is not one of `FORMS`; the text says why. The URL itself is not shown: it may hold a password.
    """
    scheme, mark, rest = url.partition("://")
    kind, _, topology = scheme.partition("+")
    if mark and kind in {"redis", "rediss"} and topology in {"sentinel", "cluster"}:
        return _many(kind == "rediss", "sentinel" if topology == "sentinel" else "cluster", rest)
    try:
        parts = urlsplit(url)
        port = parts.port
        query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else {}
    except ValueError:
        raise _refused("cannot be read (is the port a number below 65,536?)") from None
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise _refused("has no known scheme")
    is_unix = parts.scheme == "unix"
    if parts.fragment or set(query) - ({"db"} if is_unix else set()):
        raise _refused("has a part that is not known")
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    if is_unix:
        if parts.hostname or not parts.path.strip("/"):
            raise _refused("must name an absolute path (three slashes: unix:///run/redis.sock)")
        db = _db(query.get("db", [""])[-1])
        return RedisAddress(path=unquote(parts.path), db=db, username=username, password=password)
    if not parts.hostname or port == 0:
        raise _refused("names no host, or port 0")
    return RedisAddress(
        hosts=((parts.hostname, port or _PORTS["standalone"]),),
        db=_db(parts.path[1:]),
        tls=parts.scheme == "rediss",
        username=username,
        password=password,
    )


def _many(tls: bool, topology: Topology, rest: str) -> RedisAddress:
    """Read what follows the scheme where several hosts are named, for which `urlsplit` is not made."""
    authority, _, path = rest.partition("/")
    if "?" in rest or "#" in rest:
        raise _refused("has a part that is not known")
    login, _, places = authority.rpartition("@")
    user, _, password = login.partition(":")
    hosts = tuple(_host(place, _PORTS[topology]) for place in places.split(","))
    master, db = "", 0
    if topology == "sentinel":
        master, _, number = path.partition("/")
        if not _MASTER.match(master):
            raise _refused("must name the master as the sentinels do: …/mymaster")
        db = _db(number)
    elif path not in {"", "0"}:
        raise _refused("has a database, which a Cluster does not have")
    return RedisAddress(
        topology=topology,
        hosts=hosts,
        master=master,
        db=db,
        tls=tls,
        username=unquote(user) or None,
        password=unquote(password) or None,
    )


def _host(text: str, default_port: int) -> tuple[str, int]:
    match = _HOST.match(text)
    port = int(match["port"] or default_port) if match else 0
    if match is None or not 0 < port < 65_536:
        raise _refused("must list its hosts as host:port, with commas between them")
    return match["v6"] or match["name"], port


def _db(text: str) -> int:
    if not text:
        return 0
    if not text.isdecimal() or not text.isascii():
        raise _refused("has a database that is not a number")
    return int(text)


def _refused(why: str) -> ValueError:
    return ValueError(why)
