"""Checks of what callers pass in. Each failure names the field and the limit, never a key or a value."""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from cachenode_api.dependencies import Parent, canonical_parents, pack_references, parent_of, split_references
from cachenode_api.errors import ContractError
from cachenode_api.keys import MAX_KEY_BYTES, canonical_key, check_namespace
from cachenode_api.records import NO_TTL_MS
from cachenode_api.selectors import EVERYTHING, SelectorKind, make_selector
from cachenode_api.tags import canonical_tags
from cachenode_api.version import ABSENT_VERSION
from cachenode_client.errors import InvalidArgument, InvalidTtl, from_contract

__all__ = [
    "Ack",
    "DependsOn",
    "Key",
    "Mode",
    "checked_ack",
    "checked_delta",
    "checked_key",
    "checked_keys",
    "checked_mode",
    "checked_namespace",
    "checked_near_cache",
    "checked_parents",
    "checked_selection",
    "checked_timeout",
    "checked_ttl",
    "checked_version",
    "checked_watch",
    "sdk_version",
]

Key = str | bytes
DependsOn = Iterable[str | bytes | Parent | tuple[str, str | bytes]]
"""What a value depends on: keys of its own namespace, or with that of another."""
Ack = Literal["all", "owner"]
"""When a write that makes copies untrue is answered: once nobody serves them, or once the owner has done its part."""
Mode = Literal["remove", "expire"]
"""What becomes of what is declared untrue: it goes, or it may be served for a while, marked stale."""

_MAX_TTL_S = 100 * 365 * 86_400.0
_MAX_TIMEOUT_S = 86_400.0
_LEAST_NEAR_BYTES = 64 << 10
_MAX_DELTA = (1 << 63) - 1


def checked_key(key: Key) -> bytes:
    """Return a key's bytes."""
    if type(key) is bytes:
        raw = key
    elif type(key) is str and key.isascii():
        raw = key.encode()
    else:
        return _canonical(key)
    return raw if 0 < len(raw) <= MAX_KEY_BYTES else _canonical(key)


def _canonical(key: Key) -> bytes:
    try:
        return canonical_key(key)
    except ContractError as error:
        raise from_contract(error) from None


def checked_keys(keys: Key | Iterable[Key] | None) -> list[bytes]:
    """Return the bytes of one key or several, each once."""
    if keys is None:
        return []
    if isinstance(keys, (str, bytes)):
        return [checked_key(keys)]
    return list(dict.fromkeys(checked_key(key) for key in keys))


def checked_parents(depends_on: DependsOn, namespace: str, others: bytes = b"") -> bytes:
    """Return the block of what a value of a namespace depends on, empty for nothing; `others` is a block of more."""
    try:
        if others:
            own = canonical_parents(depends_on, namespace)
            depends_on = [*map(parent_of, split_references(others)), *map(parent_of, own)]
        return pack_references(canonical_parents(depends_on, namespace))
    except ContractError as error:
        raise from_contract(error) from None


def checked_selection(
    raws: list[bytes],
    prefix: Key | None,
    pattern: Key | None,
    tags: Iterable[str] | None,
    namespace: str | None,
    *,
    whole: bool,
) -> tuple[list[bytes], list[int]]:
    """Return the texts and kinds of an invalidation's selectors, besides its keys.

    Args:
        raws: The keys.
        prefix: As `CacheClient.invalidate`, as all below.
        pattern: Checked as a glob.
        tags: An empty list of them does not mean everything.
        namespace: Given alone, all of it.
        whole: Whether no keys were named, not even none of them.

    Raises:
        InvalidArgument: One of them cannot be used, or nothing was named.
    """
    wanted = [(SelectorKind.PREFIX, prefix), (SelectorKind.GLOB, pattern)]
    texts = [(kind, text.encode() if isinstance(text, str) else text) for kind, text in wanted if text is not None]
    try:
        texts += [(SelectorKind.TAG, tag) for tag in canonical_tags(tags or ())]
        for kind, text in texts:
            make_selector(kind, text)
    except ContractError as error:
        raise from_contract(error) from None
    alone = prefix is None and pattern is None and tags is None
    if whole and alone and namespace is not None:
        texts = [(SelectorKind.NAMESPACE, EVERYTHING)]
    if not raws and not texts:
        raise InvalidArgument("invalidate: name keys, a prefix, a pattern, tags, or a namespace alone for all of it")
    return [text for _, text in texts], [kind.value for kind, _ in texts]


def checked_namespace(name: str) -> str:
    """Return a namespace's name."""
    try:
        return check_namespace(name)
    except ContractError as error:
        raise from_contract(error) from None


def checked_watch(name: str | None, own: str) -> str:
    """Return the namespace to watch: a client's own for None, empty for all."""
    if name is None:
        return own
    return "" if name == "*" else checked_namespace(name)


def checked_ack(ack: Ack) -> bool:
    """Return whether the owner's part is enough."""
    if ack not in {"all", "owner"}:
        raise InvalidArgument('ack: must be "all" or "owner"')
    return ack == "owner"


def checked_mode(mode: Mode) -> int:
    """Return the number of a mode in a group of calls: 1 to expire."""
    if mode not in {"remove", "expire"}:
        raise InvalidArgument('mode: must be "remove" or "expire"')
    return int(mode == "expire")


def checked_near_cache(max_bytes: int) -> int:
    """Return the budget of a near cache."""
    if type(max_bytes) is not int or max_bytes < _LEAST_NEAR_BYTES:
        raise InvalidArgument(f"near_cache: must be at least {_LEAST_NEAR_BYTES:,} bytes, or None for no near cache")
    return max_bytes


def checked_ttl(ttl_s: float | None) -> int:
    """Return a TTL for the wire, in milliseconds, at least one."""
    if type(ttl_s) is int and 0 < ttl_s <= _MAX_TTL_S:  # nearly every call
        return ttl_s * 1_000
    if ttl_s is None:
        return 0
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, (int, float)):
        raise InvalidTtl(f"ttl_s: must be a number of seconds, not {type(ttl_s).__name__}")
    if ttl_s == math.inf:
        return NO_TTL_MS
    if not 0 < ttl_s <= _MAX_TTL_S:
        raise InvalidTtl(f"ttl_s: must be above 0 and at most {_MAX_TTL_S:,.0f} seconds, or infinite; not {ttl_s:,}")
    return max(1, round(ttl_s * 1_000))


def checked_timeout(timeout_s: float, *, field: str = "timeout_s") -> float:
    """Return a timeout."""
    if type(timeout_s) not in (int, float) or not 0 < timeout_s <= _MAX_TIMEOUT_S:
        raise InvalidArgument(f"{field}: must be above 0 and at most 86,400 seconds")
    return float(timeout_s)


def checked_version(if_version: int | None) -> int:
    """Return the version that a write asks for, 0 for any."""
    if if_version is None:
        return 0
    if type(if_version) is not int or not 0 < if_version < ABSENT_VERSION:
        raise InvalidArgument("if_version: must be the version of a value, as `lookup` and `set` return it")
    return if_version


def checked_delta(delta: int) -> int:
    """Return what is added to a counter."""
    if type(delta) is not int or abs(delta) > _MAX_DELTA:
        raise InvalidArgument("delta: must be a whole number of at most 64 bits")
    return delta


def sdk_version() -> str:
    """Return the version of this distribution."""
    try:
        return version("cachenode-client")
    except PackageNotFoundError:
        return "unknown"
