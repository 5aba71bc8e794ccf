from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio

from cachenode.cli import bloom, stats, view, warm
from cachenode.cli.admin import Asked, ask_blooms, ask_explanations, ask_stats, ask_views, ask_warming, cancel_warming
from cachenode.cli.errors import CliError
from cachenode.cli.options import Format
from cachenode.cli.output import console
from cachenode.wire import view_to_wire
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import admin_pb2_grpc, common_pb2
from cachenode_api.view import Member, View
from tests.cli.conftest import Invoke

GONE = "127.0.0.1:1"
SEED = b"0123456789abcdef"


class Admin(admin_pb2_grpc.AdminServiceServicer):
    """Answers as a node would."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.view: View | None = None
        self.peers: list[pb.PeerState] = []

    def header(self) -> common_pb2.ResponseHeader:
        return common_pb2.ResponseHeader(node_id=self.node_id, view_epoch=self.view.epoch if self.view else 0)

    async def GetView(self, request: Any, context: Any) -> pb.GetViewResponse:  # noqa: N802 - the wire's name
        shown = view_to_wire(self.view) if self.view is not None else None
        return pb.GetViewResponse(header=self.header(), view=shown, peers=self.peers)

    async def GetStats(self, request: Any, context: Any) -> pb.GetStatsResponse:  # noqa: N802 - the wire's name
        space = pb.NamespaceStats(name="default", entries=2, used_bytes=2_048, l1_hits=6, l2_hits=3, misses=1, sets=2)
        space.invalidations, space.negative_hits = 5, 7
        database = pb.OriginStats(name="db", calls=4, keys=9, failures=1, seconds=0.5, waiting=2, state="open")
        database.written, database.write_calls, database.write_seconds, database.write_state = 8, 2, 0.1, "half_open"
        return pb.GetStatsResponse(
            header=self.header(),
            uptime_s=61,
            max_bytes=1 << 20,
            used_bytes=2_048,
            l2_state="closed",
            near_holders=21,
            invalidation_waits=22,
            swept=23,
            namespaces=[space],
            origins=[database],
        )

    async def HotKeys(self, request: Any, context: Any) -> pb.HotKeysResponse:  # noqa: N802 - the wire's name
        if request.namespace == "unknown":
            await context.abort(grpc.StatusCode.NOT_FOUND, "namespace: the node has none of this name")
        rate = 900.0 if self.node_id == "node-0" else 1_200.0
        key = pb.HotKeysResponse.HotKey(namespace="default", key=b"[red]", reads_per_s=rate, share=0.25, error=0.01)
        cold = pb.HotKeysResponse.HotKey(namespace="default", key=b"cold\n", reads_per_s=1.25, share=0.001)
        return pb.HotKeysResponse(header=self.header(), keys=[key, cold][: request.limit], reads_per_s=4 * rate)

    async def BigKeys(self, request: Any, context: Any) -> pb.BigKeysResponse:  # noqa: N802 - the wire's name
        if self.node_id == "node-1":
            return pb.BigKeysResponse(header=self.header())
        keys = [
            pb.BigKeysResponse.BigKey(namespace="default", key=b"big", size=2_048, ttl_ms=61_000),
            pb.BigKeysResponse.BigKey(namespace="default", key=b"\xff", size=10),
        ]
        return pb.BigKeysResponse(header=self.header(), keys=keys[: request.limit])

    async def Dependents(self, request: Any, context: Any) -> pb.DependentsResponse:  # noqa: N802 - the wire's name
        return pb.DependentsResponse(header=self.header())

    async def BloomStatus(self, request: Any, context: Any) -> pb.BloomStatusResponse:  # noqa: N802 - the wire's name
        if request.namespace == "unknown":
            await context.abort(grpc.StatusCode.NOT_FOUND, "namespace: the node has none of this name")
        found = pb.BloomFilter(
            namespace="users", state="partial", building=True, absences=9, passed=8, age_s=61.0, source="merged"
        )
        found.false_positives, found.bytes, found.listed, found.expected, found.fill = 2, 2_048, 5, 1_000, 0.25
        return pb.BloomStatusResponse(
            header=self.header(), filters=[found, pb.BloomFilter(namespace="new", state="none")]
        )

    async def RebuildBloom(  # noqa: N802 - the wire's name
        self, request: Any, context: Any
    ) -> AsyncIterator[pb.RebuildBloomProgress]:
        if request.namespace == "plain":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "namespace: it has no Bloom filter")
        yield pb.RebuildBloomProgress(stage="origin", keys=3, expected=10)
        if request.namespace == "bad":
            yield pb.RebuildBloomProgress(stage="failed", keys=3, error="OSError")
        else:
            yield pb.RebuildBloomProgress(stage="done", keys=12, expected=10)

    async def ListNamespaces(self, request: Any, context: Any) -> Any:  # noqa: N802 - the wire's name
        await context.abort(grpc.StatusCode.UNIMPLEMENTED)

    GetNamespace = SetNamespace = Advise = ListEvents = ListNamespaces
    WriteBehindStatus = ListDeadLetters = ReplayDeadLetters = DropDeadLetters = SetRegion = ListNamespaces

    GetLogLevels = SetLogLevel = Ring = ListNamespaces

    async def Snapshot(self, request: Any, context: Any) -> AsyncIterator[pb.SnapshotPart]:  # noqa: N802 - as above
        yield pb.SnapshotPart(header=self.header())

    async def Drain(self, request: Any, context: Any) -> AsyncIterator[pb.DrainProgress]:  # noqa: N802 - the wire's name
        yield pb.DrainProgress(header=self.header(), stage="done")

    async def WarmStatus(self, request: Any, context: Any) -> pb.WarmStatusResponse:  # noqa: N802 - the wire's name
        job = pb.WarmProgress(
            job_id="j1", namespace="users", source="origin", state="running", done=1_500, loaded=1_400
        )
        other = pb.WarmProgress(job_id="j0", namespace="carts", source="file", state="failed", total=7, error="OSError")
        return pb.WarmStatusResponse(header=self.header(), jobs=[job, other])

    async def CancelWarm(self, request: Any, context: Any) -> pb.CancelWarmResponse:  # noqa: N802 - the wire's name
        return pb.CancelWarmResponse(header=self.header(), cancelled=request.namespace == "users")

    async def Warm(self, request: Any, context: Any) -> AsyncIterator[pb.WarmProgress]:  # noqa: N802 - the wire's name
        yield pb.WarmProgress(job_id=request.job_id, state="done")

    async def Explain(self, request: Any, context: Any) -> pb.ExplainResponse:  # noqa: N802 - the wire's name
        if request.namespace == "unknown":
            await context.abort(grpc.StatusCode.NOT_FOUND, "namespace: the node has none of this name")
        return pb.ExplainResponse(header=self.header(), owner="node-0", ready=True, l2_state="off")


@asynccontextmanager
async def serving(*admins: Admin) -> AsyncIterator[list[str]]:
    """Serve each of them; yield their addresses."""
    servers, addresses = [], []
    for admin in admins:
        server = aio.server()
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, server)
        addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        servers.append(server)
    try:
        yield addresses
    finally:
        for server in servers:
            await server.stop(None)


def members(*addresses: str) -> View:
    found = tuple(Member(f"node-{at}", "1", address) for at, address in enumerate(addresses))
    return View(7, SEED, found)


async def test_every_member_is_asked() -> None:
    """The members come from the first node that answers; one that does not is None, not a failure."""
    first, second = Admin("node-0"), Admin("node-1")
    async with serving(first, second) as addresses:
        first.view = second.view = members(*addresses, GONE)
        asked, views = await ask_views(f"{GONE},{addresses[0]}", 2.0)
        assert (asked.node_id, asked.view) == ("node-0", first.view)
        assert {name: reply is not None for name, reply in views.items()} == {
            "node-0": True,
            "node-1": True,
            "node-2": False,
        }
        _, counters = await ask_stats(addresses[1], 2.0)
        assert counters["node-2"] is None
        assert counters["node-1"] is not None
        assert counters["node-1"].header.node_id == "node-1"


async def test_node_behind_a_forwarded_port_is_asked_there() -> None:
    """The node that answered is asked where it was found: its own address may lead nowhere from here."""
    admin = Admin("node-0")
    async with serving(admin) as addresses:
        admin.view = members(GONE)
        _, counters = await ask_stats(addresses[0], 2.0)
        assert counters["node-0"] is not None


async def test_every_member_explains() -> None:
    """Each member is asked about the key; what all of them refuse is an error."""
    admin = Admin("node-0")
    async with serving(admin) as addresses:
        admin.view = members(*addresses, GONE)
        asked, answers = await ask_explanations(addresses[0], "default", b"k", 2.0)
        assert asked.node_id == "node-0"
        assert answers["node-0"] is not None
        assert (answers["node-0"].owner, answers["node-1"]) == ("node-0", None)
        with pytest.raises(CliError, match="none of this name") as refused:
            await ask_explanations(addresses[0], "unknown", b"k", 2.0)
    assert refused.value.code == 2


async def test_node_without_a_view_is_named() -> None:
    """A node that has not joined is told from one that does not answer."""
    async with serving(Admin("node-0")) as addresses:
        with pytest.raises(CliError, match="node-0 has not joined") as refused:
            await ask_views(addresses[0], 2.0)
    assert refused.value.code == 4


async def test_nobody_answers() -> None:
    """Without any node the error is that of an unreachable cluster."""
    with pytest.raises(CliError, match=f"no node answers at {GONE}") as refused:
        await ask_stats(GONE, 2.0)
    assert refused.value.code == 4


async def test_other_servers_are_recognised() -> None:
    """Another gRPC server at the address is told from a dead one."""
    server = aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with pytest.raises(CliError, match="something else"):
            await ask_views(f"127.0.0.1:{port}", 2.0)
    finally:
        await server.stop(None)


def reply(node_id: str, epoch: int, *peers: tuple[str, bool, float]) -> pb.GetViewResponse:
    return pb.GetViewResponse(
        header=common_pb2.ResponseHeader(node_id=node_id, view_epoch=epoch),
        peers=[pb.PeerState(node_id=name, linked=linked, silent_s=silent_s) for name, linked, silent_s in peers],
    )


def test_view_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    """The table shows each member's part of the ring, and who does not hear or answer whom."""
    asked = Asked(members("a:1", "b:1", "c:1"), "node-0", "a:1")
    answers = {
        "node-0": reply("node-0", 7, ("node-1", True, 0.1), ("node-2", False, 3.25)),
        "node-1": reply("node-1", 6, ("node-0", True, 0.1), ("node-2", False, -1)),
        "node-2": None,
    }
    shares = view._shares(asked.view)
    view._print(asked, answers, shares)
    text = capsys.readouterr().out
    assert "View 7: 3 members, seen by node-0" in text
    assert "node-2 silent for 3.2 s" in text
    assert "node-2 never heard" in text
    assert "does not answer" in text
    assert "different views" in text
    assert all(f"{share:.1%}" in text for share in shares.values())
    document = json.loads(json.dumps(view._document(asked, answers, shares)))
    assert sum(member["ring_share"] for member in document["members"]) == pytest.approx(1, abs=1e-5)
    assert [member["answers"] for member in document["members"]] == [True, True, False]
    assert document["members"][1]["epoch"] == 6


async def test_stats_are_added_up(capsys: pytest.CaptureFixture[str]) -> None:
    """Counters are shown by node and namespace, with sums and hit ratios; who does not answer is shown as such."""
    answer = await Admin("node-0").GetStats(None, None)
    answers = {"node-0": answer, "node-1": answer, "node-2": None}
    screen = console()
    stats._print_nodes(screen, answers)
    stats._print_namespaces(screen, answers)
    stats._print_origins(screen, answers)
    lines = capsys.readouterr().out.splitlines()
    total = next(line.split() for line in lines if line.split()[:1] == ["all"])
    assert total == ["all", "4", "4.0", "KiB", "12", "6", "2", "90.0%", "4", "0", "10", "0", "0", "0", "14"]
    assert any("node-2" in line and "does not answer" in line for line in lines)
    assert any("node-0" in line and "1m 1s" in line and "healthy" in line for line in lines)
    origins = [line.split() for line in lines if "left alone" in line]
    assert origins[0] == ["db", "node-0", "4", "9", "1", "0", "125.0", "ms", "0", "2", "left", "alone"]
    assert origins[1][0] == "node-1"
    stats._print_sinks(screen, answers)
    lines = capsys.readouterr().out.splitlines()
    [sink] = [line.split() for line in lines if "node-0" in line]
    assert sink[:9] == ["db", "node-0", "8", "0", "0", "2", "0", "50.0", "ms"]
    document = stats._document("node-0", answer)
    assert (document["origins"][0]["failures"], document["origins"][0]["written"]) == (1, 8)
    assert document["namespaces"][0]["hit_ratio"] == 0.9
    assert document["namespaces"][0]["invalidations"] == 5
    assert (document["near_holders"], document["invalidation_waits"], document["swept"]) == (21, 22, 23)
    assert stats._document("node-2", None) == {"id": "node-2", "answers": False}


async def test_filters_of_all_nodes_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """The table shows each node's filter and how often it was wrong; who does not answer is named."""
    admin = Admin("node-0")
    async with serving(admin) as addresses:
        admin.view = members(*addresses, GONE)
        _, answers = await ask_blooms(addresses[0], "", 2.0)
        with pytest.raises(CliError, match="none of this name") as refused:
            await ask_blooms(addresses[0], "unknown", 2.0)
    assert refused.value.code == 2
    bloom._print(answers)
    text = capsys.readouterr().out
    row = next(line.split() for line in text.splitlines() if line.startswith(" users"))
    assert row == [
        "users",
        "node-0",
        "partial,",
        "building",
        "merged",
        "9",
        "8",
        "25.0%",
        "5",
        "1,000",
        "25%",
        "2.0",
        "KiB",
        "1m",
        "1s",
    ]
    assert "never built" in text
    assert "node-1 does not answer." in text
    document = bloom._document("node-0", answers["node-0"])
    assert document["filters"][0]["false_positive_rate"] == 0.25
    assert document["filters"][1]["age_s"] is None
    assert bloom._document("node-1", None) == {"id": "node-1", "answers": False}
    bloom._print({"node-0": pb.BloomStatusResponse()})
    assert "No namespace has a Bloom filter" in capsys.readouterr().out


async def test_rebuild_is_followed(capsys: pytest.CaptureFixture[str]) -> None:
    """Each step is a line of JSON; what fails is an error with the reason."""
    admin = Admin("node-0")
    async with serving(admin) as addresses:
        admin.view = members(*addresses)
        assert await bloom._rebuild(addresses[0], "users", 2.0, Format.JSON) == "done"
        steps = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(step["stage"], step["keys"]) for step in steps] == [("origin", 3), ("done", 12)]
        assert await bloom._rebuild(addresses[0], "users", 2.0, Format.TABLE) == "done"
        with pytest.raises(CliError, match="not rebuilt: OSError"):
            await bloom._rebuild(addresses[0], "bad", 2.0, Format.JSON)
        with pytest.raises(CliError, match="it has no Bloom filter") as refused:
            await bloom._rebuild(addresses[0], "plain", 2.0, Format.TABLE)
    assert refused.value.code == 2


async def test_jobs_of_all_nodes_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with what it has done and why it failed; one is cancelled wherever it runs."""
    admin = Admin("node-0")
    async with serving(admin) as addresses:
        admin.view = members(*addresses, GONE)
        _, answers = await ask_warming(addresses[0], "", 2.0)
        assert await cancel_warming(addresses[0], "users", 2.0)
        assert not await cancel_warming(addresses[0], "carts", 2.0)
    warm._print(answers)
    text = capsys.readouterr().out
    row = next(line.split() for line in text.splitlines() if line.startswith(" users"))
    assert row == ["users", "node-0", "j1", "origin", "running", "1,500", "?", "1,400", "0", "0", "0"]
    assert "failed: OSError" in text
    assert "node-1 does not answer." in text
    assert answers["node-0"] is not None
    assert warm._document(answers["node-0"].jobs[0])["done"] == 1_500
    warm._print({"node-0": pb.WarmStatusResponse()})
    assert "No node has run a job" in capsys.readouterr().out


async def test_hot_keys_of_all_nodes(invoke: Invoke) -> None:
    """The hottest of all nodes first, whoever does not answer is named, and a key is shown as it is."""
    first, second = Admin("node-0"), Admin("node-1")
    async with serving(first, second) as addresses:
        first.view = second.view = members(*addresses, GONE)
        command = ("hotkeys", "--address", addresses[0], "--timeout", "2")
        result = await asyncio.to_thread(invoke, *command)
        assert result.exit_code == 0, result.output
        lines = [line.split() for line in result.output.splitlines()]
        assert [line for line in lines if line and line[0] == "[red]"] == [
            ["[red]", "default", "node-1", "1,200", "25.0%"],
            ["[red]", "default", "node-0", "900", "25.0%"],
        ]
        assert "cold\\x0a" in result.output
        assert "node-2 does not answer" in result.output
        result = await asyncio.to_thread(invoke, *command, "--limit", "1", "-o", "json")
        document = json.loads(result.output)
        assert [each["answers"] for each in document["nodes"]] == [True, True, False]
        assert document["keys"] == [
            {
                "key": "[red]",
                "namespace": "default",
                "node": "node-1",
                "reads_per_s": 1_200.0,
                "share": 0.25,
                "error": 0.01,
            }
        ]
        refused = await asyncio.to_thread(invoke, *command, "-n", "unknown")
        assert (refused.exit_code, "none of this name" in refused.output) == (2, True)


async def test_big_keys_of_all_nodes(invoke: Invoke) -> None:
    """The largest of all nodes first, with their remaining life; no entries are no table."""
    first, second = Admin("node-0"), Admin("node-1")
    async with serving(first, second) as addresses:
        first.view, second.view = members(*addresses), members("127.0.0.1:1", addresses[1])
        result = await asyncio.to_thread(invoke, "bigkeys", "--address", addresses[0])
        lines = [line.split() for line in result.output.splitlines()]
        assert ["big", "default", "node-0", "2.0", "KiB", "2,048", "1m", "1s"] in lines
        assert "\\xff" in result.output
        assert "never expires" in result.output
        result = await asyncio.to_thread(invoke, "bigkeys", "--address", addresses[0], "-o", "json", "--limit", "1")
        (key,) = json.loads(result.output)["keys"]
        assert (key["key"], key["size"], key["ttl_s"]) == ("big", 2_048, 61)
        empty = await asyncio.to_thread(invoke, "bigkeys", "--address", addresses[1], "--timeout", "1")
        assert "The nodes hold no entries." in empty.output
        assert "node-0 does not answer" in empty.output
