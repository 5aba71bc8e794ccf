"""The configuration tree: every field with its type, default, limits and one sentence of help.

A field is checked by itself here; what fields mean together is checked in `cachenode.config.checks`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from cachenode.config.values import NO_URL, parse_address, parse_list, parse_size, parse_ttl, parse_url
from cachenode.core.origin_limits import OriginLimits
from cachenode.core.policy import MOST_OF_A_TTL, NamespacePolicy
from cachenode_api.keys import DEFAULT_NAMESPACE, check_namespace

__all__ = [
    "ClusterConfig",
    "L2Config",
    "LimitsConfig",
    "LogConfig",
    "MemoryConfig",
    "NamespaceConfig",
    "NodeConfig",
    "NodeSection",
    "OriginConfig",
    "Secret",
    "Size",
]

_MIB = 1024 * 1024
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")


class Secret:
    """Marks a field whose value may hold a password: it is shown only in part."""


class Size:
    """Marks a field that holds a number of bytes: it is shown with a unit."""


def _not_bool(value: object) -> object:
    # pydantic takes True for 1, so `weight = true` would pass for a number.
    if isinstance(value, bool):
        # pydantic makes a problem of a ValueError; a TypeError would go through.
        raise ValueError("must be a number")  # noqa: TRY004
    return value


def _identifier(text: str) -> str:
    if not _ID.match(text):
        raise ValueError("must be 1 to 128 of A-Z a-z 0-9 _ . - and begin with a letter or digit")
    return text


def _default_id() -> str:
    """Return this machine's name, or what of it an id may hold."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()).strip("-.")[:128] or "node"


def _address(text: str) -> str:
    parse_address(text)
    return text


def _listen(text: str) -> str:
    parse_address(text, any_port=True)
    return text


def _optional(check: Any) -> AfterValidator:  # noqa: ANN401 - a function from text to text
    return AfterValidator(lambda text: check(text) if text else text)


Count = Annotated[int, BeforeValidator(_not_bool)]
Bytes = Annotated[int, BeforeValidator(parse_size), BeforeValidator(_not_bool), Size()]
Seconds = Annotated[float, BeforeValidator(_not_bool), Field(gt=0, le=86_400, allow_inf_nan=False)]
Ttl = Annotated[float, BeforeValidator(parse_ttl), BeforeValidator(_not_bool), Field(gt=0)]
Share = Annotated[float, BeforeValidator(_not_bool), Field(gt=0, le=1_000_000, allow_inf_nan=False)]
Part = Annotated[float, BeforeValidator(_not_bool), Field(ge=0, allow_inf_nan=False)]
Id = Annotated[str, AfterValidator(_identifier)]
ClusterName = Annotated[Id, Field(max_length=64)]
Address = Annotated[str, AfterValidator(_address)]
Listen = Annotated[str, AfterValidator(_listen)]
RedisUrl = Annotated[str, AfterValidator(parse_url), Secret()]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)


class NodeSection(_Section):
    """This process."""

    id: Id = Field(
        default_factory=_default_id, description="Name of this node, unique in its cluster; unset: the machine's name"
    )
    listen: Listen = Field(
        "127.0.0.1:7401", description="Address for clients and peers (gRPC); port 0 takes a free one"
    )
    advertise: Annotated[str, _optional(_listen)] = Field(
        "", description='Address at which others reach this node (port 0: the bound one); "": the one it listens on'
    )
    http_listen: Annotated[str, _optional(_listen)] = Field(
        "127.0.0.1:7402", description='Address of /metrics, /livez and /readyz; "" turns them off'
    )
    insecure: bool = Field(False, description="Allow addresses that others than this machine can reach, without TLS")
    weight: Count = Field(1, ge=1, le=100, description="Share of the keys, relative to the other nodes")
    reflection: bool = Field(False, description="Let gRPC tools list the services")


class ClusterConfig(_Section):
    """The nodes that work together."""

    name: ClusterName = Field(
        "cachenode", description="Name of the cluster; nodes of one registry with other names stay apart"
    )
    discovery: Literal["none", "static", "dns", "redis"] = Field(
        "none", description="How nodes find each other: not at all, by a list, by DNS, or by leases in Redis"
    )
    seeds: Annotated[tuple[Address, ...], BeforeValidator(parse_list)] = Field(
        (), description="Addresses of the nodes, for discovery static"
    )
    dns_name: Annotated[str, _optional(_address)] = Field(
        "", description="name:port whose addresses are the nodes, for discovery dns"
    )
    lease_s: Seconds = Field(
        4.0, description="A node that has not renewed for this long is out; it renews four times a lease"
    )
    heartbeat_s: Seconds = Field(0.5, description="Time between heartbeats of linked nodes")
    hot_reads_per_s: Count = Field(
        100,
        ge=0,
        le=1_000_000,
        description="Reads a second, sent on by other nodes, from which on those keep copies of a key; 0: never",
    )
    bootstrap_wait_s: Annotated[float, BeforeValidator(_not_bool)] = Field(
        2.0, ge=0, le=600, allow_inf_nan=False, description="How long a starting node waits for others before it serves"
    )


class MemoryConfig(_Section):
    """L1, this node's memory."""

    max_bytes: Bytes = Field(256 * _MIB, ge=_MIB, description="Memory for entries, bookkeeping included")
    copies_bytes: Bytes = Field(
        16 * _MIB, ge=0, description="Memory for copies of other nodes' hot keys, beside max_bytes; 0: none"
    )
    handover_bytes: Bytes = Field(
        64 * _MIB,
        ge=0,
        description="Most bytes of entries handed to new owners when keys move, up to a quarter of max_bytes; 0: none",
    )
    policy: Literal["s3fifo", "lru", "sieve"] = Field(
        "s3fifo", description="Which entries go first when memory is short"
    )


class L2Config(_Section):
    """The Redis or Valkey that all nodes share."""

    url: RedisUrl = Field(NO_URL, description="redis://, rediss:// or unix:// URL; none: no L2")
    registry_url: Annotated[str, _optional(parse_url), Secret()] = Field(
        "", description='URL of the Redis that keeps the membership; "" means that of L2'
    )
    timeout_s: Seconds = Field(
        0.05, description="How long a read may wait for L2 before it goes on without; a write four times as long"
    )
    tombstone_s: Seconds = Field(60.0, description="How long L2 remembers a removal, to refuse older values")
    breaker_failures: Count = Field(3, ge=1, le=1_000, description="Failures in a row after which L2 is left alone")
    breaker_retry_s: Seconds = Field(1.0, description="How long L2 is left alone before it is tried again")


class LimitsConfig(_Section):
    """What one call, client or shutdown may cost."""

    max_frame_bytes: Bytes = Field(4 * _MIB, ge=64 * 1024, le=512 * _MIB, description="Largest gRPC message")
    max_value_bytes: Bytes = Field(_MIB, ge=1, le=64 * _MIB, description="Largest value of any namespace")
    max_batch_keys: Count = Field(10_000, ge=1, le=1_000_000, description="Most keys in one call")
    max_sessions: Count = Field(10_000, ge=1, le=1_000_000, description="Most clients at a time")
    call_timeout_s: Seconds = Field(5.0, description="Time limit of calls that bring none")
    stop_grace_s: Annotated[float, BeforeValidator(_not_bool)] = Field(
        5.0, ge=0, le=3_600, allow_inf_nan=False, description="How long a stopping node waits for calls under way"
    )


class NamespaceConfig(_Section):
    """One namespace; [namespaces.default] holds what others without a table of their own get."""

    ttl_s: Ttl = Field(3_600.0, description="Life of entries whose write names none; never: they do not expire")
    max_value_bytes: Annotated[Bytes, Field(ge=1)] | None = Field(
        None, description="Largest value; unset: limits.max_value_bytes"
    )
    l2: bool = Field(True, description="Whether entries are kept in L2 too")
    holdoff_s: Annotated[float, BeforeValidator(_not_bool)] = Field(
        0.0,
        ge=0,
        le=3_600,
        allow_inf_nan=False,
        description="How long after a removal loaded values are not kept: as long as replicas of the origin may lag",
    )
    ttl_jitter: Part = Field(
        0.0, le=MOST_OF_A_TTL, description="Part of a TTL by which a life may be shorter, at random"
    )
    stale_s: Annotated[float, BeforeValidator(_not_bool)] = Field(
        0.0,
        ge=0,
        le=30 * 86_400,
        allow_inf_nan=False,
        description="How long after its TTL a loaded value is still served while it is loaded anew",
    )
    refresh_ahead: Part = Field(
        0.0,
        le=MOST_OF_A_TTL,
        description="Part of a TTL before its end from which on a request has the value loaded anew",
    )
    xfetch_beta: Part = Field(
        0.0,
        le=100,
        description="How much earlier values that take long to load are loaded anew; 1 to 1.5, 0: not at all",
    )
    origin: str = Field("", description='Name of the origin that nodes load absent values from; "": none')
    negative_ttl_s: Annotated[float, BeforeValidator(_not_bool)] = Field(
        0.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="How long it is believed that the origin has nothing for a key; 0: not at all",
    )
    share: Share = Field(1.0, description="Share of memory when it is short, relative to the other namespaces")


class OriginConfig(_Section):
    """Where truth lives, and how hard a node may ask for it."""

    loader: str = Field("", description="module:name of what loads a value, or the name of an installed loader")
    options: Annotated[Mapping[str, Any], AfterValidator(MappingProxyType)] = Field(
        default_factory=dict, description="A table of what the loader is made with; never shown"
    )
    batch_keys: Count = Field(1, ge=1, le=10_000, description="Most keys in a call; above 1 the loader takes a list")
    batch_window_s: Annotated[float, BeforeValidator(_not_bool)] = Field(
        0.0, ge=0, le=1, allow_inf_nan=False, description="How long the first key of a batch waits for others"
    )
    concurrency: Count = Field(16, ge=1, le=10_000, description="Calls at a time, of each node; more keys wait")
    timeout_s: Seconds = Field(5.0, description="How long a call may take")
    attempts: Count = Field(3, ge=1, le=100, description="Calls for a key until its load counts as failed")
    breaker_failures: Count = Field(
        5, ge=1, le=1_000, description="Failed calls in a row after which the origin is left alone"
    )
    breaker_retry_s: Seconds = Field(1.0, description="How long it is left alone before it is tried again")

    def limits(self) -> OriginLimits:
        """Return how hard a node may ask it."""
        return OriginLimits(
            concurrency=self.concurrency,
            timeout_s=self.timeout_s,
            attempts=self.attempts,
            window_s=self.batch_window_s,
            breaker_failures=self.breaker_failures,
            breaker_retry_s=self.breaker_retry_s,
        )


class LogConfig(_Section):
    """What the node says on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe lines to write")
    format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, JSON elsewhere")


class NodeConfig(_Section):
    """The configuration of one node, valid as a whole if `load_config` made it."""

    node: NodeSection = Field(default_factory=NodeSection)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    memory: MemoryConfig = Field(default_factory=MemoryConfig)
    l2: L2Config = Field(default_factory=L2Config)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    namespaces: Annotated[Mapping[str, NamespaceConfig], AfterValidator(MappingProxyType)] = Field(
        default_factory=dict, description="Policies by namespace"
    )
    origins: Annotated[Mapping[str, OriginConfig], AfterValidator(MappingProxyType)] = Field(
        default_factory=dict, description="Origins by name"
    )
    strict_namespaces: bool = Field(
        False, description="Refuse namespaces without a table of their own; otherwise up to 1,000 are made at first use"
    )
    log: LogConfig = Field(default_factory=LogConfig)

    @field_validator("namespaces", mode="before")
    @classmethod
    def _with_default(cls, value: Mapping[str, Any]) -> dict[str, Any]:
        return {DEFAULT_NAMESPACE: {}, **{check_namespace(name): section for name, section in value.items()}}

    def policies(self) -> tuple[NamespacePolicy, ...]:
        """Return the policy of each configured namespace; "default" is always among them."""
        return tuple(
            NamespacePolicy(
                name=name,
                ttl_s=section.ttl_s,
                max_value_bytes=section.max_value_bytes or self.limits.max_value_bytes,
                l2=section.l2,
                share=section.share,
                holdoff_s=section.holdoff_s,
                ttl_jitter=section.ttl_jitter,
                stale_s=section.stale_s,
                refresh_ahead=section.refresh_ahead,
                xfetch_beta=section.xfetch_beta,
                negative_ttl_s=section.negative_ttl_s,
                origin=section.origin,
            )
            for name, section in self.namespaces.items()
        )

    def registry_url(self) -> str | None:
        """Return the URL of the Redis that keeps the membership, or None if there is none."""
        url = self.l2.registry_url or self.l2.url
        return None if url == NO_URL else url

    def l2_url(self) -> str | None:
        """Return the URL of L2, or None if there is none."""
        return None if self.l2.url == NO_URL else self.l2.url
