"""The console's calls about events: the rules, what they would make of an event, and telling one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from cachenode.console.fleet import Fleet
from cachenode.console.guard import Caller, Guard
from cachenode.console.refusals import Refused
from cachenode.console.requests import Body
from cachenode.core.access import Role
from cachenode.core.events import EventRules
from cachenode.core.texts import shown
from cachenode.errors import EventRefused
from cachenode_api.selectors import SelectorKind
from cachenode_api.v1 import admin_pb2, cache_pb2

__all__ = ["EventCalls"]


class EventCalls:
    """Answers them.

    Args:
        fleet: The members.
        guard: Says who may try out this node's rules, which no gate is asked about.
        rules: Returns the rules of this node.
    """

    def __init__(self, fleet: Fleet, guard: Guard, rules: Callable[[], EventRules]) -> None:
        self._fleet = fleet
        self._guard = guard
        self._rules = rules

    async def rules(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Return the rules of this node, and who has others."""
        answers = await self._fleet.all("ListEvents", admin_pb2.ListEventsRequest(), caller.token)
        known = {node: answer for node, answer in answers.items() if answer is not None}
        mine = known.get(self._fleet.me)
        if mine is None:
            raise Refused(503, f"{self._fleet.me} does not answer itself", "Try again in a few seconds.")
        rules = [
            {
                "name": rule.name,
                "namespace": rule.namespace,
                "mode": "expire" if rule.mode else "remove",
                "invalidates": list(rule.invalidates),
                "tags": list(rule.tags),
            }
            for rule in mine.rules
        ]
        return {
            "rules": rules,
            "unknown": mine.unknown,
            "differing": [node for node, answer in known.items() if list(answer.rules) != list(mine.rules)],
            "silent": [node for node in answers if node not in known],
        }

    async def test_event(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Return what an event would make untrue. Nothing is sent."""
        self._guard.check_role(caller, Role.ADMIN)
        name, payload = body.text("name"), body.text("payload") or "{}"
        try:
            plan = self._rules().plan(name, payload.encode(errors="replace"))
        except EventRefused as error:
            raise Refused(400, str(error)) from None
        places = [
            _place(each.namespace, each.expire, each.keys, [(each.kind, each.text) for each in each.selectors])
            for each in plan or ()
        ]
        return {"known": plan is not None, "invalidations": places}

    async def publish(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Tell the cluster of an event."""
        request = cache_pb2.PublishEventRequest(
            name=body.text("name"), payload=(body.text("payload") or "{}").encode(errors="replace")
        )
        done = await self._fleet.cache("PublishEvent", request, caller.token)
        places = [
            _place(each.namespace, bool(each.mode), each.keys, zip(each.kinds, each.selectors, strict=True))
            for each in done.invalidations
        ]
        return {"known": done.known, "found": done.found, "invalidations": places}


def _place(
    namespace: str, expire: bool, keys: Iterable[bytes], selectors: Iterable[tuple[int, bytes]]
) -> dict[str, Any]:
    things = [{"kind": "key", "text": shown(key)} for key in keys]
    things += [{"kind": SelectorKind(kind).name.lower(), "text": shown(text)} for kind, text in selectors]
    return {"namespace": namespace, "mode": "expire" if expire else "remove", "things": things}
