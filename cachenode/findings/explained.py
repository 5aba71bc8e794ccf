"""What nodes know about a key, for programs and in sentences for people; never its value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cachenode.core.texts import count, seconds, shown, version
from cachenode_api.ring import Ring
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.view import View

__all__ = ["NOT_BELIEVED", "NOT_SERVED", "STALE", "Answers", "document", "notes", "of_node", "owner_of"]

_KINDS = {1: "prefix", 2: "pattern", 3: "tag", 4: "namespace"}
NOT_SERVED = {
    "moved": "not served: the key moved away",
    "barred": "not served: invalidated, and about to be removed",
}
STALE = "stale: served marked until it ends, or is loaded anew"
NOT_BELIEVED = {
    "absent": "nothing",
    "off": "not used",
    "away": "not asked: it has failed, and is tried each second",
    "failed": "did not answer",
    "lost": "not asked: it lost its history, and is brought up to date",
    "adopting": "not asked: invalidations before this node came are being learned",
    "missed": "not believed: it may lack a write of this key",
    "forgotten": "not believed: it may lack writes, of this key too",
    "barred": "not believed: invalidated since",
}

Answers = Mapping[str, pb.ExplainResponse | None]


def owner_of(view: View, key: bytes) -> str:
    """Return the id of the member that owns a key."""
    return Ring(view).owner(key) or ""


def document(key: str, raw: bytes, namespace: str, view: View, answers: Answers) -> dict[str, Any]:
    """Return what the nodes know about a key, for programs."""
    nodes = [of_node(name, answer) for name, answer in answers.items()]
    owner = owner_of(view, raw)
    return {"key": key, "namespace": namespace, "epoch": view.epoch, "owner": owner, "nodes": nodes}


def of_node(name: str, answer: pb.ExplainResponse | None) -> dict[str, Any]:
    """Return what one node knows."""
    if answer is None:
        return {"id": name, "answers": False}
    return {
        "id": name,
        "answers": True,
        "epoch": answer.header.view_epoch,
        "owner": answer.owner == name,
        "settled": not answer.gained,
        "ready": answer.ready,
        "fenced": answer.fenced,
        "lease_s": round(answer.lease_s, 3) if answer.HasField("lease_s") else None,
        "l1": _of_entry(answer.l1, answer.l1_state) if answer.HasField("l1") else None,
        "l2": (_of_entry(answer.l2, answer.l2_state) | {"position": answer.l2.position})
        if answer.HasField("l2")
        else {"state": answer.l2_state},
        "barriers": [
            {
                "kind": _KINDS.get(each.kind, str(each.kind)),
                "text": shown(each.text),
                "position": each.position,
                "expires": each.expires,
            }
            for each in answer.barriers
        ],
        "floor": answer.floor,
        "near_holders": answer.near_holders,
        "loads": [
            {"lease_s": round(load.lease_s, 3), "waiting": load.waiting, "storable": load.storable}
            for load in answer.loads
        ],
        "load_pause_s": round(answer.load_pause_s, 3),
        "writing": answer.writing,
        "changing": answer.changing,
        "tombstone": answer.tombstone,
        "origin": answer.origin or None,
        "absent_s": round(answer.absent_s, 3) if answer.HasField("absent_s") else None,
        "loads_itself": answer.loads_itself,
        "remote_marker": {"region": answer.loads_from, "left_s": round(answer.marked_s, 3)}
        if answer.loads_from
        else None,
        "depends_on": [
            {"namespace": each.parent.namespace, "key": shown(each.parent.key), "direct": each.direct}
            for each in answer.depends_on
        ],
        "dependents": answer.dependents,
        "adaptive_ttl": _adaptive(answer) if answer.HasField("adaptive_ttl_s") else None,
        "admission": {"accesses": answer.accesses, "after": answer.admit_after} if answer.admit_after else None,
    }


def _adaptive(answer: pb.ExplainResponse) -> dict[str, Any]:
    return {
        "ttl_s": answer.adaptive_ttl_s,
        "rule": answer.adaptive_rule,
        "accesses": answer.accesses,
        "since_access_s": answer.since_access_s if answer.HasField("since_access_s") else None,
        "hit_rate": round(answer.hit_rate, 4) if answer.HasField("hit_rate") else None,
    }


def _of_entry(entry: pb.HeldEntry, state: str) -> dict[str, Any]:
    return {
        "state": state,
        "version": entry.version,
        "ttl_s": entry.ttl_ms / 1_000 if entry.HasField("ttl_ms") else None,
        "size": entry.size,
        "tags": list(entry.tags),
    }


def notes(key: str, view: View, answers: Answers) -> Iterator[str]:
    """Yield what is to be known about a key besides where its value is, in sentences."""
    known = {name: answer for name, answer in answers.items() if answer is not None}
    held = [answer.l1 for answer in known.values()] + [answer.l2 for answer in known.values()]
    tags = sorted({tag for entry in held for tag in entry.tags})
    if tags:
        yield f"Tags: {', '.join(shown(tag.encode()) for tag in tags)}."
    yield from _dependencies(key, known)
    yield from _barriers(known)
    origins = sorted({answer.origin for answer in known.values() if answer.origin})
    if origins:
        yield f"Origin: {', '.join(origins)}. A get that finds nothing has the owner load the value from there."
    for name, answer in known.items():
        for note in _under_way(answer):
            yield f"{name}: {note}."
        if answer.owner == name and answer.HasField("adaptive_ttl_s"):
            yield _adaptive_note(answer)
        if answer.owner == name and answer.admit_after:
            yield _admission_note(answer)
    if {answer.header.view_epoch for answer in known.values()} - {view.epoch}:
        yield "The nodes hold different views: one is on its way. Look again in a few seconds."


def _admission_note(answer: pb.ExplainResponse) -> str:
    """Say whether a loaded value would be kept."""
    kept = answer.HasField("l1") or answer.accesses >= answer.admit_after
    asked = f"asked for {count(answer.accesses)} {'time' if answer.accesses == 1 else 'times'} lately"
    why = f"{asked}, and values are kept from {count(answer.admit_after)} on"
    return f"A value loaded now would {'be kept' if kept else 'not be kept'}: {why}."


def _dependencies(key: str, known: Mapping[str, pb.ExplainResponse]) -> Iterator[str]:
    """Say what the value depends on, and how much depends on it."""
    parents = {
        (each.parent.namespace, each.parent.key): each.direct for answer in known.values() for each in answer.depends_on
    }
    for direct, over in ((True, ""), (False, ", over those,")):
        names = sorted(f"{name}/{shown(parent)}" for (name, parent), kind in parents.items() if kind is direct)
        if names:
            yield f"Depends{over} on {', '.join(names)}."
    dependents = sum(answer.dependents for answer in known.values())
    if dependents:
        entries = "1 entry depends" if dependents == 1 else f"{count(dependents)} entries depend"
        yield f"{entries} on it: see `cachenode dependents {shown(key.encode())}`."


def _adaptive_note(answer: pb.ExplainResponse) -> str:
    """Say which life a value would get that brings none, and what it is derived from."""
    asked = f"asked for {count(answer.accesses)} {'time' if answer.accesses == 1 else 'times'} lately"
    if answer.HasField("since_access_s"):
        asked = f"{asked}, the last time but one {seconds(answer.since_access_s)} ago"
    if answer.HasField("hit_rate"):
        asked = f"{asked}, hit rate {answer.hit_rate:.0%}"
    return f"A new value would live for {seconds(answer.adaptive_ttl_s)}: {asked}; rule {answer.adaptive_rule}."


def _barriers(known: Mapping[str, pb.ExplainResponse]) -> Iterator[str]:
    """Say what was invalidated; the value in L2 tells whether that came before it."""
    positions = [answer.l2.position for answer in known.values() if answer.HasField("l2")]
    barriers = {
        (each.position, each.kind, each.text, each.expires) for answer in known.values() for each in answer.barriers
    }
    for position, kind, text, expires in sorted(barriers):
        done = "Expired" if expires else "Invalidated"
        what = f"{done} by {_KINDS.get(kind, 'an unknown selector')} {shown(text)} at {version(position)}"
        yield f"{what}{_compared(position, positions)}."
    floor = max((answer.floor for answer in known.values()), default=0)
    if floor:
        yield f"Invalidated with all of the namespace at {version(floor)}{_compared(floor, positions)}."


def _compared(position: int, positions: list[int]) -> str:
    if not positions:
        return ""
    return " (after L2's value was written)" if position > min(positions) else " (before L2's value was written)"


def _under_way(answer: pb.ExplainResponse) -> Iterator[str]:
    for load in answer.loads:
        by = "being loaded from the origin" if answer.loads_itself else "being loaded"
        note = f"{by}, {count(load.waiting)} waiting; another may load in {load.lease_s:.1f} s"
        if not load.storable:
            mine = answer.owner == answer.header.node_id
            why = "since the key changed meanwhile" if mine else "since the owner could not be reached"
            note = f"{note}; the value will not be stored, {why}"
        yield note
    if answer.loads_from:
        why = "which has a change that this one's may lack"
        yield f"loads it from the origin of region {answer.loads_from} for {answer.marked_s:.1f} s, {why}"
    if answer.HasField("absent_s"):
        yield f"believes for {answer.absent_s:.1f} s that the origin has nothing"
    if answer.load_pause_s:
        yield f"no load for {answer.load_pause_s:.1f} s, because the last one failed"
    if answer.writing:
        yield f"version {version(answer.writing)} is on its way to L2"
    elif answer.changing:
        yield f"{count(answer.changing)} {'change' if answer.changing == 1 else 'changes'} under way"
    if answer.tombstone:
        yield f"removed at {version(answer.tombstone)}; nothing older is stored"
