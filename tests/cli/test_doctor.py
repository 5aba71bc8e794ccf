"""``cachenode doctor``: each rule on answers that are made up, and all of it against a real node."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cachenode.findings import CHECKS, Finding, Moment, Severity, examine
from cachenode.findings.sections import SECTIONS
from cachenode.server import Server
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import common_pb2
from tests.cli.conftest import Invoke


def node(**fields: Any) -> pb.GetStatsResponse:
    known: dict[str, Any] = {"incarnation": "1", "version": "1", "max_bytes": 100, "l2_state": "closed"}
    return pb.GetStatsResponse(**(known | fields))


def space(**fields: Any) -> pb.NamespaceStats:
    return pb.NamespaceStats(name="n", **fields)


def view(epoch: int = 3, **linked: bool) -> pb.GetViewResponse:
    peers = [pb.PeerState(node_id=name, linked=state) for name, state in linked.items()]
    return pb.GetViewResponse(header=common_pb2.ResponseHeader(view_epoch=epoch), peers=peers)


def moment(at_s: float, **stats: pb.GetStatsResponse | None) -> Moment:
    return Moment(at_s, {name: view() for name in stats}, stats)


def found(*namespaces: pb.NamespaceStats, **fields: Any) -> list[Finding]:
    """Return what is found at a node that had counted nothing a second before."""
    before = node(namespaces=[pb.NamespaceStats(name="n")], **fields)
    return examine(moment(0, a=before), moment(1, a=node(namespaces=namespaces, **fields)))


def test_nothing_is_wrong() -> None:
    """A busy node that answers most reads is well, and so is an idle one."""
    assert found(space(l1_hits=900, misses=100, loads=100)) == []
    assert found(space(l1_hits=1, misses=9)) == []


def test_members_that_do_not_answer_or_agree() -> None:
    """Who is silent, has another view, or does not hear its peer is named; that is critical."""
    after = Moment(1, {"a": view(3, b=False), "b": view(4)}, {"a": node(), "b": None})
    findings = examine(moment(0, a=node()), after)
    assert [(each.what, each.where) for each in findings] == [
        ("a member does not answer", "b"),
        ("nodes act under different views", ""),
        ("peers do not hear each other", "a"),
    ]
    assert {each.severity for each in findings} == {Severity.CRITICAL}


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({"evictions": 500}, "Memory is short"),
        ({"expirations": 500}, "raise ttl_s"),
        ({"invalidations": 500}, "more narrowly"),
        ({"negative_hits": 500}, "negative_ttl_s"),
        ({}, "asked for once only"),
    ],
)
def test_why_few_reads_find_a_value(fields: dict[str, int], remedy: str) -> None:
    """What happens most often besides the misses is what to do something about."""
    [finding] = found(space(l1_hits=100, misses=900, **fields))
    assert finding.what == "few reads find a value"
    assert finding.evidence == "10% of 1,000 reads"
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("namespace", "fields", "what"),
    [
        (space(l1_hits=900, misses=100, evictions=100), {"used_bytes": 90}, "memory is too small"),
        (space(loads=10, load_failures=5), {}, "loads fail"),
        (space(quota_refusals=1), {}, "a quota is full"),
        (space(loads=10, load_waits=400), {}, "many wait for few loads"),
        (space(queue_oldest_s=61), {}, "queued writes wait long"),
        (space(queue_dead_letters=1), {}, "an origin refuses writes"),
        (space(l1_hits=1_000), {"hottest_reads_per_s": 800}, "one key makes most of the load"),
        (space(), {"l2_state": "open"}, "L2 is not used"),
        (space(), {"origins": [pb.OriginStats(name="o", state="open")]}, "an origin is left alone"),
        (space(), {"origins": [pb.OriginStats(name="o", state="closed", waiting=3)]}, "keys wait for an origin"),
    ],
)
def test_each_rule(namespace: pb.NamespaceStats, fields: dict[str, Any], what: str) -> None:
    """What a rule looks for is found, and nothing else."""
    assert [each.what for each in found(namespace, **fields)] == [what]


def test_nodes_that_differ() -> None:
    """Different releases and settings, and a cluster without an L2, are warnings."""
    one = node(version="1", l2_state="off", namespaces=[space(policy_version=1)])
    other = node(version="2", l2_state="off", namespaces=[space(policy_version=2)])
    findings = examine(moment(0), moment(1, a=one, b=other))
    assert [each.what for each in findings] == [
        "there is no L2",
        "nodes of different releases",
        "nodes have different settings",
    ]
    assert {each.severity for each in findings} == {Severity.WARNING}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"state": "connected", "sending": True, "lag_s": 3.0, "lag_entries": 9}, []),
        ({"state": "cut", "sending": True, "lag_s": 61.0}, [("warning", "a region is behind")]),
        ({"state": "paused", "sending": True, "lag_s": 601.0}, [("critical", "a region is behind")]),
        ({"state": "refused", "sending": True}, [("critical", "a region refuses what it is told")]),
        ({"state": "no_store"}, [("critical", "a region is told nothing")]),
    ],
)
def test_links_to_regions(fields: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """What the node that sends says counts; a second one that waits says nothing."""
    one = node(namespaces=[space()], regions=[pb.RegionStats(name="west", **fields)])
    other = node(namespaces=[space()], regions=[pb.RegionStats(name="west", state="waiting")])
    findings = examine(moment(0), moment(1, a=one, b=other))
    assert [(each.severity.value, each.what) for each in findings] == expected
    assert {each.section for each in findings} <= {"CacheNodeRegionBehind"}


def test_outbox_that_takes_nothing() -> None:
    """The node still has what it owes."""
    [finding] = examine(moment(0), moment(1, a=node(namespaces=[space()], regions_owed=2)))
    assert (finding.what, finding.evidence) == ("the outbox takes nothing", "2 entries")


def clock(wall_s: float = 1e9, **fields: float) -> pb.ClockState:
    return pb.ClockState(wall_s=wall_s, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"clock": clock()}, []),
        ({"clock": clock(steps=1, last_step_s=-3, last_step_age_s=60)}, [("warning", "the time of day has jumped")]),
        ({"clock": clock(steps=1, last_step_s=-3, last_step_age_s=7_200)}, []),
        ({"clock": clock(), "certificate_expires_at": 1e9 + 30 * 86_400}, []),
        (
            {"clock": clock(), "certificate_expires_at": 1e9 + 7 * 86_400},
            [("warning", "the certificate ends soon")],
        ),
        ({"clock": clock(), "certificate_expires_at": 1e9 + 86_400}, [("critical", "the certificate ends soon")]),
        ({"clock": clock(), "certificate_expires_at": 1e9 - 60}, [("critical", "the certificate has ended")]),
    ],
)
def test_time_of_day_and_certificates(fields: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """Steps of the last hour, and certificates that end within two weeks, or have ended."""
    assert [(each.severity.value, each.what) for each in found(space(), **fields)] == expected


def test_clocks_that_differ() -> None:
    """Who is far from the others both times; an answer that came late once is no reason."""

    def at(at_s: float, *walls: float) -> Moment:
        return moment(at_s, **{name: node(clock=clock(wall)) for name, wall in zip("abc", walls, strict=True)})

    [finding] = examine(at(0, 100, 100.1, 95), at(2, 102, 102.1, 97.2))
    assert (finding.what, finding.where, finding.evidence) == (
        "the time of day differs",
        "c",
        "-4.8 s from the others",
    )
    assert examine(at(0, 100, 100.1, 103), at(2, 102, 102.1, 102)) == []
    assert examine(at(0, 100, 100.1, 103), at(2, 102, 102.1, 99)) == []


def test_late_sessions_and_overload() -> None:
    """What has happened between the moments counts, and not what a node has counted in a former life."""
    before = node(late_holders=5, invalidation_waits=1, shed={"load": 3})
    after = node(late_holders=7, invalidation_waits=4, shed={"load": 10, "miss": 0})
    findings = examine(moment(0, a=before), moment(1, a=after))
    assert [(each.what, each.evidence) for each in findings] == [
        ("a node has too much to do", "refused: 7 of load"),
        ("clients acknowledge late", "2 leases refused, 3 writes waited for clients"),
    ]
    assert examine(moment(0, a=after), moment(1, a=after)) == []
    assert examine(moment(0, a=node(incarnation="0")), moment(1, a=after)) == []


def test_each_check_has_a_section_of_the_runbook() -> None:
    """Whoever reads a finding is led to more about it."""
    headings = (Path(__file__).parents[2] / "deploy/RUNBOOK.md").read_text(encoding="utf-8").splitlines()
    assert {check.__name__ for check in CHECKS} == SECTIONS.keys()
    assert {f"## {section}" for section in SECTIONS.values()} <= set(headings)
    [finding] = found(space(quota_refusals=1))
    assert finding.section == "Full quotas"


def test_restarted_node_is_not_compared_with_what_it_was() -> None:
    """Counters that began anew are no rates."""
    before = node(incarnation="0", namespaces=[space(l1_hits=5_000)])
    assert examine(moment(0, a=before), moment(1, a=node(namespaces=[space(misses=1_000)]))) == []


async def test_real_node(server: Server, invoke: Invoke) -> None:
    """A lone node at rest is well, as text and as JSON; nobody there is another exit code."""
    words = ("doctor", "--during", "0.1", "-a", server.address)
    result = await asyncio.to_thread(invoke, *words)
    assert (result.exit_code, result.output) == (0, "All is well: nothing to report.\n")
    result = await asyncio.to_thread(invoke, *words, "-o", "json")
    assert json.loads(result.output) == {"ok": True, "findings": []}


def test_nobody_there(invoke: Invoke) -> None:
    """A cluster that does not answer has an exit code of its own."""
    assert invoke("doctor", "-a", "127.0.0.1:1").exit_code == 4


def test_settings_of_redis_that_do_not_fit() -> None:
    """Each is one finding, however many nodes see it, with what to set; a newer node's kind is shown too."""
    evicts = pb.RedisProblem(use="membership", kind="evicts", evidence="maxmemory-policy allkeys-lru")
    other = pb.RedisProblem(use="queue", kind="newer", evidence="x 1")
    after = moment(1, a=node(redis_problems=[evicts]), b=node(redis_problems=[evicts, other]))
    first, second = examine(moment(0, a=node(), b=node()), after)
    assert first.severity is Severity.WARNING
    assert first.evidence == "maxmemory-policy allkeys-lru (membership; seen by a, b)"
    assert "volatile-lru" in first.remedy
    assert "newer" in second.what
