"""What reads bytes that others wrote, each as a function of bytes: it must return, or raise what it says it raises.

A target is given bytes of any kind. Errors that its code documents are answers; any other exception is a finding, and
so is a target that takes longer than `LONGEST_S` for input of this size.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError as WireError
from hypothesis import strategies as st

from cachenode.adapters.link import Link
from cachenode.adapters.tokens import TokenFile
from cachenode.config import load_config
from cachenode.config.values import parse_address, parse_size, parse_ttl, parse_url, redact_url
from cachenode.core import envelope
from cachenode.core.adaptive_ttl import parse_step
from cachenode.core.bloom import Base, Bloom, Source
from cachenode.core.entries import Batch, BatchResult, QueuedWrite
from cachenode.core.events import EventRule, EventRules, parse_event
from cachenode.core.policy import NamespacePolicy
from cachenode.core.queued import pack_record, unpack_record
from cachenode.core.saved_filters import BadRecord, Head, Index, Record, Refused, plan_merge
from cachenode.core.schedule import parse_schedule
from cachenode.core.signatures import Signatures, signed
from cachenode.errors import ConfigError, EventRefused
from cachenode.rpc.session import SessionLimits, SessionService
from cachenode_api.dependencies import Parent, canonical_parents, pack_references, split_references
from cachenode_api.errors import ContractError, InvalidSelector
from cachenode_api.globs import Glob
from cachenode_api.keys import canonical_key
from cachenode_api.records import HEADER_BYTES
from cachenode_api.selectors import make_selector
from cachenode_api.tags import canonical_tags, pack_tags, split_tags, tags_length
from cachenode_api.v1 import peer_pb2, session_pb2
from cachenode_client._address import parse_address as parse_client_address
from cachenode_client._compression import compression_by_id
from cachenode_client.errors import CacheError, InvalidArgument
from cachenode_client.serializers import builtin_by_id
from tests.adapters.test_link import Owner
from tests.fuzz.inputs import CLIENT_FRAMES, PEER_FRAMES, damaged, damaged_texts
from tests.support.clock import ManualClock
from tests.support.cluster import new_node

__all__ = ["LONGEST_S", "TARGETS", "Target"]

LONGEST_S = 5.0
_TURNS = 12
"""Turns of the loop in which what needs no other node is done; the rest waits for others, and is given up."""


class Target(NamedTuple):
    """What is tested, and with what."""

    run: Callable[[bytes], object]
    inputs: st.SearchStrategy[bytes]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


# The wire, as far as a node takes it.

_LINKED = NamespacePolicy(name="other", ttl_s=60.0, max_value_bytes=1 << 20, l2=False, share=1.0, stale_s=5.0)


class _Stream:
    """The writing side of a session."""

    async def write(self, frame: session_pb2.ServerFrame) -> None:
        frame.SerializeToString()


def _soon(work: Coroutine[Any, Any, object]) -> None:
    """Run something for a few turns of a loop of its own; what has not ended then is cancelled."""

    async def run() -> None:
        task = asyncio.ensure_future(work)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    failures: list[dict[str, Any]] = []
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda _, context: failures.append(context))
        runner.run(run())
    for failure in failures:
        raise failure.get("exception") or AssertionError(failure["message"])


def _client_frame(data: bytes) -> None:
    """A session gets a frame twice, on a node of its own."""
    try:
        frame = session_pb2.ClientFrame.FromString(data)
    except WireError:
        return

    async def frames() -> AsyncIterator[session_pb2.ClientFrame]:
        yield frame
        yield frame
        await asyncio.Event().wait()

    async def talk() -> None:
        node = new_node("a", ManualClock(), policies=[_LINKED])
        node.execute = _watched(node.execute)  # type: ignore[method-assign]
        service = SessionService(node, SessionLimits(max_sessions=1, max_batch_keys=1_000, max_frame_bytes=1 << 22))
        await service.Session(frames(), _Stream())  # type: ignore[arg-type]

    _soon(talk())


def _watched(execute: Callable[..., Any]) -> Callable[..., Any]:
    """Return a node's `execute` that looks at the answers: each key once, with columns of fitting lengths."""

    def run(batch: Batch, reply: Callable[[BatchResult], None], **options: Any) -> Any:
        answered: Counter[int] = Counter()

        def take(result: BatchResult) -> None:
            answered.update(range(len(batch.keys)) if result.indices is None else result.indices)
            assert all(count == 1 for count in answered.values()), "a key is answered twice"
            assert set(answered) <= set(range(len(batch.keys))), "a key is answered that was not asked for"
            reply(result)

        return execute(batch, take, **options)

    return run


def _peer_frame(data: bytes) -> None:
    """A link of a node gets a frame twice, after a greeting."""
    try:
        frame = peer_pb2.PeerFrame.FromString(data)
    except WireError:
        return
    hello = peer_pb2.PeerHello(cluster="c")
    hello.member.id, hello.member.incarnation, hello.member.address = "b", "1", "b:7401"

    async def frames() -> AsyncIterator[peer_pb2.PeerFrame]:
        yield peer_pb2.PeerFrame(hello=hello)
        yield frame
        yield frame
        await asyncio.Event().wait()

    async def write(sent: peer_pb2.PeerFrame) -> None:
        sent.SerializeToString()

    async def talk() -> None:
        clock = ManualClock()
        owner, node = Owner("a", clock), new_node("a", clock, policies=[_LINKED])
        watched = _watched(node.execute)
        owner.execute = lambda batch, reply: watched(batch, reply, from_peer=True)  # type: ignore[method-assign]
        link = Link(owner, write, dialled=False)
        try:
            await link.run(frames())
        except (ContractError, ValueError):  # which end the link
            pass
        finally:
            link.close()

    _soon(talk())


# What lies in the shared store, in queues and in values.


def _stored_entry(data: bytes) -> None:
    entry = envelope.decode(data, 0)
    if entry is not None:
        assert len(entry.value) <= len(data)


def _queue_entry(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        write = unpack_record(b"k", data)
        assert pack_record(write)[: len(data)] == data or write.value is None


def _tags_and_parents(data: bytes) -> None:
    with contextlib.suppress(ContractError):
        tags, value = split_tags(data)
        assert value == data[tags_length(data) :]
        if tags == tuple(sorted(set(tags))):
            assert pack_tags(tags) + value == data
    with contextlib.suppress(ContractError):
        assert pack_references(split_references(data)) == data


_BASE = Base(1, 3, 5, False, 1_000, 0.01, 10, 0.0)


def _bloom(data: bytes) -> None:
    bloom = Bloom(1_000, 0.01)
    bloom.begin(1, 1_000, 0.01, 1, 0)
    bloom.take(1, 0, 1, data, _BASE, Source.BUILT)
    bloom.add(b"k")
    bloom.absent(b"k", lambda _key, _epoch: True, lambda _key, _tags, _position: False)


def _saved_record(data: bytes) -> None:
    """A node reads what another has saved of its filter, or something else."""
    text, _, body = data.partition(b"\0")
    with contextlib.suppress(BadRecord):
        Index.parse(text)
    with contextlib.suppress(BadRecord, Refused):
        record = Head.parse(text).with_body(body)
        plan_merge([record], epoch=4, members=[record.life], position=9).unite([record])
    record = Record(("a", "1"), 3, {3: (("a", "1"),)}, 5, _BASE, data[:8], (data[8:100],))  # no check gives it away
    with contextlib.suppress(Refused):
        plan_merge([record], epoch=4, members=[record.life], position=9).unite([record])


def _value(data: bytes) -> None:
    """A client reads a value that somebody else has stored."""
    for number in range(1, 5):
        with contextlib.suppress(CacheError):
            builtin_by_id(number)
    with contextlib.suppress(CacheError):
        builtin_by_id(1).loads(data)
    for number in range(1, 4):
        with contextlib.suppress(CacheError):
            compression = compression_by_id(number)
            with contextlib.suppress(Exception):  # whatever the library raises for damaged input, as it says
                assert len(compression.decompress(data, 10_000)) <= 10_000


# What people and programs write as text.


def _glob(data: bytes) -> None:
    pattern, _, key = data.partition(b"\0")
    with contextlib.suppress(InvalidSelector):
        glob = Glob(pattern[:256])
        glob.matches(key[:1_024])
        glob.matches(pattern)
    for kind in range(6):
        with contextlib.suppress(InvalidSelector):
            make_selector(kind, pattern).covers(key, [b"t"])


def _config(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(ConfigError):
            load_config(flags={}, environ={}, file=Path(file.name))


def _tokens(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(ConfigError):
            TokenFile(file.name).grants()


def _event_rule(data: bytes) -> None:
    template, _, payload = data.partition(b"\0")
    rule, problems = EventRule.parse("e", [_text(template)], [_text(template)] if len(data) % 2 else [])
    assert (rule is None) == bool(problems)
    rules = EventRules([rule] if rule is not None else [])
    for body in (payload, b'{"userId": "7*", "a": {"b": 1}}'):
        with contextlib.suppress(EventRefused):
            rules.plan("e", body)


def _webhook(data: bytes) -> None:
    header, _, body = data.partition(b"\0")
    Signatures().check(_text(header), body, [b"secret" * 4], 1_000.0)
    event = parse_event(body)
    if event is not None:
        with contextlib.suppress(EventRefused):
            EventRules().plan(event[0], event[1])


def _addresses(data: bytes) -> None:
    text = _text(data)
    for parse in (parse_address, parse_url, parse_size, parse_ttl, parse_step, parse_schedule):
        with contextlib.suppress(ValueError):
            parse(text)
    redacted = redact_url(f"redis://user:canary-7f3a@{text}")
    assert "canary-7f3a" not in redacted
    with contextlib.suppress(InvalidArgument):
        parse_client_address(text)
    with contextlib.suppress(ContractError):
        canonical_key(text)


_ENTRY = envelope.encode((1 << 40) + 1, 0, 0, b"value")
_QUEUED = [pack_record(QueuedWrite(b"k", value, 0, 7)) for value in (b"value", None)]
_TAGS = pack_tags(canonical_tags(["a", "user:1"])) + b"value"
_PARENTS = pack_references(canonical_parents([Parent("default", b"a"), Parent("users", b"b")], "default"))
_TOML = """[node]
listen = "127.0.0.1:7401"
[limits]
max_value_bytes = "64KiB"
[namespaces.users]
ttl_s = "5m"
adaptive_steps = [">100: 4h", "15m"]
[origins.db]
loader = "sql"
[[event]]
name = "user.updated"
invalidates = ["user:{userId}", "user:{userId}:*"]
""".splitlines(keepends=True)
_TOKEN = ['[[token]]\nname = "shop"\n', f'sha256 = "{"0f" * 32}"\n', 'role = "write"\n', 'namespaces = ["users"]\n']


def _saved() -> list[bytes]:
    record = Record(("a", "1"), 3, {3: (("a", "1"),)}, 5, _BASE, _saved_filter(), (b"key",))
    body = record.body()
    return [record.head(body) + b"\0" + body, Index(1_000, 0.01, (("a", "1"),)).save()]


def _saved_filter() -> bytes:
    from cachenode.core.bloom import KeyFilter

    return KeyFilter(1_000, 0.01).save()


TARGETS = {
    "client-frame": Target(_client_frame, CLIENT_FRAMES),
    "peer-frame": Target(_peer_frame, PEER_FRAMES),
    "stored-entry": Target(_stored_entry, damaged([_ENTRY, _ENTRY[:HEADER_BYTES]])),
    "queue-entry": Target(_queue_entry, damaged(_QUEUED)),
    "tags-and-parents": Target(_tags_and_parents, damaged([_TAGS, _PARENTS])),
    "bloom": Target(_bloom, damaged([_saved_filter()])),
    "saved-record": Target(_saved_record, damaged(_saved())),
    "value": Target(_value, damaged([b'{"a": [1, 2.5, null, "x"]}', b"\x28\xb5\x2f\xfd\x04\x00", b"\x04\x22\x4d\x18"])),
    "glob": Target(_glob, damaged_texts(["user:*", "[a-z]", "[!abc]", "\\*", "?", "\0user:1"])),
    "config": Target(_config, damaged_texts([*_TOML, "".join(_TOML)])),
    "tokens": Target(_tokens, damaged_texts([*_TOKEN, "".join(_TOKEN)])),
    "event-rule": Target(_event_rule, damaged_texts(["user:{userId}", "{a.b}", "*", '\0{"userId": 7}'])),
    "webhook": Target(
        _webhook, damaged_texts([signed(b"secret" * 4, 1_000, b"{}"), '\0{"event": "e", "fields": {}}', "t=1,v1="])
    ),
    "addresses": Target(
        _addresses,
        damaged_texts(
            [
                "redis://h:6379/0",
                "rediss+cluster://a,b",
                "unix:///s",
                "127.0.0.1:1",
                "[::1]:7",
                "64KiB",
                "5m",
                "* * * * *",
            ]
        ),
    ),
}
