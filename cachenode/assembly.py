"""Chooses the adapters that a configuration asks for."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from cachenode.adapters.descriptors import connections_that_fit, http_connections_that_fit
from cachenode.adapters.epochs_redis import RedisEpochs
from cachenode.adapters.event_feeds import EventChannel, EventFeed, EventStream
from cachenode.adapters.http_door import HttpLimits
from cachenode.adapters.l2_redis import RedisL2
from cachenode.adapters.loaders import PluginLoader
from cachenode.adapters.plugins import LOADERS, SINKS, find_plugin
from cachenode.adapters.policies_redis import RedisPolicies
from cachenode.adapters.queue_redis import RedisQueue
from cachenode.adapters.redis_access import RedisAccess
from cachenode.adapters.redis_checks import RedisChecks
from cachenode.adapters.redis_client import connect
from cachenode.adapters.region_links import GrpcRegionLink, RegionTls
from cachenode.adapters.regions_redis import RedisRegions
from cachenode.adapters.registry_leases import LeaseRegistry
from cachenode.adapters.registry_redis import RedisRegistry
from cachenode.adapters.seeds import DnsSeeds
from cachenode.adapters.sinks import PluginSink
from cachenode.adapters.tls import NodeTls, TlsFiles
from cachenode.adapters.tokens import TokenFile, read_secret
from cachenode.core.breaker import Breaker
from cachenode.core.origin_limits import OriginLimits
from cachenode.errors import ConfigError
from cachenode.node.drain import Drain, Outlet
from cachenode.node.membership import RegistryMembership
from cachenode.node.origins import Origin
from cachenode.node.region_links import RegionLinks
from cachenode.node.seed_membership import SeedMembership
from cachenode.node.write_behind import WriteBehind
from cachenode.ports import PeerEvents
from cachenode_api.keys import seat_of

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from cachenode.adapters.peer_links import PeerLinks
    from cachenode.config import NodeConfig
    from cachenode.config.limits import LimitsConfig
    from cachenode.config.model import ClusterConfig
    from cachenode.config.origins import OriginConfig
    from cachenode.config.regions import RegionPeerConfig
    from cachenode.core.redis_settings import Use
    from cachenode.node.events import Events
    from cachenode.node.placement import Placement
    from cachenode.node.service import Node
    from cachenode.ports import Clock, L2Store, PolicyStore, Registry, WriteQueue

__all__ = [
    "Membership",
    "make_drain",
    "make_event_feeds",
    "make_http_limits",
    "make_l2",
    "make_membership",
    "make_options",
    "make_origins",
    "make_policies",
    "make_queue",
    "make_redis_checks",
    "make_regions",
    "make_tls",
    "make_tokens",
]

_log = structlog.get_logger(__name__)

_CONTROL_TIMEOUT_S = 1.0
_FEED_TIMEOUT_S = 5.0
"""Longer than a read that waits for events."""
_WRITE_LIMITS = 4
"""A write to L2 may take so many times as long as a read (`RedisL2`)."""
_SAFE_PUT_S = 2.5
"""A disk that is flushed once a second may take so long to have a write, and a replica as well."""
_RENEWALS_PER_LEASE = 4
_REGION_LOADS = 32
"""Loads that another region is asked for at a time by one node."""
_OF_A_REGION_LEASE = 0.7
"""What a call to another region may take, as a part of the lease of its sender."""


class Membership(PeerEvents, Protocol):
    """What keeps the view fresh."""

    async def start(self) -> None:
        """Begin to join. Returns at once."""

    async def stop(self) -> None:
        """Leave."""

    async def close(self) -> None:
        """Give back connections."""


def _connect(
    config: NodeConfig,
    url: str,
    *,
    timeout_s: float = _CONTROL_TIMEOUT_S,
    connect_timeout_s: float = _CONTROL_TIMEOUT_S,
    most: int,
) -> Redis:
    """Return a client that logs in as the configuration says, with so many connections at most."""
    l2 = config.l2
    access = RedisAccess(
        username=l2.username,
        password_file=l2.password_file,
        sentinel_username=l2.sentinel_username,
        sentinel_password_file=l2.sentinel_password_file,
        ca_file=l2.ca_file,
        cert_file=l2.cert_file,
        key_file=l2.key_file,
    )
    access.check()
    return connect(url, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s, max_connections=most, access=access)


def make_l2(config: NodeConfig) -> L2Store | None:
    """Return the shared store, None if there is none."""
    url = config.l2_url()
    if url is None:
        return None
    write_timeout_s = config.l2.timeout_s * _WRITE_LIMITS
    client = _connect(config, url, timeout_s=write_timeout_s, connect_timeout_s=config.l2.timeout_s, most=12)
    return RedisL2(
        client,
        config.cluster.name,
        timeout_s=config.l2.timeout_s,
        write_timeout_s=write_timeout_s,
        tombstone_s=config.l2.tombstone_s,
    )


def make_queue(config: NodeConfig) -> WriteQueue | None:
    """Return where writes behind wait, None if no namespace has any."""
    url, settings = config.queue_url(), config.writebehind
    if url is None:
        return None
    fast = settings.durability == "fast"
    put_timeout_s = config.l2.timeout_s * _WRITE_LIMITS if fast else _SAFE_PUT_S
    longest_s = max(put_timeout_s, _CONTROL_TIMEOUT_S)
    return RedisQueue(
        _connect(config, url, timeout_s=longest_s, connect_timeout_s=config.l2.timeout_s, most=16),
        config.cluster.name,
        carries_values=url == config.l2_url(),
        durability=settings.durability,
        put_timeout_s=put_timeout_s,
        timeout_s=_CONTROL_TIMEOUT_S,
        tombstone_s=config.l2.tombstone_s,
    )


def make_redis_checks(config: NodeConfig) -> RedisChecks:
    """Return what looks at how the servers are set."""
    uses: dict[str, list[Use]] = {}
    membership = config.registry_url() if config.cluster.discovery == "redis" else None
    places: list[tuple[Use, str | None]] = [
        ("values", config.l2_url()),
        ("membership", membership),
        ("queue", config.queue_url()),
    ]
    for use, url in places:
        if url is not None:
            uses.setdefault(url, []).append(use)
    servers = [(_connect(config, url, most=1), tuple(found)) for url, found in uses.items()]
    return RedisChecks(servers, lease_s=config.cluster.lease_s)


def make_drain(config: NodeConfig, node: Node, queue: WriteQueue, origins: Mapping[str, Origin]) -> Drain:
    """Let a node write behind: give it the queue, and return what brings queued writes to their origins."""
    limits = config.writebehind.limits()
    breaker = Breaker(failures=config.l2.breaker_failures, retry_s=config.l2.breaker_retry_s)
    node.write_behind = WriteBehind(node, queue, limits.max_backlog, breaker)
    outlets = {
        name: Outlet(origin.sink, origin.limits.concurrency, origin.limits.timeout_s)
        for name, origin in origins.items()
        if origin.writable
    }
    return Drain(node, node.write_behind, limits, outlets)


def make_regions(config: NodeConfig, node: Node) -> RegionLinks | None:
    """Let a node tell other regions what changes; return the links to them, None if it belongs to no region.

    Raises:
        ConfigError: A file with a token cannot be used.
    """
    url, settings = config.regions_url(), config.regions
    if url is None:
        return None
    store = RedisRegions(
        _connect(config, url, most=8),
        config.cluster.name,
        [peer.name for peer in settings.peers],
        most=settings.outbox_entries,
        append_timeout_s=config.l2.timeout_s * _WRITE_LIMITS,
        timeout_s=_CONTROL_TIMEOUT_S,
    )
    links = {peer.name: _region_link(config, peer) for peer in settings.peers}
    breaker = Breaker(failures=config.l2.breaker_failures, retry_s=config.l2.breaker_retry_s)
    limits = OriginLimits(
        concurrency=_REGION_LOADS,
        timeout_s=settings.load_timeout_s,
        attempts=1,
        breaker_failures=config.l2.breaker_failures,
        breaker_retry_s=config.l2.breaker_retry_s,
    )
    return RegionLinks(node, store, links, name=settings.name, lease_s=settings.lease_s, breaker=breaker, limits=limits)


def _region_link(config: NodeConfig, peer: RegionPeerConfig) -> GrpcRegionLink:
    tls = None
    if peer.tls or peer.ca_file or config.tls.cert_file:
        own = config.tls
        tls = RegionTls(peer.ca_file or own.ca_file, own.cert_file, own.key_file, peer.server_name)
    token = read_secret(f"regions.peers: {peer.name}: token_file", peer.token_file) if peer.token_file else ""
    timeout_s = _OF_A_REGION_LEASE * config.regions.lease_s
    return GrpcRegionLink(config.regions.name, peer.name, peer.addresses, tls=tls, token=token, timeout_s=timeout_s)


def make_origins(config: NodeConfig, clock: Clock) -> dict[str, Origin]:
    """Return the origins by name.

    Raises:
        ConfigError: Loaders or sinks cannot be made; it carries the problem of each.
    """
    problems: list[str] = []
    origins = {name: _make_origin(name, section, clock, problems) for name, section in config.origins.items()}
    for name, namespace in config.namespaces.items():
        origin = origins.get(namespace.origin)
        if namespace.bloom and not problems and origin is not None and not origin.enumerates:
            problems.append(f"namespaces.{name}.bloom: the loader of origin {namespace.origin} cannot list keys")
    if problems:
        raise ConfigError(problems)
    return origins


def _make_origin(name: str, section: OriginConfig, clock: Clock, problems: list[str]) -> Origin:
    """Return an origin, without what cannot be made of it: that is added to the problems.

    What is named as loader and sink is made once, and closed once.
    """
    both = section.loader == section.sink
    plugin: Any = None
    loader, sink = None, None
    if section.loader:
        with _problems_of(f"origins.{name}.loader", problems):
            plugin = find_plugin(section.loader, section.options, LOADERS)
            loader = PluginLoader(plugin, most_keys=section.batch_keys, threads=section.concurrency, closes=not both)
    if section.sink and not (both and plugin is None):
        with _problems_of(f"origins.{name}.sink", problems):
            plugin = plugin if both else find_plugin(section.sink, section.options, SINKS)
            sink = PluginSink(plugin, most_writes=section.batch_writes, threads=section.concurrency)
    return Origin(name, loader, section.limits(), clock, sink)


@contextlib.contextmanager
def _problems_of(path: str, problems: list[str]) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        problems += [f"{path}: {problem}" for problem in error.problems]


def make_policies(config: NodeConfig) -> PolicyStore | None:
    """Return what keeps changed settings: the Redis of the registry, or else L2; None if there is neither."""
    url = config.registry_url()
    if url is None:
        return None
    client = _connect(config, url, most=1)
    return RedisPolicies(client, config.cluster.name, timeout_s=_CONTROL_TIMEOUT_S)


def make_tls(config: NodeConfig) -> NodeTls | None:
    """Return what the node needs of TLS, None if it has none.

    Raises:
        ConfigError: Files cannot be used; it carries the problem of each.
    """
    tls = config.tls
    if not tls.cert_file:
        return None
    files = TlsFiles(tls.cert_file, tls.key_file, tls.ca_file, tls.server_name, tls.peer_ca_file)
    return NodeTls(files, verify_clients=tls.verify_clients)


def make_tokens(config: NodeConfig) -> tuple[TokenFile | None, str]:
    """Return the tokens that are known, None if nobody is asked for one, and the one that this node shows to its peers.

    Raises:
        ConfigError: A file cannot be used.
    """
    auth = config.auth
    if not auth.tokens_file:
        return None, ""
    tokens = TokenFile(auth.tokens_file)
    if tokens.grants().certificates and not config.tls.verify_clients:
        text = "auth.tokens_file: has certificates, and nobody is asked for one: set tls.verify_clients"
        raise ConfigError([text])
    if not auth.peer_token_file:
        return tokens, ""
    return tokens, read_secret("auth.peer_token_file", auth.peer_token_file)


def make_event_feeds(config: NodeConfig, events: Events, placement: Placement) -> list[EventFeed]:
    """Return what reads events from Redis."""
    url, settings = config.events_url(), config.events
    feeds: list[EventFeed] = []

    def client() -> Redis:
        assert url is not None, "the configuration's checks ask for a URL"
        return _connect(config, url, timeout_s=_FEED_TIMEOUT_S, most=2)

    if settings.stream:
        group, consumer = f"cachenode:{config.cluster.name}", config.node.id
        feeds.append(EventStream(client(), settings.stream, events, group=group, consumer=consumer))
    if settings.channel:
        seat = seat_of(settings.channel)
        feeds.append(EventChannel(client(), settings.channel, events, acts=lambda: placement.owns(seat)))
    return feeds


def make_membership(config: NodeConfig, placement: Placement, clock: Clock, links: PeerLinks) -> Membership:
    """Return what keeps the view fresh: through the registry if there is one, else by seeds, else alone."""
    cluster, url = config.cluster, config.registry_url()
    client = None
    if url is not None and cluster.discovery != "kubernetes":
        client = _connect(config, url, most=2)
    registry: Registry | None = None
    changes: Callable[[], AsyncIterator[int]] | None = None
    if cluster.discovery == "redis":
        assert client is not None, "the configuration's checks ask for a URL"
        registry = RedisRegistry(client, cluster.name, lease_s=cluster.lease_s, timeout_s=_CONTROL_TIMEOUT_S)
    elif cluster.discovery == "kubernetes":
        leases = _lease_registry(cluster, clock)
        registry, changes = leases, leases.changes
    if registry is not None:
        return RegistryMembership(
            registry,
            placement,
            clock,
            lease_s=cluster.lease_s,
            renew_s=cluster.lease_s / _RENEWALS_PER_LEASE,
            farewell=links.say_leaving,
            changes=changes,
        )
    epochs = RedisEpochs(client, cluster.name) if client is not None else None
    seeds = DnsSeeds(cluster.dns_name, links.set_seeds) if cluster.discovery == "dns" else None
    return _SeededMembership(
        placement,
        clock,
        links=links,
        epochs=epochs,
        static=cluster.seeds if cluster.discovery == "static" else (),
        dns=seeds,
        lease_s=cluster.lease_s,
        bootstrap_wait_s=cluster.bootstrap_wait_s,
    )


def _lease_registry(cluster: ClusterConfig, clock: Clock) -> LeaseRegistry:
    from cachenode.adapters.leases_kubernetes import KubernetesLeases

    leases = KubernetesLeases(
        cluster.name,
        namespace=cluster.kube_namespace,
        kubeconfig=cluster.kubeconfig,
        timeout_s=_CONTROL_TIMEOUT_S,
    )
    return LeaseRegistry(leases, cluster.name, clock, lease_s=cluster.lease_s, timeout_s=_CONTROL_TIMEOUT_S)


class _SeededMembership(SeedMembership):
    """Membership by seeds together with where the seeds come from and who counts the epochs."""

    def __init__(
        self,
        placement: Placement,
        clock: Clock,
        *,
        links: PeerLinks,
        epochs: RedisEpochs | None,
        static: tuple[str, ...],
        dns: DnsSeeds | None,
        lease_s: float,
        bootstrap_wait_s: float,
    ) -> None:
        super().__init__(
            placement,
            clock,
            missing=links.unanswered_seeds,
            epoch_after=epochs.after if epochs is not None else _next,
            lease_s=lease_s,
            bootstrap_wait_s=bootstrap_wait_s,
            farewell=links.say_leaving,
        )
        self._links = links
        self._epochs = epochs
        self._static = static
        self._dns = dns

    async def start(self) -> None:
        """Begin to look for the seeds, and to make or take views."""
        self._links.set_seeds(self._static)
        if self._dns is not None:
            await self._dns.start()
        await super().start()

    async def stop(self) -> None:
        """Stop both."""
        await super().stop()
        if self._dns is not None:
            await self._dns.stop()

    async def close(self) -> None:
        """Close the counter of epochs."""
        if self._epochs is not None:
            with contextlib.suppress(OSError):
                await self._epochs.close()


async def _next(epoch: int) -> tuple[int, bool]:
    return epoch + 1, True


def make_http_limits(limits: LimitsConfig) -> HttpLimits:
    """Return what strangers may have of the HTTP port."""
    return HttpLimits(
        connections=http_connections_that_fit(limits.max_http_connections, limits.max_connections),
        header_bytes=limits.max_http_header_bytes,
        handshake_s=limits.handshake_timeout_s,
        timeout_s=limits.http_timeout_s,
        idle_s=limits.http_idle_s,
    )


_NEVER_MS = (1 << 31) - 1


def make_options(limits: LimitsConfig) -> list[tuple[str, Any]]:
    """Return gRPC's options for the listener: how much a stranger may send, how fast, on how many connections.

    A connection over their number is closed as soon as it is accepted, before anything is read from it.
    """
    connections = connections_that_fit(limits.max_connections)
    if connections < limits.max_connections:
        _log.warning("fewer_connections", most=connections, wanted=limits.max_connections, why="file descriptors")
    ping_ms = _ms(limits.min_ping_interval_s)
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", limits.max_frame_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", limits.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_metadata_bytes),  # else what is between is refused at random
        ("grpc.max_concurrent_streams", limits.max_streams),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.max_connection_idle_ms", _ms(limits.connection_idle_s or math.inf)),
        ("grpc.max_connection_age_ms", _ms(limits.connection_age_s or math.inf)),
        ("grpc.max_connection_age_grace_ms", _ms(limits.stop_grace_s)),
        ("grpc.server_handshake_timeout_ms", _ms(limits.handshake_timeout_s)),
        ("grpc.http2.min_ping_interval_without_data_ms", ping_ms),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", ping_ms),
        ("grpc.http2.max_ping_strikes", limits.max_ping_strikes),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.ping_timeout_ms", 5_000),
    ]


def _ms(seconds: float) -> int:
    return int(min(seconds * 1_000, _NEVER_MS))
