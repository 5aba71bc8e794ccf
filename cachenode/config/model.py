"""The configuration tree: every field with its type, default, limits and one sentence of help.

A field is checked by itself here; what fields mean together is checked in `cachenode.config.checks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from cachenode.config.events import EventConfig, EventsConfig
from cachenode.config.fields import (
    Address,
    Bytes,
    ClusterName,
    Count,
    Id,
    Listen,
    OptionalAddress,
    OptionalListen,
    OptionalRedisUrl,
    RedisUrl,
    Seconds,
    Section,
    Span,
    default_id,
)
from cachenode.config.limits import LimitsConfig
from cachenode.config.namespaces import NamespaceConfig
from cachenode.config.origins import OriginConfig
from cachenode.config.regions import RegionsConfig
from cachenode.config.values import NO_URL, is_loopback, parse_address, parse_list
from cachenode.config.warm import WarmConfig
from cachenode.config.write_behind import WriteBehindConfig
from cachenode.core.policy import NamespacePolicy
from cachenode_api.keys import DEFAULT_NAMESPACE, check_namespace

__all__ = [
    "AuditConfig",
    "AuthConfig",
    "ClusterConfig",
    "HttpConfig",
    "L2Config",
    "LimitsConfig",
    "LogConfig",
    "MemoryConfig",
    "NodeConfig",
    "NodeSection",
    "TlsConfig",
    "TracingConfig",
]

_MIB = 1024 * 1024


class NodeSection(Section):
    """This process."""

    id: Id = Field(
        default_factory=default_id, description="Name of this node, unique in its cluster; unset: the machine's name"
    )
    listen: Listen = Field(
        "127.0.0.1:7401", description="Address for clients and peers (gRPC); port 0 takes a free one"
    )
    advertise: OptionalListen = Field(
        "", description='Address at which others reach this node (port 0: the bound one); "": the one it listens on'
    )
    http_listen: OptionalListen = Field(
        "127.0.0.1:7402", description='Address of /metrics, /livez and /readyz; "" turns them off'
    )
    insecure: bool = Field(False, description="Allow addresses that others than this machine can reach, without TLS")
    weight: Count = Field(1, ge=1, le=100, description="Share of the keys, relative to the other nodes")
    reflection: bool = Field(False, description="Let gRPC tools list the services")
    event_loop: Literal["auto", "uvloop", "asyncio"] = Field(
        "auto", description="What the node's event loop is made by; auto: uvloop where it is installed"
    )
    durations: bool = Field(
        True, description="Measure how long operations take: cache_operation_duration_seconds, and the alert on its p99"
    )


class HttpConfig(Section):
    """What the HTTP port serves besides metrics and probes."""

    console: bool | None = Field(
        None,
        description="Whether it serves the web console; unset: if only this machine reaches the port, and not"
        " tls.verify_clients alone says who may connect",
    )


class ClusterConfig(Section):
    """The nodes that work together."""

    name: ClusterName = Field(
        "cachenode", description="Name of the cluster; nodes of one registry with other names stay apart"
    )
    discovery: Literal["none", "static", "dns", "redis", "kubernetes"] = Field(
        "none",
        description="How nodes find each other: not at all, by a list, by DNS, or by leases in Redis or in Kubernetes",
    )
    seeds: Annotated[tuple[Address, ...], BeforeValidator(parse_list)] = Field(
        (), description="Addresses of the nodes, for discovery static"
    )
    dns_name: OptionalAddress = Field("", description="name:port whose addresses are the nodes, for discovery dns")
    kube_namespace: str = Field(
        "", max_length=63, description='Kubernetes namespace of the leases, for discovery kubernetes; "": the pod\'s'
    )
    kubeconfig: str = Field(
        "", description='File that says how to reach the Kubernetes API; "": by the pod\'s service account'
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
    bootstrap_wait_s: Span = Field(
        2.0, le=600, description="How long a starting node waits for others before it serves"
    )


class TlsConfig(Section):
    """How others reach this node, and it its peers, without anybody on the way reading along. Files are PEM."""

    cert_file: str = Field("", description='Certificate of this node; "": no TLS')
    key_file: str = Field("", description="Its private key, without a passphrase")
    ca_file: str = Field("", description='Authorities whose certificates of others are believed; "": the usual ones')
    peer_ca_file: str = Field(
        "",
        description="Authorities of nodes, in place of ca_file's; who links as a peer needs a certificate of theirs",
    )
    verify_clients: bool = Field(
        False, description="Whether clients and peers must show a certificate that ca_file's authorities have signed"
    )
    server_name: str = Field("", description='Name in the peers\' certificates; "": what they are dialled by')


class AuthConfig(Section):
    """Who may do what."""

    tokens_file: str = Field(
        "", description='File of tokens and certificates and their roles; "": whoever connects may do everything'
    )
    peer_token_file: str = Field(
        "",
        description="File with the token, of the role peer, that nodes show each other; "
        ": they are known by their certificates",
    )


class MemoryConfig(Section):
    """L1, this node's memory."""

    max_bytes: Bytes = Field(256 * _MIB, ge=_MIB, description="Memory for entries, bookkeeping included")
    process_bytes: Bytes = Field(
        0,
        description="What the whole process may take, as a container's limit: entries then get two thirds of it or"
        " less, in place of max_bytes; 0: max_bytes counts",
    )
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

    def budget(self) -> int:
        """Return the memory for entries: what is left of the process's memory without its own, or `max_bytes`.

        The process takes a third of what entries take (allocators, frames under way, handover), and 100 MiB.
        """
        if not self.process_bytes:
            return self.max_bytes
        return min(2 * self.process_bytes // 3, 3 * (self.process_bytes - 100 * _MIB) // 4)


class L2Config(Section):
    """The Redis or Valkey that all nodes share."""

    url: RedisUrl = Field(
        NO_URL,
        description="URL of one server (redis://, rediss:// with TLS, unix://), of sentinels"
        " (redis+sentinel://host:port,…/master) or of a Cluster (redis+cluster://host:port,…); none: no L2",
    )
    registry_url: OptionalRedisUrl = Field(
        "", description='URL of the Redis that keeps the membership; "" means that of L2'
    )
    queue_url: OptionalRedisUrl = Field(
        "", description='URL of the Redis that keeps the queues of writes behind; "" means that of L2'
    )
    username: str = Field(
        "", description='User that nodes log in as at every Redis whose URL names none; "": the default user'
    )
    password_file: str = Field("", description="File with that user's password, read again for each connection")
    sentinel_username: str = Field("", description="The same for sentinels, which have users of their own")
    sentinel_password_file: str = Field("", description="File with the password for sentinels")
    ca_file: str = Field(
        "", description='Authorities whose certificates of a Redis are believed, PEM; "": the usual ones'
    )
    cert_file: str = Field(
        "", description="Certificate that nodes show to a Redis, PEM; read again for each connection"
    )
    key_file: str = Field("", description="Its private key, without a passphrase")
    timeout_s: Seconds = Field(
        0.05, description="How long a read may wait for L2 before it goes on without; a write four times as long"
    )
    tombstone_s: Seconds = Field(60.0, description="How long L2 remembers a removal, to refuse older values")
    breaker_failures: Count = Field(3, ge=1, le=1_000, description="Failures in a row after which L2 is left alone")
    breaker_retry_s: Seconds = Field(1.0, description="How long L2 is left alone before it is tried again")


class LogConfig(Section):
    """What the node says on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe lines to write")
    format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, JSON elsewhere")
    slow_ms: Count = Field(
        1_000, ge=0, le=3_600_000, description="Calls of clients that take longer get a line, without keys; 0: none do"
    )
    burst: Count = Field(
        20, ge=0, le=1_000_000, description="Lines of one event in ten seconds; those beyond are counted; 0: any number"
    )


class TracingConfig(Section):
    """Traces for OpenTelemetry; needs the extra "otel"."""

    endpoint: str = Field(
        "", description='Collector that takes OTLP over gRPC, such as http://localhost:4317; "": none'
    )
    ratio: float = Field(
        1.0, ge=0, le=1, description="Part of the traces recorded by their beginners that this node records too"
    )

    @field_validator("endpoint")
    @classmethod
    def _a_url(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must be a URL that begins with http:// or https://")
        return value


class AuditConfig(Section):
    """Who did what that others feel: admin actions, events, and invalidations of more than keys."""

    file: str = Field(
        "", description='File for a JSON line each, opened anew at SIGHUP; "": among the logs, as cachenode.audit'
    )


class NodeConfig(Section):
    """The configuration of one node, valid as a whole if `load_config` made it."""

    node: NodeSection = Field(default_factory=NodeSection)
    http: HttpConfig = Field(default_factory=HttpConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    tls: TlsConfig = Field(default_factory=TlsConfig)
    auth: AuthConfig = Field(default_factory=AuthConfig)
    memory: MemoryConfig = Field(default_factory=MemoryConfig)
    l2: L2Config = Field(default_factory=L2Config)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    namespaces: Annotated[Mapping[str, NamespaceConfig], AfterValidator(MappingProxyType)] = Field(
        default_factory=dict, description="Policies by namespace"
    )
    origins: Annotated[Mapping[str, OriginConfig], AfterValidator(MappingProxyType)] = Field(
        default_factory=dict, description="Origins by name"
    )
    event: tuple[EventConfig, ...] = Field(
        (), description="What events make untrue: entries [[event]] with name, invalidates, tags, namespace and mode"
    )
    events: EventsConfig = Field(default_factory=EventsConfig)
    writebehind: WriteBehindConfig = Field(default_factory=WriteBehindConfig)
    regions: RegionsConfig = Field(default_factory=RegionsConfig)
    warm: tuple[WarmConfig, ...] = Field(
        (), description="Tables [[warm]]: jobs that load keys ahead, with namespace, cron, rate_per_s and a source"
    )
    strict_namespaces: bool = Field(
        False, description="Refuse namespaces without a table of their own; otherwise up to 1,000 are made at first use"
    )
    log: LogConfig = Field(default_factory=LogConfig)
    tracing: TracingConfig = Field(default_factory=TracingConfig)
    audit: AuditConfig = Field(default_factory=AuditConfig)

    @field_validator("namespaces", mode="before")
    @classmethod
    def _with_default(cls, value: Mapping[str, Any]) -> dict[str, Any]:
        return {DEFAULT_NAMESPACE: {}, **{check_namespace(name): section for name, section in value.items()}}

    def http_host(self) -> str:
        """Return what the HTTP port listens on; empty if there is none."""
        return parse_address(self.node.http_listen, any_port=True)[0] if self.node.http_listen else ""

    def serves_console(self) -> bool:
        """Return whether the HTTP port serves the web console."""
        if self.http.console is None:
            return is_loopback(self.http_host()) and not self.asks_for_certificates_alone()
        return self.http.console

    def asks_for_certificates_alone(self) -> bool:
        """Return whether certificates say who may connect, which the HTTP port does not ask for, and no tokens."""
        return self.tls.verify_clients and not self.auth.tokens_file

    def policies(self) -> tuple[NamespacePolicy, ...]:
        """Return the policy of each configured namespace; "default" is always among them."""
        most = self.limits.max_value_bytes
        return tuple(section.policy(name, most, self.regions.name) for name, section in self.namespaces.items())

    def registry_url(self) -> str | None:
        """Return the URL of the Redis that keeps the membership, or None if there is none."""
        url = self.l2.registry_url or self.l2.url
        return None if url == NO_URL else url

    def events_url(self) -> str | None:
        """Return the URL of the Redis that events are read from, or None if there is none."""
        url = self.events.url or self.registry_url()
        return None if url == NO_URL else url

    def l2_url(self) -> str | None:
        """Return the URL of L2, or None if there is none."""
        return None if self.l2.url == NO_URL else self.l2.url

    def queue_url(self) -> str | None:
        """Return the URL of the Redis that keeps the queues of writes behind, None if no namespace has one."""
        if not any(section.write == "behind" for section in self.namespaces.values()):
            return None
        return self.l2.queue_url or self.l2_url()

    def regions_url(self) -> str | None:
        """Return the URL of the Redis that keeps what other regions are to be told, None if there are none."""
        if not self.regions.name:
            return None
        return self.regions.url or self.l2_url()
