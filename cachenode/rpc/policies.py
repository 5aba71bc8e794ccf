"""The admin calls about the settings of namespaces: what they are, and how they change while nodes run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpc import aio

from cachenode.core.entries import Failure
from cachenode.core.failures import UNKNOWN_NAMESPACE
from cachenode.core.live_policy import LivePolicy, Setting
from cachenode.errors import ConfigError
from cachenode.node.live_policies import LivePolicies
from cachenode.node.namespaces import Namespaces
from cachenode.rpc.status import abort
from cachenode_api.keys import DEFAULT_NAMESPACE
from cachenode_api.reasons import Reason
from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["PolicyCalls"]

Context = aio.ServicerContext[Any, Any]

_OVERTAKEN = Failure(
    Reason.CONDITION_FAILED, "namespace: somebody else has changed its settings meanwhile; look at them and try again"
)


class PolicyCalls:
    """Serves them.

    Args:
        namespaces: Of the node.
        live: What has changed.
        settings: Returns the settings of a namespace under changes.
    """

    def __init__(
        self,
        namespaces: Namespaces,
        live: LivePolicies,
        settings: Callable[[str, Mapping[str, LivePolicy]], Sequence[Setting]],
    ) -> None:
        self._namespaces = namespaces
        self._live = live
        self._settings = settings

    def all(self) -> list[pb.NamespaceSettings]:
        """Return the settings of all namespaces that are configured, used or changed, by name."""
        names = {namespace.policy.name for namespace in self._namespaces} | {*self._live.live}
        return [self._shown(name) for name in sorted(names)]

    async def one(self, name: str, context: Context) -> pb.NamespaceSettings:
        """Return the settings of a namespace; it is not made by that."""
        return self._shown(await self._known(name, context))

    async def change(self, request: pb.SetNamespaceRequest, context: Context) -> tuple[pb.NamespaceSettings, bool]:
        """Change settings. Return what they are now, and whether the change is kept for nodes that start later."""
        name = await self._known(request.namespace, context)
        policy, kept = self._wanted(name, request), False
        try:
            self._live.check(name, policy)
            if not request.check_only:
                self._live.adopt(name, policy)
                kept = await self._live.keep(name)
        except ConfigError as error:
            await abort(context, Failure(Reason.INVALID_REQUEST, "\n".join(error.problems)))
        if not request.check_only and self._live.of(name) != policy and not request.HasField("live"):
            await abort(context, _OVERTAKEN)
        return self._shown(name), kept

    def _wanted(self, name: str, request: pb.SetNamespaceRequest) -> LivePolicy:
        if request.HasField("live"):
            return LivePolicy(request.live.version, dict(request.live.fields))
        reset = None if request.reset_all else frozenset(request.reset)
        return self._live.of(name).changed(dict(request.fields), reset)

    async def _known(self, name: str, context: Context) -> str:
        name = name or DEFAULT_NAMESPACE
        if not self._namespaces.allows(name):
            await abort(context, UNKNOWN_NAMESPACE)
        return name

    def _shown(self, name: str) -> pb.NamespaceSettings:
        live = self._live.of(name)
        return pb.NamespaceSettings(
            name=name,
            configured=self._namespaces.configured(name),
            live=pb.LivePolicy(version=live.version, fields=live.fields),
            settings=[
                pb.Setting(name=each.name, value=each.value, source=each.source, fixed=each.fixed)
                for each in self._settings(name, self._live.live)
            ],
        )
