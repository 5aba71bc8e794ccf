"""Short words for what goes over the streams, for whoever reads a trace."""

from __future__ import annotations

from typing import Any

from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER, HEADER_BYTES, TAGGED
from cachenode_api.tags import split_tags
from cachenode_api.v1 import common_pb2
from cachenode_api.version import epoch_of

__all__ = ["frame_text"]

_SHORT = 16


def frame_text(frame: Any) -> str:
    """Return what a frame of a session or a link says."""
    said = [_batch(batch) for batch in [*getattr(frame, "batches", ()), *getattr(frame, "requests", ())]]
    said += [
        f"drop {','.join(map(_text, [*each.keys, *each.selectors]))}" for each in getattr(frame, "invalidations", ())
    ]
    said += [_reply(reply) for reply in getattr(frame, "replies", ())]
    if frame.HasField("heartbeat"):
        beat = frame.heartbeat
        lease = getattr(beat, "lease_ms", 0)
        said.append(f"{'beat' if beat.answer else 'beat?'} {beat.nonce}{f' lease {lease}' if lease else ''}")
    if hasattr(frame, "view") and frame.HasField("view"):
        said.append(f"view {frame.view.epoch}")
    for name in ("settled_epoch", "acknowledged", "sequence", "draining", "leaving", "goodbye"):
        if getattr(frame, name, 0):
            said.append(f"{name} {int(getattr(frame, name))}")
    if frame.HasField("hello"):
        said.insert(0, "hello")
    return "; ".join(said)


def _batch(batch: Any) -> str:
    name = common_pb2.Operation.Name(batch.operation).removeprefix("OPERATION_")
    flags = batch.flags or [0] * len(batch.values)
    parts = [split_tags(value)[1] if flag & TAGGED else value for value, flag in zip(batch.values, flags, strict=False)]
    values = "=" + ",".join(map(_text, parts)) if parts else ""
    return f"#{batch.id} {name} {','.join(map(_text, batch.keys))}{values}"


def _reply(reply: Any) -> str:
    said = [f"#{reply.id}{list(reply.indices) or ''}"]
    said += [_record(record) for record in reply.records if record]
    said += [_version(version) for version in reply.versions]
    said += [Reason(reason).name for reason in reply.reasons if reason]
    if reply.near:
        said.append("near")
    return "->" + " ".join(said)


def _record(record: bytes) -> str:
    _, flags, version, _ = HEADER.unpack_from(record)
    value = record[HEADER_BYTES:]
    return f"{_text(split_tags(value)[1] if flags & TAGGED else value)}@{_version(version)}"


def _version(version: int) -> str:
    return f"v{epoch_of(version)}.{version & 0xFFFFFFFF}"


def _text(data: bytes) -> str:
    return data[:_SHORT].decode(errors="replace")
