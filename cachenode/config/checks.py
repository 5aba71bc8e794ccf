"""What the fields of a configuration must satisfy together."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from cachenode.config.events import event_problems
from cachenode.config.model import NodeConfig
from cachenode.config.namespaces import NamespaceConfig
from cachenode.config.regions import peer_problems
from cachenode.config.sources import FieldPath, did_you_mean
from cachenode.config.values import NO_URL, is_loopback, is_wildcard, parse_address
from cachenode.core.redis_url import read_redis_url
from cachenode_api.keys import DEFAULT_NAMESPACE

__all__ = ["EVENT", "REGION_PEERS", "Conflict", "conflicts"]

EVENT = ("event",)
"""The path of the list of rules."""
_LEAST_PROCESS_BYTES = 128 << 20
REGION_PEERS = ("regions", "peers")
"""The path of the list of other regions."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A rule that a configuration breaks.

    Attributes:
        fields: What the rule looks at; the first is the field to change.
        text: The rule, for people.
    """

    fields: tuple[FieldPath, ...]
    text: str


def conflicts(config: NodeConfig, *, given: Collection[FieldPath]) -> Iterator[Conflict]:
    """Yield every rule that a configuration breaks.

    Args:
        config: The configuration, each field of which is valid by itself.
        given: The fields that a source has set.
    """
    yield from _addresses(config)
    yield from _tls(config)
    yield from _auth(config)
    yield from _l2(config)
    yield from _cluster(config, given)
    yield from _sizes(config)
    yield from _memory(config, given)
    yield from _lives(config)
    yield from _origins(config)
    if config.events.webhook_secret_file and not config.node.http_listen:
        fields = (("events", "webhook_secret_file"), ("node", "http_listen"))
        yield Conflict(fields, "needs the HTTP port: node.http_listen")
    for name in ("stream", "channel"):
        if getattr(config.events, name) and config.events_url() is None:
            text = "needs a Redis: events.url, l2.registry_url or l2.url"
            yield Conflict((("events", name), ("events", "url"), ("l2", "url")), text)
    for text in event_problems(config.event):
        yield Conflict((EVENT,), text)
    yield from _write_behind(config)
    yield from _warm(config)
    yield from _regions(config)


def _addresses(config: NodeConfig) -> Iterator[Conflict]:
    node = config.node
    insecure = ("node", "insecure")
    for name, address in (("listen", node.listen), ("http_listen", node.http_listen)):
        plain = not config.tls.cert_file and not node.insecure
        if address and plain and not is_loopback(parse_address(address, any_port=True)[0]):
            text = (
                "would let other machines in without TLS; set tls.cert_file and tls.key_file, listen on 127.0.0.1, or"
                " say that the network can be trusted: node.insecure = true, flag --insecure"
            )
            yield Conflict((("node", name), insecure), text)
    if node.advertise and is_wildcard(parse_address(node.advertise, any_port=True)[0]):
        yield Conflict((("node", "advertise"),), "must be an address that others can connect to, not a wildcard")
    host, port = parse_address(node.listen, any_port=True)
    if node.http_listen and port and parse_address(node.http_listen, any_port=True) == (host, port):
        yield Conflict((("node", "http_listen"), ("node", "listen")), "must differ from node.listen")


def _tls(config: NodeConfig) -> Iterator[Conflict]:
    tls = config.tls
    cert_file, key_file, ca_file = ("tls", "cert_file"), ("tls", "key_file"), ("tls", "ca_file")
    if bool(tls.cert_file) is not bool(tls.key_file):
        missing, other = (key_file, cert_file) if tls.cert_file else (cert_file, key_file)
        yield Conflict((missing, other), "must be set too: certificate and key belong together")
    if tls.verify_clients and not tls.ca_file:
        yield Conflict((ca_file, ("tls", "verify_clients")), "must name the authorities that clients are verified by")
    for name in ("ca_file", "peer_ca_file", "server_name"):
        if getattr(tls, name) and not tls.cert_file:
            yield Conflict((("tls", name), cert_file), "says nothing without tls.cert_file: there is no TLS")


def _auth(config: NodeConfig) -> Iterator[Conflict]:
    auth = config.auth
    tokens, peer_token = ("auth", "tokens_file"), ("auth", "peer_token_file")
    if auth.tokens_file and not auth.peer_token_file and not config.tls.verify_clients:
        text = "must be set too: peers ask each other for a token, or for certificates with tls.verify_clients"
        yield Conflict((peer_token, tokens), text)
    if config.limits.client_keys_per_s and not auth.tokens_file:
        rate = ("limits", "client_keys_per_s")
        yield Conflict((rate, tokens), "needs auth.tokens_file: else nobody is asked who they are")
    if config.tls.peer_ca_file and not (auth.tokens_file and config.tls.verify_clients):
        text = "needs auth.tokens_file and tls.verify_clients: else nobody is asked who they are"
        yield Conflict((("tls", "peer_ca_file"), tokens, ("tls", "verify_clients")), text)
    if auth.peer_token_file and not auth.tokens_file:
        yield Conflict((tokens, peer_token), "must be set too: without it nobody asks for a token")


def _l2(config: NodeConfig) -> Iterator[Conflict]:
    l2 = config.l2
    urls = {"url": l2.url, "registry_url": l2.registry_url, "queue_url": l2.queue_url}
    addresses = [read_redis_url(url) for url in (*urls.values(), config.events.url) if url not in {"", NO_URL}]
    cert_file, key_file = ("l2", "cert_file"), ("l2", "key_file")
    if bool(l2.cert_file) is not bool(l2.key_file):
        missing, other = (key_file, cert_file) if l2.cert_file else (cert_file, key_file)
        yield Conflict((missing, other), "must be set too: certificate and key belong together")
    for name in ("ca_file", "cert_file"):
        if getattr(l2, name) and not any(address.tls for address in addresses):
            yield Conflict((("l2", name), ("l2", "url")), "says nothing without TLS: begin the URL with rediss")
    for prefix in ("", "sentinel_"):
        username, password_file = ("l2", f"{prefix}username"), ("l2", f"{prefix}password_file")
        if getattr(l2, username[1]) and not getattr(l2, password_file[1]):
            yield Conflict((password_file, username), "must be set too: a user logs in with a password")
    if l2.password_file and not addresses:
        yield Conflict((("l2", "password_file"), ("l2", "url")), "says nothing without a Redis: set l2.url")
    if l2.sentinel_password_file and not any(address.topology == "sentinel" for address in addresses):
        text = "says nothing without sentinels: a URL of the form redis+sentinel://host:port,…/master"
        yield Conflict((("l2", "sentinel_password_file"), ("l2", "url")), text)


def _cluster(config: NodeConfig, given: Collection[FieldPath]) -> Iterator[Conflict]:
    cluster = config.cluster
    discovery, seeds, dns_name = ("cluster", "discovery"), ("cluster", "seeds"), ("cluster", "dns_name")
    if cluster.discovery == "static" and not cluster.seeds:
        yield Conflict((seeds, discovery), "must list the nodes' addresses for discovery static")
    if cluster.discovery == "dns" and not cluster.dns_name:
        yield Conflict((dns_name, discovery), "must be name:port for discovery dns")
    if cluster.discovery == "redis" and config.registry_url() is None:
        text = "must be the URL of the Redis where nodes meet, for discovery redis (or set l2.url)"
        yield Conflict((("l2", "registry_url"), ("l2", "url"), discovery), text)
    # A node that silently runs alone although somebody listed its peers is the worse surprise.
    for path, kind in ((seeds, "static"), (dns_name, "dns")):
        if path in given and discovery not in given:
            yield Conflict((discovery, path), f"must be {kind} for cluster.{path[1]} to be used")
    if cluster.lease_s < 3 * cluster.heartbeat_s:
        text = "must be at least three times cluster.heartbeat_s, or one late renewal loses the lease"
        yield Conflict((("cluster", "lease_s"), ("cluster", "heartbeat_s")), text)


def _origins(config: NodeConfig) -> Iterator[Conflict]:
    for name, origin in config.origins.items():
        if not (origin.loader or origin.sink):
            text = "must say what loads a value, or sink what writes one: module:name, or what is installed"
            yield Conflict((("origins", name, "loader"), ("origins", name, "sink")), text)
    for name, namespace in config.namespaces.items():
        if namespace.origin and namespace.origin not in config.origins:
            hint = did_you_mean(namespace.origin, config.origins)
            text = f"must be the name of an origin, that is of a table [origins.<name>]{hint}"
            yield Conflict((("namespaces", name, "origin"),), text)
        elif namespace.write != "around" and not (namespace.origin and config.origins[namespace.origin].sink):
            fields = (("namespaces", name, "write"), ("namespaces", name, "origin"))
            yield Conflict(fields, f"must be around, or origin the name of one with a sink to write {namespace.write}")
        if namespace.warm_top and not (namespace.l2 and config.l2_url()):
            text = "needs an L2, where the keys are noted: l2.url"
            yield Conflict((("namespaces", name, "warm_top"), ("l2", "url"), ("namespaces", name, "l2")), text)
        if namespace.bloom and not namespace.origin:
            text = "needs an origin, whose keys the filter knows: namespaces.<name>.origin"
            yield Conflict((("namespaces", name, "bloom"), ("namespaces", name, "origin")), text)


def _lives(config: NodeConfig) -> Iterator[Conflict]:
    for name, namespace in config.namespaces.items():
        if namespace.adaptive_min_s > namespace.adaptive_max_s:
            shortest, longest = ("namespaces", name, "adaptive_min_s"), ("namespaces", name, "adaptive_max_s")
            yield Conflict((shortest, longest), "must be at most adaptive_max_s")
        for field in ("stale_s", "refresh_ahead", "xfetch_beta"):
            if namespace.sliding and getattr(namespace, field):
                text = f"cannot be true beside {field}: a value that is read would never be loaded anew"
                yield Conflict((("namespaces", name, "sliding"), ("namespaces", name, field)), text)
        if namespace.sliding and math.isinf(namespace.ttl_s) and not namespace.adaptive_ttl:
            slides, ttl_s = ("namespaces", name, "sliding"), ("namespaces", name, "ttl_s")
            yield Conflict((slides, ttl_s), "needs a ttl_s: what never expires has no life to renew")


def _write_behind(config: NodeConfig) -> Iterator[Conflict]:
    for name, namespace in config.namespaces.items():
        if namespace.write != "behind":
            continue
        write = ("namespaces", name, "write")
        if config.l2_url() is None:
            yield Conflict(
                (write, ("l2", "url")), "needs an L2, where writes wait until the origin has them: set l2.url"
            )
        elif not namespace.l2:
            text = (
                "must be true for a namespace that writes behind: a value in memory alone would be lost with its node"
            )
            yield Conflict((("namespaces", name, "l2"), write), text)
        origin = config.origins.get(namespace.origin)
        if not namespace.origin or (origin is not None and not origin.sink):
            text = "must name an origin with a sink, [origins.<name>] sink = …, for the namespace to write behind"
            yield Conflict((("namespaces", name, "origin"), write), text)
        if namespace.bloom:
            text = "must be false for a namespace that writes behind: its origin does not list what waits for it"
            yield Conflict((("namespaces", name, "bloom"), write), text)
        if name == DEFAULT_NAMESPACE and not config.strict_namespaces:
            text = (
                "must be true if the default namespace writes behind: namespaces that are made at first use would do so"
                " too, and not every node would know of them"
            )
            yield Conflict((("strict_namespaces",), write), text)


def _warm(config: NodeConfig) -> Iterator[Conflict]:
    for table in config.warm:
        section = config.namespaces.get(table.namespace)
        if section is None or not section.origin:
            text = f"must name a namespace with an origin: [namespaces.{table.namespace}] has none"
            yield Conflict((("warm",), ("namespaces", table.namespace, "origin")), text)


def _memory(config: NodeConfig, given: Collection[FieldPath]) -> Iterator[Conflict]:
    process, entries = ("memory", "process_bytes"), ("memory", "max_bytes")
    if not config.memory.process_bytes:
        return
    if entries in given:
        yield Conflict((entries, process), "must not be set beside memory.process_bytes, which it follows from")
    if config.memory.process_bytes < _LEAST_PROCESS_BYTES:
        yield Conflict((process,), "must be 128MiB or more: the process itself takes 100 MiB")


def _regions(config: NodeConfig) -> Iterator[Conflict]:
    regions, name, peers = config.regions, ("regions", "name"), REGION_PEERS
    if regions.name and config.regions_url() is None:
        yield Conflict((("regions", "url"), ("l2", "url"), name), "needs a Redis: regions.url or l2.url")
    if regions.peers and not regions.name:
        yield Conflict((name, peers), "must be the name of this region: others know it by that")
    for text in peer_problems(regions.name, regions.peers):
        yield Conflict((peers, name), text)
    for peer in regions.peers:
        plain = not (peer.tls or peer.ca_file or config.tls.cert_file or config.node.insecure)
        if plain and not all(is_loopback(parse_address(address)[0]) for address in peer.addresses):
            text = (
                f"must have tls = true for {peer.name}, which is another machine; or trust the network: node.insecure"
            )
            yield Conflict((peers, ("node", "insecure")), text)
    for space, namespace in config.namespaces.items():
        path = ("namespaces", space, "regions")
        if namespace.regions and not regions.name:
            yield Conflict((path, name), "needs regions.name: this node belongs to no region")
        if namespace.region_holdoff_s and not namespace.regions:
            held = ("namespaces", space, "region_holdoff_s")
            yield Conflict((held, path), "says nothing where regions is false: no region's word comes there")
        yield from _markers(config, space, namespace)
        if namespace.regions and space == DEFAULT_NAMESPACE and not config.strict_namespaces:
            text = (
                "must be true if regions share the default namespace: they would share those that are made at first use"
                " too, and not every node would know of them"
            )
            yield Conflict((("strict_namespaces",), path), text)


def _markers(config: NodeConfig, space: str, namespace: NamespaceConfig) -> Iterator[Conflict]:
    """Yield what is wrong with where a namespace is loaded from after changes elsewhere."""
    marker, primary = ("namespaces", space, "remote_marker_s"), ("namespaces", space, "primary_region")
    if namespace.remote_marker_s and not namespace.regions:
        shared = ("namespaces", space, "regions")
        yield Conflict((marker, shared), "says nothing where regions is false: no region's word comes there")
    if namespace.region_value_bytes and not namespace.regions:
        values, shared = ("namespaces", space, "region_value_bytes"), ("namespaces", space, "regions")
        yield Conflict((values, shared), "says nothing where regions is false: no region's word comes there")
    if namespace.remote_marker_s and not namespace.origin:
        text = "needs an origin that nodes load from, in every region; region_holdoff_s does where callers load"
        yield Conflict((marker, ("namespaces", space, "origin")), text)
    if namespace.primary_region and not namespace.remote_marker_s:
        yield Conflict((primary, marker), "says nothing where remote_marker_s is 0")
    known = {config.regions.name, *(peer.name for peer in config.regions.peers)}
    if namespace.primary_region and namespace.primary_region not in known:
        yield Conflict((primary, REGION_PEERS), "must be regions.name or the name of one of regions.peers")


def _sizes(config: NodeConfig) -> Iterator[Conflict]:
    limits = config.limits
    largest = ("limits", "max_value_bytes")
    if limits.max_value_bytes >= limits.max_frame_bytes:
        text = "must be less than limits.max_frame_bytes, since a frame holds the value, its key and more"
        yield Conflict((largest, ("limits", "max_frame_bytes")), text)
    for name, namespace in config.namespaces.items():
        if namespace.max_value_bytes is not None and namespace.max_value_bytes > limits.max_value_bytes:
            text = f"must be at most limits.max_value_bytes ({limits.max_value_bytes:,})"
            yield Conflict((("namespaces", name, "max_value_bytes"), largest), text)
