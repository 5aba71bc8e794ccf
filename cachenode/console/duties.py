"""The console's calls about what goes on behind requests: warming jobs, and the queues of writes behind."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from cachenode.console.fleet import Fleet
from cachenode.console.guard import Caller
from cachenode.console.refusals import Refused
from cachenode.console.requests import Body
from cachenode.core.texts import shown
from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["DutyCalls"]

_MOST_LETTERS = 200


class DutyCalls:
    """Answers them.

    Args:
        fleet: The members.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def warming(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Return the last job of each namespace on each node."""
        answers = await self._fleet.all("WarmStatus", pb.WarmStatusRequest(), caller.token)
        jobs = [
            _plain(job) | {"node_id": job.node_id or node}
            for node, answer in answers.items()
            for job in (answer.jobs if answer is not None else ())
        ]
        jobs.sort(key=lambda job: (job["state"] != "running", job["namespace"], job["node_id"]))
        return {"jobs": jobs, "silent": [node for node, answer in answers.items() if answer is None]}

    async def warm_start(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Begin a job: all keys that the origin lists, or those that were read most. It goes on when nobody looks."""
        source = body.text("source", "origin")
        if source not in {"origin", "hot"}:
            raise Refused(400, "source: must be origin or hot")
        request = pb.WarmRequest(
            namespace=body.namespace(),
            origin=source == "origin",
            top=int(body.number("top", 1_000, 1, 1_000_000)) if source == "hot" else 0,
            rate_per_s=body.number("rate_per_s", 500, 0.001, 1_000_000),
        )
        return _plain(await self._fleet.first_of("Warm", request, caller.token))

    async def warm_cancel(self, caller: Caller, body: Body) -> dict[str, Any]:
        """End the job of a namespace, wherever it runs."""
        request = pb.CancelWarmRequest(namespace=body.namespace())
        answers = await self._fleet.all("CancelWarm", request, caller.token)
        if not any(answer is not None and answer.cancelled for answer in answers.values()):
            raise Refused(404, "no job of this namespace is running")
        return {"cancelled": True}

    async def queues(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Return what waits for origins, and what the nodes have done for it."""
        answers = await self._fleet.all("WriteBehindStatus", pb.WriteBehindStatusRequest(), caller.token)
        found: dict[str, dict[str, Any]] = {}
        for answer in answers.values():
            for queue in answer.queues if answer is not None else ():
                known = found.get(queue.namespace)
                if known is None:
                    found[queue.namespace] = _plain(queue)
                    continue
                for name in ("applied", "coalesced", "retries", "given_up"):
                    known[name] += getattr(queue, name)
        silent = [node for node, answer in answers.items() if answer is None]
        return {"queues": [found[name] for name in sorted(found)], "silent": silent}

    async def dead_letters(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Return writes that were given up, without their values."""
        request = pb.ListDeadLettersRequest(
            namespace=body.namespace(), after=body.text("after"), limit=int(body.number("limit", 50, 1, _MOST_LETTERS))
        )
        answer = await self._fleet.one("ListDeadLetters", request, caller.token)
        letters = [
            {
                "id": letter.id,
                "key": shown(letter.key),
                "operation": "delete" if letter.removal else "set",
                "size": letter.size,
                "attempts": letter.attempts,
                "age_s": round(letter.age_s, 1),
                "reason": letter.reason,
            }
            for letter in answer.letters
        ]
        return {"letters": letters, "more": len(letters) >= request.limit}

    async def replay(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Queue dead letters again."""
        request = pb.ReplayDeadLettersRequest(namespace=body.namespace(), ids=_chosen(body))
        answer = await self._fleet.one("ReplayDeadLetters", request, caller.token)
        return {"queued": answer.queued, "outdated": answer.outdated}

    async def drop(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Remove dead letters for ever."""
        request = pb.DropDeadLettersRequest(namespace=body.namespace(), ids=_chosen(body))
        answer = await self._fleet.one("DropDeadLetters", request, caller.token)
        return {"dropped": answer.dropped}


def _chosen(body: Body) -> list[str]:
    """Return the ids of letters; none stands for all, which has to be said."""
    ids, everything = body.texts("ids"), body.flag("all")
    if bool(ids) is everything:
        raise Refused(400, "ids: name dead letters, or say that all of them are meant")
    return ids


def _plain(message: Message) -> dict[str, Any]:
    return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}
