"""What both clients are apart from waiting: their options, the groups of their calls, and how results become values."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from cachenode_api.errors import ContractError
from cachenode_api.records import HEADER, HEADER_BYTES, STALE, TAGGED
from cachenode_api.tags import canonical_tags, pack_tags, split_tags
from cachenode_client import _fork
from cachenode_client._address import parse_address
from cachenode_client._batches import GET, LEASE, LEASE_BITS, SET, Group
from cachenode_client._channels import Channels, Tls
from cachenode_client._checks import (
    Ack,
    DependsOn,
    Key,
    checked_ack,
    checked_key,
    checked_namespace,
    checked_near_cache,
    checked_parents,
    checked_timeout,
)
from cachenode_client._engine import Encoded
from cachenode_client._landings import K, Landings
from cachenode_client._near import ENCODED, NearCache, NearEntry, boot_clock, keyed
from cachenode_client._results import Lookup
from cachenode_client._stats import ClientStats
from cachenode_client._values import DEFAULT_COMPRESS_FROM_BYTES, DEFAULT_MAX_VALUE_BYTES, Codec
from cachenode_client.errors import (
    CacheError,
    CacheUnavailable,
    ClientClosed,
    DecodeError,
    ForkedClient,
    InvalidArgument,
    ManyFailed,
    from_contract,
)
from cachenode_client.serializers import Serializer

__all__ = ["ClientCore", "Detailed", "K", "many_keys", "many_values"]

T = TypeVar("T")

Detailed = tuple[bytes, int, float]
"""A record, its layer, and the clock against which its deadline counts."""

LOAD_TIMEOUT_S = 10.0
DEFAULT_NEAR_BYTES = 32 << 20
PLAIN = b"\x00\x00\x00\x00"
FLAGS_AT = 4
_LAYERS: dict[int, Literal["l1", "l2"]] = {1: "l1", 2: "l2"}


class ClientCore:
    """Options, counters and the decoding of results; see `cachenode_client.CacheClient` for the arguments."""

    def __init__(
        self,
        address: str = "127.0.0.1:7401",
        *,
        namespace: str = "",
        timeout_s: float = 1.0,
        on_error: Literal["raise", "miss"] = "raise",
        serializer: str | Serializer = "json",
        compression: str | None = None,
        compress_from_bytes: int = DEFAULT_COMPRESS_FROM_BYTES,
        max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES,
        near_cache: int | None = DEFAULT_NEAR_BYTES,
        near_share: bool = False,
        tls: Tls | None = None,
        token: str | Path | None = None,
        client_name: str = "",
    ) -> None:
        if on_error not in ("raise", "miss"):
            raise InvalidArgument('on_error: must be "raise" or "miss"')
        self._addresses = parse_address(address)
        self._timeout_s = checked_timeout(timeout_s)
        self._namespace = checked_namespace(namespace)
        self._codec = Codec(
            serializer,
            compression=compression,
            compress_from_bytes=compress_from_bytes,
            max_value_bytes=max_value_bytes,
        )
        self._misses_on_error = on_error == "miss"
        self._channels = Channels(tls, token)
        try:
            self._channels.metadata()
        except CacheUnavailable as error:
            raise InvalidArgument(f"token: {error}") from None
        self._client_name = client_name
        self._near = None
        if near_cache is not None:
            self._near = NearCache(checked_near_cache(near_cache), decode=self._decode, share=near_share)
        self._copies: Mapping[str | bytes, NearEntry] = (
            {} if self._near is None else self._near.entries(self._namespace)
        )
        self._get_group: Group = (GET, self._namespace, self._timeout_s, False, 0, False, b"")
        self._set_group: Group = (SET, self._namespace, self._timeout_s, False, 0, False, b"")
        self._closed = False
        self._forked = False
        self._stats = ClientStats()
        self._landings = Landings(
            self._stats,
            timeout_s=self._timeout_s,
            misses_on_error=self._misses_on_error,
            encode=self.encoded,
            found=self._found,
        )
        self._equip()
        _fork.watch(weakref.ref(self))

    def _equip(self) -> None:
        """Make what this client's way of waiting needs."""

    def after_fork(self) -> None:
        """Forget what does not survive a fork; called in the child."""
        self._forked = True
        self._near, self._copies = None, {}

    def _check_usable(self) -> None:
        if self._forked:
            raise ForkedClient
        if self._closed:
            raise ClientClosed

    def _group(
        self,
        operation: int,
        namespace: str | None,
        timeout_s: float | None,
        *,
        detailed: bool = False,
        number: int = 0,
        ack: Ack = "all",
        depends_on: DependsOn | None = None,
    ) -> Group:
        namespace = self._namespace if namespace is None else checked_namespace(namespace)
        return (
            operation,
            namespace,
            self._timeout_s if timeout_s is None else checked_timeout(timeout_s),
            detailed,
            number,
            checked_ack(ack),
            b"" if depends_on is None else checked_parents(depends_on, namespace),
        )

    def _traits_of(self, operation: str, namespace: str | None) -> dict[str, str]:
        """Return what a span says of a call."""
        name = self._namespace if namespace is None else checked_namespace(namespace)
        return {"db.system.name": "cachenode", "db.namespace": name, "db.operation.name": operation}

    # The near cache.

    def _near_entry(self, key: Key, namespace: str | None) -> NearEntry | None:
        """Return the copy of a key's value that may be served now, if there is one."""
        near = self._near
        if near is None:
            return None
        name = self._namespace if namespace is None else checked_namespace(namespace)
        if type(key) is bytes:
            key = keyed(key)
        try:
            entry = near.entries(name).get(key)
        except TypeError:  # not hashable, so not a key: whoever checks it says so
            return None
        if entry is None:
            return None
        now = boot_clock()
        if not (now < entry.deadline and now < entry.lease.until):
            revived = near.revive(name, key, entry, now)
            if revived is None:
                return None
        entry.marked = True
        return entry

    def _near_value(self, entry: NearEntry) -> Any:
        self._stats.near_hits += 1
        return self._decode(entry.record) if entry.value is ENCODED else entry.value

    def _near_lookup(self, entry: NearEntry) -> Lookup:
        _, flags, version, deadline = HEADER.unpack_from(entry.record)
        return Lookup(
            found=True,
            value=self._near_value(entry),
            version=version,
            ttl_s=None if deadline == math.inf else max(0.0, deadline - boot_clock()),
            layer="near",
            stale=bool(flags & STALE),
            flags=flags,
        )

    def _near_time_left(self, entry: NearEntry) -> float:
        deadline: float = HEADER.unpack_from(entry.record)[3]
        return max(0.0, deadline - boot_clock())

    def _near_many(self, keys: list[K], raws: list[bytes], namespace: str | None) -> tuple[dict[K, Any], list[int]]:
        """Return the values of which there are copies, and the positions of the other keys."""
        if self._near is None:
            return {}, list(range(len(keys)))
        found: dict[K, Any] = {}
        missing = []
        for at, key in enumerate(keys):
            entry = self._near_entry(key, namespace)
            if entry is None:
                missing.append(at)
            else:
                found[key] = self._near_value(entry)
        return found, missing

    def _near_stats(self) -> dict[str, int]:
        near = self._near
        return {
            "near_entries": 0 if near is None else len(near),
            "near_bytes": 0 if near is None else near.used_bytes,
            "near_evictions": 0 if near is None else near.evictions,
            "near_invalidations": 0 if near is None else near.invalidated,
        }

    def _condition_failed(self, error: CacheError) -> bool:
        """Return True for the error that is the answer of a conditional write: it was not done, as it should be."""
        return error.reason == "condition_failed"

    def _lease_group(
        self,
        namespace: str | None,
        timeout_s: float | None,
        lease_s: float | None,
        depends_on: DependsOn | None,
        soft_timeout_s: float | None = None,
    ) -> Group:
        waits_s = LOAD_TIMEOUT_S if timeout_s is None else checked_timeout(timeout_s)
        lease_ms = round(1_000 * (waits_s if lease_s is None else checked_timeout(lease_s, field="lease_s")))
        number = max(1, lease_ms)
        if soft_timeout_s is not None:
            number |= round(1_000 * checked_timeout(soft_timeout_s, field="soft_timeout_s")) << LEASE_BITS
        group = self._group(LEASE, namespace, None, depends_on=depends_on)
        return (*group[:2], waits_s, False, number, False, group[6])

    def encoded(self, value: object, tags: Iterable[str] | None = None) -> Encoded:
        """Return a value's bytes and flags, tags included."""
        if tags is None:
            return self._codec.encode(value)
        try:
            canonical = canonical_tags(tags)
        except ContractError as error:
            raise from_contract(error) from None
        data, flags = self._codec.encode(value)
        return (pack_tags(canonical) + data, flags | TAGGED) if canonical else (data, flags)

    def _decode(self, record: bytes) -> Any:
        flags = int.from_bytes(record[4:8], "little")
        data = record[HEADER_BYTES:]
        if flags & TAGGED:
            try:
                data = split_tags(data)[1]
            except ContractError:
                raise DecodeError("value: the tags before the stored bytes are damaged") from None
        return self._codec.decode(data, flags)

    def _found(self, record: bytes, default: Any) -> Any:
        """Return a record's value, or `default` if it is empty."""
        if not record:
            self._stats.misses += 1
            return default
        self._stats.hits += 1
        if record.startswith(PLAIN, FLAGS_AT):
            return record[HEADER_BYTES:]
        return self._decode(record)

    def _looked_up(self, detailed: Detailed) -> Lookup:
        record, layer, now_s = detailed
        if not record:
            self._stats.misses += 1
            return Lookup(found=False)
        self._stats.hits += 1
        _, flags, version, deadline = HEADER.unpack_from(record)
        return Lookup(
            found=True,
            value=self._decode(record),
            version=version,
            ttl_s=None if deadline == math.inf else max(0.0, deadline - now_s),
            layer=_LAYERS.get(layer, "l1"),
            stale=bool(flags & STALE),
            flags=flags,
        )

    def _time_left(self, detailed: Detailed) -> float | None:
        record, _, now_s = detailed
        if not record:
            return None
        deadline: float = HEADER.unpack_from(record)[3]
        return max(0.0, deadline - now_s)

    def _found_many(
        self, keys: list[K], results: list[Any], errors: dict[int, CacheError], near: dict[K, Any]
    ) -> dict[K, Any]:
        decode, value_at = self._decode, HEADER_BYTES
        found = {
            key: record[value_at:] if record.startswith(PLAIN, FLAGS_AT) else decode(record)
            for key, record in zip(keys, results, strict=True)
            if record
        }
        self._stats.hits += len(found)
        self._stats.misses += len(keys) - len(found) - len(errors)
        if near:
            found |= near
        return self._checked_many(found, {keys[at]: error for at, error in errors.items()})

    def _stored_many(self, keys: list[K], results: list[Any], errors: dict[int, CacheError]) -> dict[K, int]:
        done = {keys[at]: version for at, version in enumerate(results) if version and at not in errors}
        self._stats.sets += len(done)
        return self._checked_many(done, {keys[at]: error for at, error in errors.items()})

    def _invalidated(self, raws: list[bytes], results: list[Any], errors: dict[int, CacheError]) -> int:
        """Return how many keys had a value."""
        found = sum(bool(result) for at, result in enumerate(results) if at not in errors)
        if errors:
            self._stats.errors += len(errors)
            done = {raws[at]: version for at, version in enumerate(results) if at not in errors}
            raise ManyFailed(done, {raws[at]: error for at, error in errors.items()})
        return found

    def _checked_many(self, done: dict[K, T], errors: dict[K, CacheError]) -> dict[K, T]:
        if not errors:
            return done
        self._stats.errors += len(errors)
        if not self._misses_on_error or any(is_callers_fault(error) for error in errors.values()):
            raise ManyFailed(done, errors)
        return done

    def _missed(self, error: CacheError, instead: T) -> T:
        """Return `instead` if the client takes errors for misses; raise otherwise."""
        self._stats.errors += 1
        if not self._misses_on_error or is_callers_fault(error):
            raise error
        return instead


def is_callers_fault(error: CacheError) -> bool:
    """Return True for what is raised even when errors count as misses: the program must be corrected."""
    return isinstance(error, (InvalidArgument, ClientClosed, ForkedClient)) or error.reason == "wrong_loop"


def many_keys(keys: Iterable[K], *, once: bool = False) -> tuple[list[K], list[bytes]]:
    """Return the keys as given and as bytes; with `once` each one time."""
    if isinstance(keys, (str, bytes)):  # would be taken for keys of one character each
        raise InvalidArgument(f"keys: must be several keys, as in a list, not one {type(keys).__name__}")
    originals = list(dict.fromkeys(keys) if once else keys)
    return originals, [checked_key(key) for key in originals]


def many_values(
    core: ClientCore, values: Mapping[K, Any], tags: Iterable[str] | None
) -> tuple[list[K], list[bytes], list[Encoded]]:
    """Return the keys as given, as bytes, and the encoded values; wrong ones are found before anything is sent."""
    originals, raws = many_keys(values)
    return originals, raws, [core.encoded(value, tags) for value in values.values()]
