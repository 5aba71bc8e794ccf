"""The composition root: builds a node from its configuration, starts it, stops it.

Start: the listener is bound first, since its port is part of the member's address; the node answers NOT_READY until
it is in a view. Stop, in this order: not ready → nobody holds copies → writes under way end, and no more begin → the
lease goes back and the peers hear that this node leaves → entries are handed to their new owners, while sessions are
told and drained → streams are closed → the listener stops → L2 is closed. Streams are closed before
`grpc.Server.stop`, which otherwise waits for them during its whole grace.
"""

from __future__ import annotations

import cachenode_api.transport  # noqa: F401 - before grpc, which looks at its settings while it is imported

# isort: split

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from cachenode import __version__
from cachenode.adapters.audit import AuditFile
from cachenode.adapters.clock import BootClock
from cachenode.adapters.copies import PeerCopies
from cachenode.adapters.http import HttpServer
from cachenode.adapters.key_files import read_keys
from cachenode.adapters.listening import bind, reachable, reflect
from cachenode.adapters.logs import levels as log_levels
from cachenode.adapters.metrics import NodeCollector
from cachenode.adapters.peer_links import PeerLinks
from cachenode.adapters.traces import start_traces
from cachenode.adapters.webhook import SecretFile, Webhook
from cachenode.assembly import (
    make_drain,
    make_event_feeds,
    make_http_limits,
    make_l2,
    make_membership,
    make_options,
    make_origins,
    make_policies,
    make_queue,
    make_redis_checks,
    make_regions,
    make_tls,
    make_tokens,
)
from cachenode.config.events import event_rules
from cachenode.config.live import live_policy, settings
from cachenode.config.values import is_loopback
from cachenode.core.breaker import Breaker
from cachenode.core.memory import Memory
from cachenode.core.rates import Rates
from cachenode.core.stats import EventCounters, NodeStats
from cachenode.core.store import Store
from cachenode.core.versions import VersionSource
from cachenode.errors import ConfigError, L2Unavailable
from cachenode.node.counters import counters
from cachenode.node.events import Events
from cachenode.node.l2_tier import L2Tier
from cachenode.node.leaving import Leaving, Step, within
from cachenode.node.live_policies import LivePolicies
from cachenode.node.loops import Loops
from cachenode.node.namespaces import Namespaces
from cachenode.node.placement import Placement
from cachenode.node.service import Node
from cachenode.node.warm_duties import WarmDuties
from cachenode.rpc.admin import AdminService
from cachenode.rpc.audit import Audit
from cachenode.rpc.cache import CacheService
from cachenode.rpc.gate import Gate
from cachenode.rpc.guard import CallLimits, GuardedServer
from cachenode.rpc.peer import PeerService
from cachenode.rpc.policies import PolicyCalls
from cachenode.rpc.region import RegionService
from cachenode.rpc.session import SessionLimits, SessionService
from cachenode_api.tracing import disable as disable_traces
from cachenode_api.v1 import admin_pb2_grpc, cache_pb2_grpc, peer_pb2_grpc, region_pb2_grpc, session_pb2_grpc
from cachenode_api.view import Member

if TYPE_CHECKING:
    from aiohttp import web
    from opentelemetry.sdk.trace import TracerProvider

    from cachenode.adapters.tokens import TokenFile
    from cachenode.config import NodeConfig

__all__ = ["Server"]

_log = structlog.get_logger(__name__)

_STUCK_S = 10.0
_STEP_S = 1.0
_HAND_OVER_S = 4.0
"""A backstop: the hand-over ends by itself."""
_RELEASE_S = 2.5
"""Longer than any lease of a client."""


class Server:
    """One node: its listeners, services and background duties.

    Args:
        config: Validated configuration.
    """

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.address = ""
        self.http_address = ""
        self.joined = asyncio.Event()
        """Set once the node is in a view."""
        self._stopping = False
        self._started_at = 0.0
        self._traces: TracerProvider | None = None

    async def start(self) -> None:
        """Bind, serve, and begin to join the cluster.

        Raises:
            OSError: An address cannot be bound.
            ConfigError: A loader or sink cannot be found or made, a certificate cannot be used, or the queue of writes
                behind is not fit for them.
        """
        config = self.config
        self._started_at = time.monotonic()
        self._clock = BootClock()
        self._origins = make_origins(config, self._clock)
        if config.tracing.endpoint:
            self._traces = start_traces(
                config.tracing.endpoint, config.tracing.ratio, config.node.id, config.cluster.name, __version__
            )
        self._tls = make_tls(config)
        tokens, self._peer_token = make_tokens(config)
        self._rates = Rates(config.limits.client_keys_per_s)
        is_peers = self._tls.is_peers if self._tls is not None else None
        self._gate = Gate(tokens.grants, is_peers, self._rates, self._clock.now) if tokens is not None else None
        self._audit_file = AuditFile(config.audit.file, config.node.id)
        self._audit = Audit(self._audit_file.write, config.cluster.name)
        self._call_limits = CallLimits(config.limits.max_calls, config.limits.max_watchers)
        self._grpc = aio.server(options=make_options(config.limits))
        self.address = bind(self._grpc, config.node.listen, config.node.advertise, self._tls)
        self._http = HttpServer(
            config.node.http_listen,
            ready=lambda: self.ready,
            live=lambda: self.live,
            metrics=self._metrics(),
            info=lambda: {"id": config.node.id, "version": __version__},
            context=self._tls.ssl_context() if self._tls is not None else None,
            posts=self._posts(),
            add_routes=self._console(tokens),
            limits=make_http_limits(config.limits),
        )
        if config.node.http_listen:
            await self._http.start()
            self.http_address = reachable(self._http.address, self.address)
        self._build(
            Member(
                id=config.node.id,
                incarnation=secrets.token_hex(8),
                address=self.address,
                http_address=self.http_address,
                weight=config.node.weight,
            )
        )
        await self._check_queue()
        self._add_services()
        await self._set_health(ready=False)  # the health service itself begins with SERVING
        await self._grpc.start()
        self._links.start()
        await self._live.start()
        await self._membership.start()
        self._loops.start()
        if self._regions is not None:
            self._regions.start()
        if self._drain is not None:
            self._drain.start()
        for feed in self._event_feeds:
            feed.start()
        self._redis_checks.start()
        loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        _log.info("started", id=config.node.id, address=self.address, http=self.http_address, event_loop=loop)

    def _console(self, tokens: TokenFile | None) -> Callable[[web.Application], None] | None:
        """Return what adds the web console to the HTTP port, None if that has none."""
        config = self.config
        if not config.serves_console():
            return None
        from cachenode.console import make_console

        host = config.http_host()
        return make_console(
            me=config.node.id,
            cluster=config.cluster.name,
            view=lambda: self._placement.view,
            rules=lambda: self._events.rules,
            host=host,
            loopback=is_loopback(host),
            open_changes=is_loopback(host) and not config.asks_for_certificates_alone(),
            grants=tokens.grants if tokens is not None else None,
            tls=self._tls,
        ).add_to

    def _posts(self) -> dict[str, Callable[[web.Request], Awaitable[web.Response]]]:
        """Return what answers POST requests: the webhook, if there is a secret for it."""
        settings = self.config.events
        if not settings.webhook_secret_file:
            return {}
        secret = SecretFile(Path(settings.webhook_secret_file))
        hook = Webhook(lambda: self._events, secret, max_payload_bytes=settings.max_payload_bytes)
        return {"/events": hook.answer}

    def _build(self, me: Member) -> None:
        config, clock = self.config, self._clock
        versions = VersionSource()
        self._placement = placement = Placement(me, lease_s=config.cluster.lease_s)
        namespaces = Namespaces(
            config.policies(),
            Memory(config.memory.budget()),
            new_store=lambda: Store(config.memory.policy),
            origins=self._origins,
            strict=config.strict_namespaces,
        )
        l2 = make_l2(config)
        self._tier = None
        if l2 is not None:
            breaker = Breaker(failures=config.l2.breaker_failures, retry_s=config.l2.breaker_retry_s)
            self._tier = L2Tier(l2, breaker, clock)
        self._links = PeerLinks(
            me=me,
            cluster=config.cluster.name,
            clock=clock,
            tls=self._tls,
            token=self._peer_token,
            execute=lambda batch, reply: self._node.execute(batch, reply, from_peer=True),
            heartbeat_s=config.cluster.heartbeat_s,
        )
        placement.listeners.append(self._links.view_changed)
        placement.release_listeners.append(self._links.epoch_settled)
        self._copies = None
        if config.memory.copies_bytes:
            self._copies = PeerCopies(
                me.id,
                config.memory.copies_bytes,
                self._tls.files if self._tls is not None else None,
                self._peer_token,
            )
            placement.listeners.append(self._copies.view_changed)
        self._node = Node(
            placement=placement,
            namespaces=namespaces,
            peers=self._links,
            tier=self._tier,
            clock=clock,
            versions=versions,
            call_timeout_s=config.limits.call_timeout_s,
            copies=self._copies,
            hot_reads_per_s=config.cluster.hot_reads_per_s,
            shed=config.limits.shed(),
            handover_bytes=config.memory.handover_bytes,
            limits=config.limits.entries(),
            durations=config.node.durations,
        )
        self._events = Events(
            self._node,
            event_rules(config.event, config.events),
            refuse_unknown=config.events.unknown == "refuse",
            timeout_s=config.limits.call_timeout_s,
        )
        self._queue = make_queue(config)
        self._drain = None if self._queue is None else make_drain(config, self._node, self._queue, self._origins)
        self._redis_checks = make_redis_checks(config)
        self._regions = make_regions(config, self._node)
        self._event_feeds = make_event_feeds(config, self._events, placement)
        self._membership = make_membership(config, placement, clock, self._links)
        self._live = LivePolicies(namespaces, clock, partial(live_policy, config), make_policies(config))
        self._links.events = self._membership
        limits = config.limits
        self._sessions = SessionService(
            self._node,
            SessionLimits(
                max_sessions=limits.max_sessions,
                max_batch_keys=limits.max_batch_keys,
                max_frame_bytes=limits.max_frame_bytes,
                max_keys=limits.max_session_keys,
            ),
            self._audit,
            self._rates,
        )
        self._warm = WarmDuties(self._node, [table.plan() for table in config.warm], read_keys)
        self._loops = Loops(self._node, self._sessions.reap, self._warm)
        self._leaving = Leaving(self._steps(), self._unwritten, clock)

    def _unwritten(self) -> int:
        """Return how many queued writes of this node's shards wait for their origin."""
        return self._drain.waiting() if self._drain is not None else 0

    async def _check_queue(self) -> None:
        """Refuse to start with a queue that cannot keep what it promises; one that is away is looked at later."""
        behind = self._node.write_behind
        if behind is None:
            return
        try:
            problems = await behind.check()
        except L2Unavailable as error:
            _log.warning("queue_not_checked", why=str(error))
            return
        if problems:
            raise ConfigError([f"writebehind: {problem}" for problem in problems])

    def _add_services(self) -> None:
        server: Any = GuardedServer(
            self._grpc, self._gate, self._call_limits.of, self._audit
        )  # has what the generated functions use of a server
        node = self._node
        cache_pb2_grpc.add_CacheServiceServicer_to_server(  # first: gRPC asks one after the other who knows a method
            CacheService(node, self._events, max_batch_keys=self.config.limits.max_batch_keys), server
        )
        session_pb2_grpc.add_SessionServiceServicer_to_server(self._sessions, server)
        peer_pb2_grpc.add_PeerServiceServicer_to_server(PeerService(self._links), server)
        receiver = self._regions.receiver if self._regions is not None else None
        region_pb2_grpc.add_RegionServiceServicer_to_server(RegionService(node, receiver), server)
        policies = PolicyCalls(node.namespaces, self._live, partial(settings, self.config))
        silences = self._links.silences
        admin = AdminService(node, self.stats, silences, policies, self._events, self._warm, self._leaving, log_levels)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        self._placement.listeners.append(lambda _former, _view: self._report_health())
        if self.config.node.reflection:
            reflect(self._grpc)

    def _report_health(self) -> None:
        if self.ready:
            self.joined.set()
        asyncio.get_running_loop().create_task(self._set_health(ready=self.ready))

    async def _set_health(self, *, ready: bool) -> None:
        state = health_pb2.HealthCheckResponse
        serving = state.SERVING if ready else state.NOT_SERVING
        await self._health.set("", serving)
        await self._health.set("readiness", serving)
        await self._health.set("liveness", state.SERVING)
        await self._health.set("startup", serving)

    @property
    def ready(self) -> bool:
        """True if the node is in the view and does not leave it."""
        return not self._leaving.begun and self._placement.ready

    @property
    def live(self) -> bool:
        """False if the event loop has not come round for ten seconds."""
        return self._node.clock.now() - self._loops.ticked_at < _STUCK_S

    @property
    def node(self) -> Node:
        """The node itself."""
        return self._node

    def reopen_files(self) -> None:
        """Go on in files of the same names: those that were written so far may have been renamed."""
        self._audit_file.reopen()

    def stats(self) -> NodeStats:
        """Return the present counters."""
        node, memory = self._node, self._node.namespaces.memory
        view, steps = self._placement.view, self._loops.clock_steps
        return NodeStats(
            node_id=self._placement.me.id,
            incarnation=self._placement.me.incarnation,
            version=__version__,
            uptime_s=time.monotonic() - self._started_at,
            max_bytes=memory.max_bytes,
            used_bytes=memory.used_bytes,
            sessions=len(self._sessions),
            l2_state=self._tier.state if self._tier is not None else "off",
            l2_errors=self._tier.errors if self._tier is not None else 0,
            l2_floors=self._tier.floors if self._tier is not None else 0,
            forwarded=node.forwarded,
            view_epoch=self._placement.epoch,
            members=len(view.members) if view is not None else 0,
            namespaces=tuple(counters(node, namespace, self._drain) for namespace in node.namespaces),
            errors={reason.name.lower(): count for reason, count in node.failures.items()},
            near_holders=len(node.invalidations),
            invalidation_waits=node.invalidations.waits,
            invalidation_wait_s=node.invalidations.waited_s,
            swept=sum(namespace.sweep.removed for namespace in node.namespaces),
            warm_jobs=sum(node.warming.running(name) for name in node.warming.jobs),
            copies=len(self._copies) if self._copies is not None else 0,
            copy_hits=node.copy_hits,
            shed={work.name.lower(): count for work, count in node.shedding.refused.items()},
            refused=self._refused(),
            pressure=node.shedding.pressure,
            hottest_reads_per_s=max((each.per_s for each in node.hottest(1)[0]), default=0.0),
            handed_over=node.handover.sent,
            handover_declined=node.handover.declined,
            handover_accepted=node.handover.accepted,
            handover_refused=node.handover.refused,
            durations=node.durations.counters() if self.config.node.durations else (),
            certificate_expires_at=self._tls.expires_at() if self._tls is not None else None,
            events=tuple(EventCounters(*how, count) for how, count in sorted(self._events.counts.items())),
            event_invalidations=self._events.invalidations,
            **(self._regions.counters() if self._regions is not None else {}),
            origins=tuple(origin.counters() for origin in self._origins.values()),
            redis_problems=self._redis_checks.problems,
            leaving=self._leaving.stage,
            late_holders=node.invalidations.late,
            clock_steps=steps.steps,
            clock_step_s=steps.last_s,
            clock_step_age_s=node.clock.now() - steps.last_at if steps.steps else 0.0,
            wall_s=node.wall(),
        )

    def _refused(self) -> dict[str, int]:
        who = {
            "sessions": self._sessions.refused,
            "rate": self._rates.refused,
            "identity": self._gate.refused if self._gate is not None else 0,
        }
        return self._call_limits.refused() | who | self._http.door.refused()

    def _metrics(self) -> CollectorRegistry:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(NodeCollector(self.stats))
        return registry

    def _steps(self) -> tuple[Step, ...]:
        """Return how this node leaves: each step while what it needs of the others is still there."""
        node, half_s = self._node, self.config.limits.stop_grace_s / 2
        return (
            Step("unready", _STEP_S, self._turn_away),
            Step("releasing", _RELEASE_S, node.invalidations.release),  # while it serves: the others are not asked yet
            Step("ending work", _STEP_S, self._warm.close),
            Step("ending work", _STEP_S, node.warming.close),  # another node goes on with its jobs
            Step("ending work", _STEP_S, self._warm.note_hot),
            Step("ending work", _STEP_S, node.close),
            Step("ending work", _STEP_S, node.blooms.saved.leave),
            Step("ending work", _STEP_S, self._end_regions),
            Step("ending work", half_s, self._end_drain),
            # All its writes have ended, and it still is a member.
            Step("ending work", _STEP_S, node.witnesses.bequeath),
            Step("leaving the view", half_s, self._membership.stop),
            Step("leaving the view", _STEP_S, node.blooms.saved.left),
            Step("handing over", max(_HAND_OVER_S, half_s) + _STEP_S, self._hand_over),
            Step("handing over", _STEP_S, self._links.stop),
        )

    async def _turn_away(self) -> None:
        await self._set_health(ready=False)
        for feed in self._event_feeds:
            await within(_STEP_S, feed.stop())
        if self._copies is not None:
            await self._copies.stop()

    async def _end_regions(self) -> None:
        if self._regions is not None:
            await self._regions.stop()

    async def _end_drain(self) -> None:
        if self._drain is not None:
            await self._drain.stop()

    async def _hand_over(self) -> None:
        """Hand entries over, and let clients go beside that: both need the links."""
        self._node.loads.resign()
        handing_over = within(_HAND_OVER_S, self._node.handover.leave())
        await asyncio.gather(handing_over, self._sessions.drain(self.config.limits.stop_grace_s / 2))
        self._node.handover.stop()

    async def stop(self) -> None:
        """Leave the cluster unless that is done, and end. Bounded by the configured grace."""
        if self._stopping:
            return
        self._stopping = True
        _log.info("stopping", grace_s=self.config.limits.stop_grace_s)
        await asyncio.wait([self._leaving.begin()])
        await within(_STEP_S, self._loops.stop())
        self._node.invalidations.log.close()
        await within(_STEP_S, self._grpc.stop(_STEP_S / 2))
        await within(_STEP_S, self._node.read_through.close())
        await within(_STEP_S, self._node.blooms.close())
        for origin in self._origins.values():
            await within(_STEP_S, origin.close())
        if self._tier is not None:
            await within(_STEP_S, self._tier.close())
        if self._queue is not None:
            await within(_STEP_S, self._queue.close())
        await within(_STEP_S, self._redis_checks.stop())
        await within(_STEP_S, self._membership.close())
        await within(_STEP_S, self._live.stop())
        await within(_STEP_S, self._http.stop())
        if self._traces is not None:
            disable_traces()
            await within(_STEP_S, asyncio.to_thread(self._traces.shutdown))  # exports what waits
        self._audit_file.close()
        _log.info("stopped")
