from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

from cachenode.cli import explain
from cachenode.cli.admin import Asked
from cachenode.findings import explained
from cachenode.server import Server
from cachenode_api.ring import Ring
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import common_pb2
from cachenode_api.version import make_version
from cachenode_api.view import Member, View
from cachenode_client import CacheClient

Invoke = Callable[..., Result]
VIEW = View(5, b"0123456789abcdef", tuple(Member(f"node-{at}", "1", f"n{at}:1") for at in range(3)))
ASKED = Asked(VIEW, "node-0", "n0:1")
OWNER = Ring(VIEW).owner(b"k") or ""
OTHER = next(member.id for member in VIEW.members if member.id != OWNER)


def answer(name: str, **fields: Any) -> pb.ExplainResponse:
    known: dict[str, Any] = {"owner": OWNER, "ready": True, "l2_state": "absent"}
    header = common_pb2.ResponseHeader(node_id=name, view_epoch=fields.pop("epoch", 5))
    return pb.ExplainResponse(header=header, **known | fields)


def held(sequence: int = 1, **fields: Any) -> pb.HeldEntry:
    return pb.HeldEntry(**{"version": make_version(3, sequence), "ttl_ms": 90_000, "size": 12} | fields)


def printed(capsys: pytest.CaptureFixture[str], *answers: pb.ExplainResponse) -> str:
    explain._print("k", "default", ASKED, {each.header.node_id: each for each in answers})
    return capsys.readouterr().out


async def test_key_of_a_node(server: Server, invoke: Invoke) -> None:
    """Both forms show where the value is and never the value."""
    async with CacheClient(server.address, timeout_s=10, near_cache=None) as cache:
        await cache.set("k", "secret", tags=["red"], ttl_s=60)
        await cache.invalidate(prefix="user:")
    result = await asyncio.to_thread(invoke, "explain", "k", "--address", server.address)
    assert result.exit_code == 0
    assert "k in namespace default belongs to node-0 (view 1)." in result.output
    assert all(text in result.output for text in ("owner", "left, 6 B", "not used", "Tags: red."))
    assert "secret" not in result.output
    assert "user:" not in result.output
    result = await asyncio.to_thread(invoke, "explain", "k", "--address", server.address, "-o", "json")
    document = json.loads(result.output)
    (node,) = document["nodes"]
    assert (document["owner"], document["epoch"], node["owner"], node["settled"]) == ("node-0", 1, True, True)
    assert (node["l1"]["state"], node["l1"]["size"], node["l1"]["tags"]) == ("served", 6, ["red"])
    assert (node["l2"], node["lease_s"], node["barriers"]) == ({"state": "off"}, None, [])
    assert "secret" not in result.output


def test_roles(capsys: pytest.CaptureFixture[str]) -> None:
    """Who acts for the key, who passes on, and who cannot act just now."""
    text = printed(capsys, answer(OWNER), answer(OTHER))
    assert f"passes on to {OWNER}" in text
    assert any(line.split()[:2] == [OWNER, "owner"] for line in text.splitlines())
    assert "not settled: reads go to L2, writes wait" in printed(capsys, answer(OWNER, gained=True))
    assert "lease over: keeps and writes nothing" in printed(capsys, answer(OWNER, fenced=True))
    assert "not in the view" in printed(capsys, answer(OWNER, ready=False))
    assert "different views" in printed(capsys, answer(OWNER), answer(OTHER, epoch=4))


def test_who_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """A node without an answer is shown as such, in both forms."""
    explain._print("k", "default", ASKED, {OWNER: None})
    assert "does not answer" in capsys.readouterr().out
    assert explained.document("k", b"k", "default", VIEW, {OWNER: None})["nodes"] == [{"id": OWNER, "answers": False}]


@pytest.mark.parametrize("state", [state for state in explained.NOT_BELIEVED if state not in {"absent", "off"}])
def test_why_l2_is_not_believed(capsys: pytest.CaptureFixture[str], state: str) -> None:
    """Each reason is told in words, with the entry if it is known."""
    assert explained.NOT_BELIEVED[state] in printed(capsys, answer(OWNER, l2_state=state))
    text = printed(capsys, answer(OWNER, l2_state=state, l2=held()))
    assert f"version 3:1, 1m 30s left, 12 B; {explained.NOT_BELIEVED[state]}" in text


def test_layers(capsys: pytest.CaptureFixture[str]) -> None:
    """What memory holds and does not serve is marked; copies are counted."""
    never = held()
    never.ClearField("ttl_ms")
    text = printed(
        capsys, answer(OWNER, l1=never, l1_state="served", l2=held(), l2_state="believed", near_holders=1_200)
    )
    assert "version 3:1, never expires, 12 B" in text
    assert "1,200" in text
    for state, why in (explained.NOT_SERVED | {"stale": explained.STALE}).items():
        assert why in printed(capsys, answer(OWNER, l1=held(), l1_state=state))
    assert explained.STALE in printed(capsys, answer(OWNER, l2=held(), l2_state="stale"))
    document = explained.of_node(OWNER, answer(OWNER, l1=never, l2=held(position=7), l2_state="believed"))
    assert document["l1"]["ttl_s"] is None
    assert (document["l2"]["ttl_s"], document["l2"]["position"]) == (90, 7)


def test_barriers(capsys: pytest.CaptureFixture[str]) -> None:
    """Each barrier is told once, and whether it came before or after the value that L2 holds."""
    barriers = [
        pb.CoveringBarrier(position=make_version(3, 4), kind=common_pb2.SELECTOR_PREFIX, text=b"k"),
        pb.CoveringBarrier(position=make_version(3, 9), kind=common_pb2.SELECTOR_TAG, text=b"a\nb", expires=True),
    ]
    stored = held(position=make_version(3, 4))
    fields = {"barriers": barriers, "l2": stored, "l2_state": "barred", "floor": make_version(2, 1)}
    text = printed(capsys, answer(OWNER, **fields), answer(OTHER, **fields))
    assert text.count("Invalidated by prefix k at 3:4 (before L2's value was written).") == 1
    assert "Expired by tag a\\x0ab at 3:9 (after L2's value was written)." in text
    assert "Invalidated with all of the namespace at 2:1 (before L2's value was written)." in text
    assert "Invalidated by prefix k at 3:4.\n" in printed(capsys, answer(OWNER, barriers=barriers))
    assert explained.of_node(OWNER, answer(OWNER, **fields))["barriers"][1]["kind"] == "tag"
    assert [each["expires"] for each in explained.of_node(OWNER, answer(OWNER, **fields))["barriers"]] == [False, True]


def test_what_is_under_way(capsys: pytest.CaptureFixture[str]) -> None:
    """Loads, writes and removals are told of the node that knows them."""
    loads = [
        pb.LoadUnderWay(lease_s=4.25, waiting=3, storable=True),
        pb.LoadUnderWay(lease_s=1, waiting=0, storable=False),
    ]
    version = make_version(5, 6)
    text = printed(capsys, answer(OWNER, loads=loads, load_pause_s=0.2, writing=version, changing=1, tombstone=version))
    assert f"{OWNER}: being loaded, 3 waiting; another may load in 4.2 s.\n" in text
    assert "the value will not be stored, since the key changed meanwhile" in text
    assert "since the owner could not be reached" in printed(capsys, answer(OTHER, loads=loads))
    assert "no load for 0.2 s, because the last one failed" in text
    assert "version 5:6 is on its way to L2" in text
    assert "removed at 5:6; nothing older is stored" in text
    assert "2 changes under way" in printed(capsys, answer(OWNER, changing=2))
    document = explained.of_node(OWNER, answer(OWNER, loads=loads))
    assert document["loads"][0] == {"lease_s": 4.25, "waiting": 3, "storable": True}


def test_adaptive_life(capsys: pytest.CaptureFixture[str]) -> None:
    """Which life a value would get and why, from the owner alone; both forms say it."""
    known = {"adaptive_ttl_s": 14_400.0, "accesses": 312, "since_access_s": 4.0, "hit_rate": 0.4567}
    rule = {"adaptive_rule": ">100: 4h"}
    text = printed(capsys, answer(OWNER, **known, **rule), answer(OTHER, adaptive_ttl_s=900.0))
    expected = "asked for 312 times lately, the last time but one 4.0s ago, hit rate 46%; rule >100: 4h."
    assert text.count("A new value would live for") == 1
    assert f"A new value would live for 4h 0m: {expected}" in " ".join(text.split())
    once = printed(capsys, answer(OWNER, adaptive_ttl_s=900.0, accesses=1, adaptive_rule="15m"))
    assert "A new value would live for 15m 0s: asked for 1 time lately; rule 15m." in " ".join(once.split())
    told = {OWNER: answer(OWNER, **known, **rule), OTHER: answer(OTHER)}
    first, second = explained.document("k", b"k", "default", VIEW, told)["nodes"]
    assert first["adaptive_ttl"] == {
        "ttl_s": 14_400.0,
        "rule": ">100: 4h",
        "accesses": 312,
        "since_access_s": 4.0,
        "hit_rate": 0.4567,
    }
    assert second["adaptive_ttl"] is None


def test_admission(capsys: pytest.CaptureFixture[str]) -> None:
    """Whether a loaded value would be kept, from the owner alone; what is there already is kept."""
    text = " ".join(printed(capsys, answer(OWNER, accesses=1, admit_after=3), answer(OTHER, admit_after=3)).split())
    assert text.count("A value loaded now") == 1
    assert "would not be kept: asked for 1 time lately, and values are kept from 3 on." in text
    assert "would be kept: asked for 3 times lately" in printed(capsys, answer(OWNER, accesses=3, admit_after=3))
    assert "would be kept" in printed(capsys, answer(OWNER, accesses=1, admit_after=3, l1=held(), l1_state="served"))
    told = {OWNER: answer(OWNER, accesses=1, admit_after=3), OTHER: answer(OTHER)}
    nodes = explained.document("k", b"k", "default", VIEW, told)["nodes"]
    assert [node["admission"] for node in nodes] == [{"accesses": 1, "after": 3}, None]


def test_origin_and_absence(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nodes load the value from, that there is none, for how long that is believed, and that a node loads it."""
    load = pb.LoadUnderWay(lease_s=4.25, waiting=3, storable=True)
    found = answer(OWNER, origin="db", absent_s=2.5, loads_itself=True, loads=[load])
    text = printed(capsys, found)
    assert "Origin: db." in text
    assert f"{OWNER}: believes for 2.5 s that the origin has nothing.\n" in text
    assert f"{OWNER}: being loaded from the origin, 3 waiting; another may load in 4.2 s.\n" in text
    document = explained.of_node(OWNER, found)
    assert (document["origin"], document["absent_s"], document["loads_itself"]) == ("db", 2.5, True)
    plain = explained.of_node(OWNER, answer(OWNER))
    assert plain["remote_marker"] is None
    assert (plain["origin"], plain["absent_s"], plain["loads_itself"]) == (None, None, False)


def test_remote_marker(capsys: pytest.CaptureFixture[str]) -> None:
    """Which region's origin is asked, for how long, and why."""
    found = answer(OWNER, origin="db", loads_from="east", marked_s=2.5)
    why = "which has a change that this one's may lack"
    assert f"{OWNER}: loads it from the origin of region east for 2.5 s, {why}.\n" in printed(capsys, found)
    assert explained.of_node(OWNER, found)["remote_marker"] == {"region": "east", "left_s": 2.5}
