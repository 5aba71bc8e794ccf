"""AdminService: what a node knows about itself and its cluster."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from grpc import aio

from cachenode.core.demand import Wanted
from cachenode.core.durations import LIMITS_S
from cachenode.core.events import EventRule
from cachenode.core.failures import UNKNOWN_NAMESPACE, bad_key
from cachenode.core.log_levels import LogLevels
from cachenode.core.stats import NamespaceCounters, NodeStats, OriginCounters
from cachenode.node.events import Events
from cachenode.node.explain import Explanation, HeldEntry, explain
from cachenode.node.leaving import Leaving
from cachenode.node.service import Node
from cachenode.node.warm_duties import WarmDuties
from cachenode.rpc.advise import AdviseCalls
from cachenode.rpc.blooms import BloomCalls
from cachenode.rpc.dependents import DependentsCall, name_of
from cachenode.rpc.drain import DrainCall
from cachenode.rpc.key_lists import KeyListCalls
from cachenode.rpc.log_levels import LogLevelCalls
from cachenode.rpc.policies import PolicyCalls
from cachenode.rpc.regions import RegionCalls, regions_of
from cachenode.rpc.ring import RingCalls
from cachenode.rpc.status import abort
from cachenode.rpc.warming import WarmCalls
from cachenode.rpc.write_behind import WriteBehindCalls
from cachenode.wire import view_to_wire
from cachenode_api.keys import MAX_KEY_BYTES
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import admin_pb2_grpc, common_pb2

__all__ = ["AdminService"]

LINKED_WITHIN_S = 2.0

Context = aio.ServicerContext[Any, Any]


class AdminService(
    AdviseCalls,
    BloomCalls,
    DependentsCall,
    DrainCall,
    KeyListCalls,
    LogLevelCalls,
    RegionCalls,
    RingCalls,
    WarmCalls,
    WriteBehindCalls,
    admin_pb2_grpc.AdminServiceServicer,
):
    """Serves the admin calls.

    Args:
        node: What is asked about.
        stats: Returns the present counters.
        silences: Returns for each peer the seconds since it was last heard from, negative if never.
        policies: Serves the calls about settings.
        events: Has the rules of events.
        warm: Begins warming jobs.
        leaving: Has the node leave.
        levels: What the process logs.
    """

    def __init__(
        self,
        node: Node,
        stats: Callable[[], NodeStats],
        silences: Callable[[], Mapping[str, float]],
        policies: PolicyCalls,
        events: Events,
        warm: WarmDuties | None = None,
        leaving: Leaving | None = None,
        levels: LogLevels | None = None,
    ) -> None:
        self._leaving = leaving
        self._levels = levels or LogLevels()
        self._warm = warm
        self._node = node
        self._placement = node.placement
        self._stats = stats
        self._silences = silences
        self._policies = policies
        self._events = events

    async def GetView(self, request: pb.GetViewRequest, context: Context) -> pb.GetViewResponse:  # noqa: N802
        """Return the view and the state of the links."""
        peers = [
            pb.PeerState(node_id=peer, linked=0 <= silent_s <= LINKED_WITHIN_S, silent_s=silent_s)
            for peer, silent_s in sorted(self._silences().items())
        ]
        view = self._placement.view
        return pb.GetViewResponse(
            header=self._header(), view=view_to_wire(view) if view is not None else None, peers=peers
        )

    async def GetStats(self, request: pb.GetStatsRequest, context: Context) -> pb.GetStatsResponse:  # noqa: N802
        """Return the counters."""
        stats = self._stats()
        return pb.GetStatsResponse(
            header=self._header(),
            incarnation=stats.incarnation,
            version=stats.version,
            uptime_s=stats.uptime_s,
            max_bytes=stats.max_bytes,
            used_bytes=stats.used_bytes,
            sessions=stats.sessions,
            l2_state=stats.l2_state,
            l2_errors=stats.l2_errors,
            forwarded=stats.forwarded,
            near_holders=stats.near_holders,
            invalidation_waits=stats.invalidation_waits,
            swept=stats.swept,
            events=[
                pb.EventCounter(source=each.source, outcome=each.outcome, count=each.count) for each in stats.events
            ],
            event_invalidations=stats.event_invalidations,
            warm_jobs=stats.warm_jobs,
            hottest_reads_per_s=stats.hottest_reads_per_s,
            shed=stats.shed,
            pressure=stats.pressure,
            redis_problems=[
                pb.RedisProblem(use=each.use, kind=each.kind, evidence=each.evidence) for each in stats.redis_problems
            ],
            leaving=stats.leaving,
            late_holders=stats.late_holders,
            clock=pb.ClockState(
                wall_s=stats.wall_s,
                steps=stats.clock_steps,
                last_step_s=stats.clock_step_s,
                last_step_age_s=stats.clock_step_age_s,
            ),
            certificate_expires_at=stats.certificate_expires_at,
            namespaces=[_namespace(namespace) for namespace in stats.namespaces],
            origins=[_origin(origin) for origin in stats.origins],
            durations=[
                pb.OperationDurations(
                    operation=each.operation, cache_layer=each.cache_layer, limits_s=LIMITS_S, within=each.within
                )
                for each in stats.durations
            ],
            **regions_of(stats),
        )

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:  # noqa: N802
        """Return what is known about one key."""
        if not 0 < len(request.key) <= MAX_KEY_BYTES:
            await abort(context, bad_key(len(request.key)))
        namespace = self._node.namespaces.get(request.namespace)
        if namespace is None:
            await abort(context, UNKNOWN_NAMESPACE)
        return _explained(self._header(), await explain(self._node, namespace, request.key))

    async def ListEvents(self, request: pb.ListEventsRequest, context: Context) -> pb.ListEventsResponse:  # noqa: N802
        """Return the rules of events."""
        rules = self._events.rules
        unknown = "refuse" if self._events.refuse_unknown else "ignore"
        return pb.ListEventsResponse(
            header=self._header(), rules=map(_rule, rules), unknown=unknown, min_prefix=rules.min_prefix
        )

    async def ListNamespaces(  # noqa: N802
        self, request: pb.ListNamespacesRequest, context: Context
    ) -> pb.ListNamespacesResponse:
        """Return the settings of all namespaces."""
        return pb.ListNamespacesResponse(header=self._header(), namespaces=self._policies.all())

    async def GetNamespace(self, request: pb.GetNamespaceRequest, context: Context) -> pb.GetNamespaceResponse:  # noqa: N802
        """Return the settings of a namespace."""
        settings = await self._policies.one(request.namespace, context)
        return pb.GetNamespaceResponse(header=self._header(), settings=settings)

    async def SetNamespace(self, request: pb.SetNamespaceRequest, context: Context) -> pb.SetNamespaceResponse:  # noqa: N802
        """Change settings of a namespace."""
        settings, kept = await self._policies.change(request, context)
        return pb.SetNamespaceResponse(header=self._header(), settings=settings, kept=kept)

    def _header(self) -> common_pb2.ResponseHeader:
        return common_pb2.ResponseHeader(node_id=self._placement.me.id, view_epoch=self._placement.epoch)


def _namespace(counters: NamespaceCounters) -> pb.NamespaceStats:
    """Return the counters of a namespace: the message has their names."""
    names = (field.name for field in pb.NamespaceStats.DESCRIPTOR.fields)
    return pb.NamespaceStats(**{name: getattr(counters, name) for name in names})


def _origin(counters: OriginCounters) -> pb.OriginStats:
    """Return the counters of an origin: the message has their names."""
    names = (field.name for field in pb.OriginStats.DESCRIPTOR.fields)
    return pb.OriginStats(**{name: getattr(counters, name) for name in names})


def _rule(rule: EventRule) -> pb.EventRule:
    mode = common_pb2.INVALIDATION_MODE_EXPIRE if rule.expire else common_pb2.INVALIDATION_MODE_UNSPECIFIED
    return pb.EventRule(
        name=rule.name,
        invalidates=[template.text for template in rule.invalidates],
        tags=[template.text for template in rule.tags],
        namespace=rule.namespace,
        mode=mode,
    )


def _explained(header: common_pb2.ResponseHeader, found: Explanation) -> pb.ExplainResponse:
    return pb.ExplainResponse(
        header=header,
        owner=found.owner,
        ready=found.ready,
        fenced=found.fenced,
        gained=found.gained,
        lease_s=None if math.isinf(found.lease_s) else found.lease_s,
        l1=_held(found.l1),
        l1_state=found.l1_state,
        l2=_held(found.l2),
        l2_state=found.l2_state,
        barriers=[
            pb.CoveringBarrier(position=position, kind=selector.kind.value, text=selector.text, expires=expires)  # type: ignore[arg-type]
            for expires, known in enumerate((found.barriers, found.expiries))
            for position, selector in known
        ],
        floor=found.floor,
        near_holders=found.near_holders,
        loads=[
            pb.LoadUnderWay(lease_s=load.lease_s, waiting=load.waiting, storable=load.storable) for load in found.loads
        ],
        load_pause_s=found.load_pause_s,
        writing=found.writing,
        changing=found.changing,
        tombstone=found.tombstone,
        admit_after=found.admit_after,
        origin=found.origin,
        absent_s=found.absent_s,
        loads_itself=found.loads_itself,
        loads_from=found.loads_from,
        marked_s=found.marked_s,
        depends_on=[pb.Dependency(parent=name_of(parent), direct=direct) for parent, direct in found.depends_on],
        dependents=found.dependents,
        **_wanted(found.wanted),
    )


def _wanted(found: Wanted | None) -> dict[str, Any]:
    if found is None:
        return {}
    fields: dict[str, Any] = {"accesses": found.accesses, "hit_rate": found.hit_rate}
    if not math.isinf(found.since_s):
        fields["since_access_s"] = found.since_s
    if found.choice is not None:
        fields["adaptive_ttl_s"] = found.choice.ttl_s
        longer = ", one step longer because of the hit rate" if found.choice.longer else ""
        fields["adaptive_rule"] = f"{found.choice.step.text}{longer}"
    return fields


def _held(entry: HeldEntry | None) -> pb.HeldEntry | None:
    if entry is None:
        return None
    return pb.HeldEntry(
        version=entry.version,
        ttl_ms=None if math.isinf(entry.ttl_s) else int(entry.ttl_s * 1_000),
        size=entry.size,
        tags=[tag.decode() for tag in entry.tags],
        position=entry.position,
    )
