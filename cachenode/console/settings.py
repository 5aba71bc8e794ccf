"""The console's calls about namespaces: their settings at all nodes, changing them, and what is advised for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cachenode.changing import ChangeRefused, NotAnswered, change_everywhere
from cachenode.console.fleet import Fleet
from cachenode.console.guard import Caller
from cachenode.console.refusals import Refused
from cachenode.console.requests import Body
from cachenode.findings import measured
from cachenode_api.advise import advise
from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["SettingCalls"]


class SettingCalls:
    """Answers them.

    Args:
        fleet: The members.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def namespaces(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Return the settings of all namespaces, as the node with the newest has them, and who has others."""
        answers = await self._fleet.all("ListNamespaces", pb.ListNamespacesRequest(), caller.token)
        found: dict[str, dict[str, pb.NamespaceSettings]] = {}
        for node, answer in answers.items():
            for settings in answer.namespaces if answer is not None else ():
                found.setdefault(settings.name, {})[node] = settings
        return {
            "namespaces": [_document(by_node) for _, by_node in sorted(found.items())],
            "silent": [node for node, answer in answers.items() if answer is None],
        }

    async def set_namespace(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Change settings at every node, or at none."""
        name, fields, reset = body.namespace(), body.mapping("fields"), body.texts("reset")
        if not fields and not reset:
            raise Refused(400, "fields: no setting is named")
        found = await self._fleet.all("GetNamespace", pb.GetNamespaceRequest(namespace=name), caller.token)
        if all(answer is None for answer in found.values()):
            raise Refused(503, "no node answers", "Look at Overview.")

        async def set_at(node: str, request: pb.SetNamespaceRequest) -> pb.SetNamespaceResponse | None:
            try:
                answer: pb.SetNamespaceResponse = await self._fleet.one(
                    "SetNamespace", request, caller.token, node=node
                )
            except Refused as refused:
                if refused.status in {503, 504}:
                    return None
                raise
            return answer

        try:
            changed = await change_everywhere(
                found, pb.SetNamespaceRequest(namespace=name, fields=fields, reset=reset), set_at, Refused
            )
        except ChangeRefused as error:
            raise Refused(400, "; ".join(error.problems), "Nothing was changed.") from None
        except NotAnswered as error:
            raise Refused(504, f"{error} does not answer any more", "Look whether the change was made.") from None
        return {
            "settings": _settings(changed.settings),
            "kept": changed.kept,
            "lagging": [node for node, follows in changed.nodes.items() if not follows],
        }

    async def advise(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Return whether caching pays for each namespace, which TTL and which pattern."""
        answers = await self._fleet.all("Advise", pb.AdviseRequest(), caller.token)
        sums = measured([answer for answer in answers.values() if answer is not None])
        advised = []
        for name, each in sorted(sums.items()):
            advice = advise(each)
            document = asdict(advice) | {"pattern": advice.pattern.value if advice.pattern is not None else None}
            advised.append({"name": name, "reads": each.reads, "hits": each.hits, "seconds": each.seconds} | document)
        return {"namespaces": advised, "silent": [node for node, answer in answers.items() if answer is None]}


def _document(by_node: Mapping[str, pb.NamespaceSettings]) -> dict[str, Any]:
    newest = max(by_node.values(), key=lambda settings: settings.live.version)
    differing = [node for node, settings in by_node.items() if settings.live != newest.live]
    return _settings(newest) | {"differing": differing}


def _settings(settings: pb.NamespaceSettings) -> dict[str, Any]:
    return {
        "name": settings.name,
        "configured": settings.configured,
        "version": settings.live.version,
        "settings": [
            {"name": each.name, "value": each.value, "source": each.source, "fixed": each.fixed}
            for each in settings.settings
        ],
    }
