"""Version-based keys: everything that is derived from one thing, untrue at once when the thing changes.

The usual form keeps a number beside the data, reads it first, and puts it into each key. That is one more round trip
for every read (or a number that is remembered for a while, and then old values are found), the values of old versions
stay until they end, and a number that is lost or counted anew brings them back.

Here the cluster keeps the version: it is the position of the last barrier that covers the thing's prefix
(`CacheClient.invalidate`). Every entry remembers at which position it was written, or its load began, so a bump makes
all of a thing's entries untrue without looking for them: in memory, in L2, in near caches and in loads under way. A
hit is what it is for any other key, a near hit included; there is no version to be read, so there is none to be old or
lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from cachenode_client._checks import Ack, Mode
from cachenode_client.errors import InvalidArgument

if TYPE_CHECKING:
    from cachenode_client._client import CacheClient
    from cachenode_client._loads import Loader
    from cachenode_client._results import Lookup
    from cachenode_client.blocking import CacheClient as BlockingClient

__all__ = ["BlockingVersioned", "Versioned"]

T = TypeVar("T")


class _Derived:
    """The keys of one thing.

    Attributes:
        prefix: What they begin with: the parts, each followed by a colon.
    """

    def __init__(self, parts: tuple[str | int, ...], namespace: str | None) -> None:
        if not parts:
            raise InvalidArgument("versioned: name the thing, as in versioned('user', 7)")
        self.prefix = "".join(f"{_part(part)}:" for part in parts)
        self.namespace = namespace

    def key(self, name: str = "") -> str:
        """Return the whole key of a derived entry; it may be used with the client's own calls too."""
        if not isinstance(name, str):
            raise InvalidArgument(f"name: must be str, not {type(name).__name__}")
        return self.prefix + name

    def _keys(self, names: Iterable[str]) -> dict[str, str]:
        """Return the names by key."""
        return {self.key(name): name for name in names}


def _part(part: str | int) -> str:
    if type(part) not in (str, int) or part == "":
        raise InvalidArgument("versioned: each part must be a whole number or a text that is not empty")
    return str(part).replace("%", "%25").replace(":", "%3A")


def _named(names: Mapping[str, str], found: Mapping[str, T]) -> dict[str, T]:
    return {names[key]: value for key, value in found.items()}


class Versioned(_Derived):
    """What is derived from one thing, with the asyncio client: `CacheClient.versioned`.

    The calls are the client's, with names in place of keys, and raise what those raise.
    """

    def __init__(self, client: CacheClient, parts: tuple[str | int, ...], namespace: str | None) -> None:
        super().__init__(parts, namespace)
        self._client = client

    async def bump(self, *, mode: Mode = "remove", ack: Ack = "all", timeout_s: float | None = None) -> None:
        """Begin a new version: no entry that was derived before is found any more, anywhere, once this has returned.

        What is being loaded meanwhile is given to those who wait for it, and not stored. Things whose parts begin with
        all of this one's go too: `versioned("user")` covers `versioned("user", 7)`.

        Args:
            mode: "expire": old entries may be served for the namespace's ``stale_s``, marked stale.
            ack: As `CacheClient.invalidate`.
            timeout_s: As `CacheClient.invalidate`.

        Raises:
            CacheError: As `CacheClient.invalidate`, under ``on_error="miss"`` too.
        """
        await self._client.invalidate(
            prefix=self.prefix, mode=mode, ack=ack, timeout_s=timeout_s, namespace=self.namespace
        )

    async def get(self, name: str = "", default: Any = None, *, timeout_s: float | None = None) -> Any:
        """Return a derived value, or `default` if there is none of this version."""
        return await self._client.get(self.key(name), default, timeout_s=timeout_s, namespace=self.namespace)

    async def lookup(self, name: str = "", *, timeout_s: float | None = None) -> Lookup:
        """Return a derived value and what is known of it."""
        return await self._client.lookup(self.key(name), timeout_s=timeout_s, namespace=self.namespace)

    async def get_many(self, names: Iterable[str], *, timeout_s: float | None = None) -> dict[str, Any]:
        """Return the derived values that there are, by name."""
        keys = self._keys(names)
        return _named(keys, await self._client.get_many(keys, timeout_s=timeout_s, namespace=self.namespace))

    async def set(
        self,
        name: str,
        value: Any,
        *,
        ttl_s: float | None = None,
        tags: Iterable[str] | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Store a derived value; return its version among the writes of its key.

        A value that was computed before a bump and is set after it belongs to the new version: `get_or_load` notices.
        """
        return await self._client.set(
            self.key(name), value, ttl_s=ttl_s, tags=tags, timeout_s=timeout_s, namespace=self.namespace
        )

    async def set_many(
        self, values: Mapping[str, Any], *, ttl_s: float | None = None, timeout_s: float | None = None
    ) -> dict[str, int]:
        """Store derived values; return their versions by name."""
        keys = self._keys(values)
        stored = await self._client.set_many(
            {key: values[name] for key, name in keys.items()},
            ttl_s=ttl_s,
            timeout_s=timeout_s,
            namespace=self.namespace,
        )
        return _named(keys, stored)

    async def get_or_load(
        self,
        name: str,
        loader: Loader,
        *,
        default: Any = None,
        ttl_s: float | None = None,
        tags: Iterable[str] | None = None,
        timeout_s: float | None = None,
        lease_s: float | None = None,
        soft_timeout_s: float | None = None,
    ) -> Any:
        """Return a derived value; if there is none of this version it is loaded, once in the whole cluster."""
        return await self._client.get_or_load(
            self.key(name),
            loader,
            default=default,
            ttl_s=ttl_s,
            tags=tags,
            timeout_s=timeout_s,
            lease_s=lease_s,
            soft_timeout_s=soft_timeout_s,
            namespace=self.namespace,
        )

    async def delete(self, name: str = "", *, ack: Ack = "all", timeout_s: float | None = None) -> bool:
        """Remove one derived value. Return True if there was one."""
        return await self._client.delete(self.key(name), ack=ack, timeout_s=timeout_s, namespace=self.namespace)

    def __repr__(self) -> str:
        return f"<Versioned {len(self.prefix)} characters>"


class BlockingVersioned(_Derived):
    """What is derived from one thing, with the blocking client (see `Versioned`)."""

    def __init__(self, client: BlockingClient, parts: tuple[str | int, ...], namespace: str | None) -> None:
        super().__init__(parts, namespace)
        self._client = client

    def bump(self, *, mode: Mode = "remove", ack: Ack = "all", timeout_s: float | None = None) -> None:
        """Begin a new version (see the asyncio client)."""
        self._client.invalidate(prefix=self.prefix, mode=mode, ack=ack, timeout_s=timeout_s, namespace=self.namespace)

    def get(self, name: str = "", default: Any = None, *, timeout_s: float | None = None) -> Any:
        """Return a derived value, or `default` if there is none of this version."""
        return self._client.get(self.key(name), default, timeout_s=timeout_s, namespace=self.namespace)

    def lookup(self, name: str = "", *, timeout_s: float | None = None) -> Lookup:
        """Return a derived value and what is known of it."""
        return self._client.lookup(self.key(name), timeout_s=timeout_s, namespace=self.namespace)

    def get_many(self, names: Iterable[str], *, timeout_s: float | None = None) -> dict[str, Any]:
        """Return the derived values that there are, by name."""
        keys = self._keys(names)
        return _named(keys, self._client.get_many(keys, timeout_s=timeout_s, namespace=self.namespace))

    def set(
        self,
        name: str,
        value: Any,
        *,
        ttl_s: float | None = None,
        tags: Iterable[str] | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Store a derived value; return its version among the writes of its key (see the asyncio client)."""
        return self._client.set(
            self.key(name), value, ttl_s=ttl_s, tags=tags, timeout_s=timeout_s, namespace=self.namespace
        )

    def set_many(
        self, values: Mapping[str, Any], *, ttl_s: float | None = None, timeout_s: float | None = None
    ) -> dict[str, int]:
        """Store derived values; return their versions by name."""
        keys = self._keys(values)
        stored = self._client.set_many(
            {key: values[name] for key, name in keys.items()},
            ttl_s=ttl_s,
            timeout_s=timeout_s,
            namespace=self.namespace,
        )
        return _named(keys, stored)

    def get_or_load(
        self,
        name: str,
        loader: Callable[[], Any],
        *,
        default: Any = None,
        ttl_s: float | None = None,
        tags: Iterable[str] | None = None,
        timeout_s: float | None = None,
        lease_s: float | None = None,
        soft_timeout_s: float | None = None,
    ) -> Any:
        """Return a derived value; if there is none of this version it is loaded, once in the whole cluster."""
        return self._client.get_or_load(
            self.key(name),
            loader,
            default=default,
            ttl_s=ttl_s,
            tags=tags,
            timeout_s=timeout_s,
            lease_s=lease_s,
            soft_timeout_s=soft_timeout_s,
            namespace=self.namespace,
        )

    def delete(self, name: str = "", *, ack: Ack = "all", timeout_s: float | None = None) -> bool:
        """Remove one derived value. Return True if there was one."""
        return self._client.delete(self.key(name), ack=ack, timeout_s=timeout_s, namespace=self.namespace)

    def __repr__(self) -> str:
        return f"<BlockingVersioned {len(self.prefix)} characters>"
