"""The settings of regions: this one's name, and the others, a table ``[[regions.peers]]`` each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from cachenode.config.fields import Address, ClusterName, Count, OptionalName, OptionalRedisUrl, Seconds, Section
from cachenode.config.values import parse_list

__all__ = ["RegionPeerConfig", "RegionsConfig", "peer_problems"]


class RegionPeerConfig(Section):
    """Another region, and how to reach it."""

    name: ClusterName = Field(description="Its regions.name")
    addresses: Annotated[tuple[Address, ...], BeforeValidator(parse_list)] = Field(
        min_length=1, description="Addresses of its nodes, or of what stands before them; one is used at a time"
    )
    tls: bool = Field(False, description="Whether it talks TLS; so it does if this region's nodes do")
    ca_file: str = Field("", description='Authorities whose certificates of it are believed; "": tls.ca_file')
    server_name: str = Field("", description='Name in its certificates; "": what is dialled')
    token_file: str = Field("", description="File with the token, of the role peer there, that is shown to it")


def _from_text(value: Any) -> Any:  # noqa: ANN401 - whatever a source holds
    """Return tables for a text: ``west=host:port,host:port;south=host:port``, as an environment variable has it."""
    if not isinstance(value, str):
        return value
    tables = []
    for part in filter(None, map(str.strip, value.split(";"))):
        name, equals, addresses = part.partition("=")
        if not equals:
            raise ValueError("as a text it must be name=host:port,host:port; with a semicolon between regions")
        tables.append({"name": name.strip(), "addresses": addresses.strip()})
    return tuple(tables)


class RegionsConfig(Section):
    """Other clusters, with shared stores of their own, that learn what becomes untrue here and tell what does there."""

    name: OptionalName = Field(
        "", description='Name of this region, the same for all its nodes; "": there are no regions'
    )
    peers: Annotated[tuple[RegionPeerConfig, ...], BeforeValidator(_from_text)] = Field(
        (),
        description="The others: [[regions.peers]] with name, addresses, tls, ca_file, server_name, token_file",
    )
    url: OptionalRedisUrl = Field(
        "", description='URL of the Redis that keeps what others are to be told; "" means that of L2'
    )
    outbox_entries: Count = Field(
        100_000, ge=100, le=10_000_000, description="Most entries kept for a region that cannot be reached"
    )
    lease_s: Seconds = Field(
        5.0, ge=1.0, description="How long after the death of the node that sends to a region another one does"
    )
    load_timeout_s: Seconds = Field(
        1.0, ge=0.01, le=60.0, description="Longest wait for a value that another region loads (remote_marker_s)"
    )


def peer_problems(name: str, peers: Sequence[RegionPeerConfig]) -> list[str]:
    """Return what is wrong with the others, each by itself being valid."""
    problems = []
    names = [peer.name for peer in peers]
    if name in names:
        problems.append("must not name this region itself")
    if len(set(names)) < len(names):
        problems.append("must name each region once")
    return problems
