"""Settings of namespaces that change while the node runs.

A node has for each namespace at most one `LivePolicy`: what of its settings is not what the configuration says. It is
changed by whoever runs the cluster, at one node, which makes the next version; the others are told by the same hand,
and what is newer goes before what is older everywhere. The store keeps the newest for nodes that come later: each looks
there when it starts and now and then, so one that could not be told follows too. It writes back what the store lacks,
should that have lost its history. Without a store a node that starts has the settings of its configuration.

A change is checked before anything follows it, and is followed within one turn of the loop. What the configuration
of this node does not allow (another node's may) is not followed at all, and said in the log.

Interleavings, each forced by a test in ``tests/node/test_live_policies.py``:

1. Two hands change a namespace at two nodes at a moment: both made the same version, and the greater text stays, at
   the nodes and in the store (``test_two_changes_at_a_moment``).
2. The store has got a newer change that this node has not seen when it makes its own: the newer one stays, and the
   caller is told (``test_change_that_comes_too_late``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import structlog

from cachenode.core.live_policy import LivePolicy
from cachenode.core.policy import NamespacePolicy
from cachenode.errors import ConfigError, RegistryError
from cachenode.node.namespaces import Namespaces
from cachenode.ports import Clock, PolicyStore
from cachenode_api.keys import DEFAULT_NAMESPACE

__all__ = ["LivePolicies", "Resolve"]

_log = structlog.get_logger(__name__)

LOOK_S = 5.0
"""A node that could not be told of a change follows it after so long at most."""
_NONE = LivePolicy()

Resolve = Callable[[str, Mapping[str, LivePolicy]], NamespacePolicy]
"""Returns a namespace's policy under changes, or raises `ConfigError`."""


class LivePolicies:
    """The changed settings of one node.

    Args:
        namespaces: Follow them.
        clock: Of the node.
        resolve: Makes policies.
        store: Keeps changes; None for nobody.
    """

    def __init__(self, namespaces: Namespaces, clock: Clock, resolve: Resolve, store: PolicyStore | None) -> None:
        self._namespaces = namespaces
        self._clock = clock
        self._resolve = resolve
        self._store = store
        self._live: dict[str, LivePolicy] = {}
        self._refused: dict[str, LivePolicy] = {}
        self._looking: asyncio.Task[None] | None = None
        self._away = False

    @property
    def live(self) -> Mapping[str, LivePolicy]:
        """What has changed, by namespace."""
        return self._live

    def of(self, name: str) -> LivePolicy:
        """Return what has changed of one namespace."""
        return self._live.get(name, _NONE)

    async def start(self) -> None:
        """Follow what is kept, and go on looking for changes. A store that does not answer is asked again later."""
        if self._store is not None:
            await self._look(self._store)
            self._looking = asyncio.create_task(self._look_again(self._store))

    async def stop(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking
        if self._store is not None:
            await self._store.close()

    def check(self, name: str, policy: LivePolicy) -> None:
        """Do nothing if a change may be followed.

        Raises:
            ConfigError: It is not valid, for this namespace or for those that follow it. It carries every problem.
        """
        for each, _ in self._affected(name, policy):
            self._resolve(each, self._live | {name: policy})

    def adopt(self, name: str, policy: LivePolicy) -> bool:
        """Follow a change if it is newer than what is followed. Return True if it was.

        Raises:
            ConfigError: It is not valid here. It carries every problem.
        """
        former = self.of(name)
        if not policy.newer(former):
            return False
        live = self._live | {name: policy}
        now, followed = self._clock.now(), []
        for each, version in self._affected(name, policy):
            followed.append((self._resolve(each, live), version))
        for resolved, version in followed:
            self._namespaces.adopt(resolved, version, now)
        self._live = live
        changes = {field: policy.fields.get(field, "(as configured)") for field in {*former.fields, *policy.fields}}
        changes = {field: text for field, text in changes.items() if former.fields.get(field) != text}
        _log.info("policy_changed", namespace=name, version=policy.version, changes=changes)
        return True

    def _affected(self, name: str, policy: LivePolicy) -> list[tuple[str, int]]:
        """Return the namespaces that a change concerns, and the version that each then has."""
        names = {name: policy.version}
        if name == DEFAULT_NAMESPACE:
            names |= {each: self.of(each).version for each in self._namespaces.followers()}
        return list(names.items())

    async def keep(self, name: str) -> bool:
        """Have the store keep what is followed now. Return True if it does, False if there is none or it is away.

        A change that the store has got meanwhile and that is newer is followed.

        Raises:
            ConfigError: That change is not valid here.
        """
        if self._store is None:
            return False
        try:
            kept = await self._store.put(name, self.of(name))
        except RegistryError as error:
            _log.warning("policy_not_kept", namespace=name, error=str(error))
            return False
        self.adopt(name, kept)
        return True

    async def _look_again(self, store: PolicyStore) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look(store)
            except Exception as error:  # noqa: BLE001 - a defect, after which there is a next time
                _log.error("policies_look_failed", error_type=type(error).__name__, exc_info=error)

    async def _look(self, store: PolicyStore) -> None:
        """Follow what the store has, and give it what it lacks."""
        try:
            found = await store.read()
        except RegistryError as error:
            # A wrong URL is found here first, where nothing else asks L2 yet; what lasts is not said so loudly again.
            (_log.info if self._away else _log.warning)("policies_unknown", error=str(error))
            self._away = True
            return
        self._away = False
        for name, policy in found.items():
            self._follow(name, policy)
        for name, policy in self._live.items():
            if policy.newer(found.get(name, _NONE)):
                await self.keep(name)

    def _follow(self, name: str, policy: LivePolicy) -> None:
        if self._refused.get(name) == policy:
            return
        try:
            self.adopt(name, policy)
        except ConfigError as error:
            self._refused[name] = policy
            _log.error("policy_refused", namespace=name, version=policy.version, problems=list(error.problems))
