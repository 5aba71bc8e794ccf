"""The console's calls about keys: the hottest and largest, all that is known about one, and declaring values untrue."""

from __future__ import annotations

import base64
from typing import Any

from cachenode.console.fleet import Fleet
from cachenode.console.guard import Caller
from cachenode.console.refusals import Refused
from cachenode.console.requests import Body
from cachenode.core.texts import shown, version
from cachenode.findings.explained import NOT_BELIEVED, NOT_SERVED, document, notes
from cachenode_api.v1 import admin_pb2, cache_pb2, common_pb2

__all__ = ["KeyCalls"]

_WALK_S = 10.0
_KINDS = ("key", "prefix", "pattern", "tag", "namespace")


class KeyCalls:
    """Answers them.

    Args:
        fleet: The members.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def hot_keys(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Return the keys that are read most."""
        limit = int(body.number("limit", 20, 1, 100))
        request = admin_pb2.HotKeysRequest(namespace=body.namespace(""), limit=limit)
        answers = await self._fleet.all("HotKeys", request, caller.token)
        rows = [
            _named(each.namespace, each.key, node)
            | {"reads_per_s": round(each.reads_per_s, 2), "share": round(each.share, 4)}
            for node, answer in answers.items()
            for each in (answer.keys if answer is not None else ())
        ]
        return {"keys": sorted(rows, key=lambda row: -row["reads_per_s"])[:limit], "silent": _silent(answers)}

    async def big_keys(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Return the largest values."""
        limit = int(body.number("limit", 20, 1, 100))
        request = admin_pb2.BigKeysRequest(namespace=body.namespace(""), limit=limit)
        answers = await self._fleet.all("BigKeys", request, caller.token, _WALK_S)
        rows = [
            _named(each.namespace, each.key, node)
            | {"size": each.size, "ttl_s": each.ttl_ms / 1_000 if each.HasField("ttl_ms") else None}
            for node, answer in answers.items()
            for each in (answer.keys if answer is not None else ())
        ]
        return {"keys": sorted(rows, key=lambda row: -row["size"])[:limit], "silent": _silent(answers)}

    async def explain(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Return what the nodes know about a key, and never its value."""
        namespace, raw = body.namespace(), body.key()
        view, request = self._fleet.view, admin_pb2.ExplainRequest(namespace=namespace, key=raw)
        answers = await self._fleet.all("Explain", request, caller.token)
        key = shown(raw)
        found = document(key, raw, namespace, view, answers)
        for node in found["nodes"]:
            answer = answers[node["id"]]
            if answer is not None:
                node |= {"l1_why": NOT_SERVED.get(answer.l1_state, ""), "l2_why": NOT_BELIEVED.get(answer.l2_state, "")}
                for layer in (node["l1"], node["l2"]):
                    if layer is not None and "version" in layer:
                        layer["version"] = version(layer["version"])
        coded = base64.b64encode(raw).decode()
        return found | {"key_base64": coded, "notes": list(notes(key, view, answers)), "silent": _silent(answers)}

    async def invalidate(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Declare values untrue."""
        kind, namespace = body.text("kind"), body.namespace()
        if kind not in _KINDS:
            raise Refused(400, f"kind: must be one of {', '.join(_KINDS)}")
        request = cache_pb2.InvalidateRequest(namespace=namespace)
        if body.flag("expire"):
            request.mode = common_pb2.INVALIDATION_MODE_EXPIRE
        if kind == "key":
            request.keys.append(body.key())
        elif kind == "namespace":
            request.whole_namespace = True
        else:
            text = body.text("text")
            if not text:
                raise Refused(400, "text: is empty", "To invalidate all of a namespace choose that.")
            try:
                _put(request, kind, text)
            except UnicodeEncodeError:
                raise Refused(400, "text: cannot be encoded as UTF-8") from None
        done = await self._fleet.cache("Invalidate", request, caller.token)
        return {"found": done.found}


def _put(request: cache_pb2.InvalidateRequest, kind: str, text: str) -> None:
    if kind == "tag":
        text.encode()
        request.tags.append(text)
    else:
        (request.prefixes if kind == "prefix" else request.patterns).append(text.encode())


def _named(namespace: str, key: bytes, node: str) -> dict[str, Any]:
    """Return a key as text for people, and as bytes for what is done next to it."""
    return {"namespace": namespace, "key": shown(key), "key_base64": base64.b64encode(key).decode(), "node": node}


def _silent(answers: Any) -> list[str]:  # noqa: ANN401 - of any call
    return [node for node, answer in answers.items() if answer is None]
