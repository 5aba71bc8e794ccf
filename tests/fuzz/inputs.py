"""What is thrown at decoders: messages with any content in their fields, and good bytes that were damaged."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from cachenode.core.entries import Operation
from cachenode_api.dependencies import Parent, canonical_parents, pack_references
from cachenode_api.records import DEPENDENT, EXTENDED, STALE, TAGGED
from cachenode_api.tags import canonical_tags, pack_tags
from cachenode_api.v1 import common_pb2, peer_pb2, session_pb2

__all__ = ["CLIENT_FRAMES", "PEER_FRAMES", "damaged", "damaged_texts"]

_NUMBERS = st.sampled_from([0, 1, 2, 3, 255, 1_000, (1 << 31) - 1, (1 << 32) - 1])
_LONG = _NUMBERS | st.sampled_from([1 << 40, (1 << 63) - 1, (1 << 64) - 1])
_KEYS = st.sampled_from([b"a", b"b", b"user:1", b"k" * 1_024, b"k" * 1_025, b"", b"\xff\0*[", b"a*b*c?[a-z]"])
_NAMESPACES = st.sampled_from(["", "default", "other", "n" * 65, "\0"])
_TAGGED = pack_tags(canonical_tags(["t", "user:1"])) + b"value"
_PARENTS = pack_references(canonical_parents([Parent("default", b"a")], "default"))
_VALUES = st.sampled_from([b"", b"17", b"value", _TAGGED, _TAGGED[:3], bytes(70_000)]) | st.binary(max_size=64)
_FLAGS = st.sampled_from([0, 1, STALE, TAGGED, DEPENDENT, EXTENDED, TAGGED | STALE, (1 << 32) - 1])
_BLOCKS = st.sampled_from([b"", _PARENTS, _PARENTS[:-1], _PARENTS * 40]) | st.binary(max_size=32)
_OPERATIONS = st.sampled_from([0, *(operation.value for operation in Operation), 99])


@st.composite
def _batches(draw: st.DrawFn) -> common_pb2.Batch:
    count = draw(st.integers(0, 4))

    def column(of: st.SearchStrategy[object]) -> list[object]:
        size = draw(st.sampled_from([0, 0, 1, count, count]))
        return draw(st.lists(of, min_size=size, max_size=size))

    fields = {
        "id": draw(_NUMBERS),
        "operation": draw(_OPERATIONS),
        "namespace": draw(_NAMESPACES),
        "keys": draw(st.lists(_KEYS, min_size=count, max_size=count)),
        "values": column(_VALUES),
        "flags": column(_FLAGS),
        "ttls_ms": column(_LONG),
        "tokens": column(_LONG),
        "details": column(st.sampled_from(["", "failed", "x" * 300])),
        "if_versions": column(_LONG),
        "deltas": column(st.sampled_from([0, 1, -1, (1 << 63) - 1, -(1 << 63)])),
        "depends_on": column(_BLOCKS),
        "timeout_ms": draw(st.sampled_from([0, 1, 5])),
        "lease_ms": draw(_NUMBERS),
        "soft_timeout_ms": draw(st.sampled_from([0, 1])),
        "epoch": draw(_NUMBERS),
        "position": draw(_LONG),
        "slide": draw(st.booleans()),
        "slide_ms": draw(_NUMBERS),
        "stand_in": draw(st.booleans()),
        "mode": draw(st.sampled_from([0, 1, 2])),
        "acknowledgement": draw(st.sampled_from([0, 1, 2])),
    }
    return common_pb2.Batch(**fields)  # type: ignore[arg-type]


@st.composite
def _client_frames(draw: st.DrawFn) -> bytes:
    frame = session_pb2.ClientFrame(
        hello=draw(st.none() | st.builds(session_pb2.ClientHello, near_cache=st.booleans())),
        batches=draw(st.lists(_batches(), max_size=3)),
        heartbeat=draw(st.none() | st.builds(common_pb2.Heartbeat, nonce=_LONG)),
        acknowledged=draw(_LONG),
        goodbye=draw(st.sampled_from([False, False, False, True])),
    )
    return frame.SerializeToString()


@st.composite
def _peer_frames(draw: st.DrawFn) -> bytes:
    member = common_pb2.Member(id=draw(st.sampled_from(["b", "a", "", "z"])), incarnation="1", address="b:7401")
    view = common_pb2.View(epoch=draw(_LONG), ring_seed=draw(st.binary(max_size=70)), vnodes=160, members=[member])
    frame = peer_pb2.PeerFrame(
        hello=draw(st.none() | st.just(peer_pb2.PeerHello(member=member, cluster="c"))),
        requests=draw(st.lists(_batches(), max_size=3)),
        heartbeat=draw(st.none() | st.builds(common_pb2.Heartbeat, nonce=_LONG, answer=st.booleans())),
        view=draw(st.none() | st.just(view)),
        replies=draw(
            st.lists(
                st.builds(
                    common_pb2.Reply,
                    id=_NUMBERS,
                    indices=st.lists(_NUMBERS, max_size=3),
                    records=st.lists(st.binary(max_size=40), max_size=3),
                    versions=st.lists(_LONG, max_size=3),
                    reasons=st.lists(st.integers(0, 99), max_size=3),
                ),
                max_size=2,
            )
        ),
    )
    return frame.SerializeToString()


@st.composite
def damaged(draw: st.DrawFn, good: Sequence[bytes]) -> bytes:
    """Good bytes that were cut, doubled, or had some changed; or bytes that are no good at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    data = bytearray(draw(st.sampled_from(good)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.integers(0, 4)):
            case 0:
                del data[at:]
            case 1:
                data[at : at + 1] = bytes((draw(st.integers(0, 255)),))
            case 2:
                data[at:at] = draw(st.binary(max_size=8))
            case 3:
                data[at : at + draw(st.integers(1, 16))] = b""
            case _:
                data += data[at:]
    return bytes(data)


def damaged_texts(good: Sequence[str]) -> st.SearchStrategy[bytes]:
    """The same for texts, with the characters that matter to grammars put in."""
    special = [text.encode() for text in good]
    special += [b"*", b"[", b"\\", b"{", b"}", b'"', b"=", b"[[", b"\n", b"://", b"@", b"%", b"\xff", b"9" * 20]
    return damaged(special) | st.lists(st.sampled_from(special), max_size=5).map(b"".join)


_SOME_CLIENT = session_pb2.ClientFrame(
    batches=[common_pb2.Batch(id=1, operation=common_pb2.OPERATION_SET, keys=[b"a", b"b"], values=[b"1", b"2"])]
).SerializeToString()
_SOME_PEER = peer_pb2.PeerFrame(
    hello=peer_pb2.PeerHello(member=common_pb2.Member(id="b", incarnation="1", address="b:1"), cluster="c")
).SerializeToString()
CLIENT_FRAMES = _client_frames() | damaged([_SOME_CLIENT])
"""Frames of a session."""
PEER_FRAMES = _peer_frames() | damaged([_SOME_PEER])
"""Frames of a link."""
