"""The command line with real processes: a cluster that it starts, uses, and takes down again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from cachenode.adapters.embedded import EmbeddedValkey
from cachenode.cli.local_cluster import ClusterError, LocalCluster
from cachenode_api.v1 import session_pb2, session_pb2_grpc
from cachenode_client import CacheClient

TOP = Path(__file__).parents[2]
PATHS = os.pathsep.join((str(TOP), str(TOP / "client"), os.environ.get("PYTHONPATH", ""))).rstrip(os.pathsep)
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("CACHENODE_")} | {
    "PYTHONPATH": PATHS
}
START_S = 40.0
END_S = 15.0


def cachenode(*arguments: str, stdin: bytes = b"", address: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end."""
    command = [sys.executable, "-m", "cachenode", *arguments]
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        env=ENVIRON | ({"CACHENODE_ADDRESS": address} if address else {}),
        timeout=START_S,
        check=False,
    )


def alive(pid: int) -> bool:
    """Return whether a process runs; one that is dead and only waits for its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in {"Z", "X"}


def wait_until_gone(*pids: int) -> list[int]:
    """Return the processes that still run after a while."""
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline and any(alive(pid) for pid in pids):
        time.sleep(0.02)
    return [pid for pid in pids if alive(pid)]


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@dataclass(slots=True)
class Running:
    """A cluster command that runs."""

    process: subprocess.Popen[str]
    directory: Path
    ready: dict[str, Any]
    pids: list[int]

    @property
    def address(self) -> str:
        address: str = self.ready["nodes"][0]["address"]
        return address

    def errors(self) -> str:
        return (self.directory / "stderr").read_text()


def start(directory: Path, *arguments: str) -> Running:
    """Start the command and wait for its line."""
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "cachenode", "cluster", "--dir", str(directory), *arguments]
    with (directory / "stderr").open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=ENVIRON)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
        pytest.fail((directory / "stderr").read_text())
    return Running(process, directory, json.loads(line), children(process.pid))


def stop(running: Running) -> None:
    """End it however it is, without leaving anything behind."""
    if running.process.poll() is None:
        running.process.terminate()
        running.process.wait(END_S)
    assert running.process.stdout is not None
    running.process.stdout.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Running]:
    """A cluster of two nodes for one test."""
    running = start(tmp_path / "cluster", "--nodes", "2")
    yield running
    stop(running)


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A cluster of three nodes for the tests that change nothing about it."""
    running = start(tmp_path_factory.mktemp("trio") / "cluster", "--nodes", "3")
    yield running
    stop(running)


def test_ready_line_and_file_say_where_the_nodes_are(trio: Running) -> None:
    """The line and cluster.json are the same, the nodes are processes of the command, and they are ready."""
    assert json.loads((trio.directory / "cluster.json").read_text()) == trio.ready
    assert [node["id"] for node in trio.ready["nodes"]] == ["node-0", "node-1", "node-2"]
    assert {node["pid"] for node in trio.ready["nodes"]} < set(trio.pids)
    for node in trio.ready["nodes"]:
        with urllib.request.urlopen(f"http://{node['http']}/readyz", timeout=5) as answer:
            assert answer.status == 200


def test_values_go_in_and_come_out(trio: Running) -> None:
    """What set stores, get shows, with the right exit codes: text, JSON, bytes, meta data, absence."""
    there = trio.address
    assert cachenode("set", "user:7", "Ada", "--ttl", "5m", address=there).returncode == 0
    shown = cachenode("get", "user:7", "--meta", address=there)
    assert (shown.returncode, shown.stdout) == (0, b"Ada\n")
    assert b"4m 5" in shown.stderr
    assert b"L1" in shown.stderr
    data = bytes(range(256))
    assert cachenode("set", "raw", "--file", "-", stdin=data, address=there).returncode == 0
    assert cachenode("get", "raw", address=there).stdout == data
    assert cachenode("set", "doc", '{"a": [1, null]}', "--json", address=there).returncode == 0
    document = json.loads(cachenode("get", "doc", "-o", "json", address=there).stdout)
    assert document["value"] == {"a": [1, None]}
    assert cachenode("delete", "doc", address=there).stdout == b"Deleted.\n"
    absent = cachenode("get", "doc", address=there)
    assert (absent.returncode, absent.stdout) == (3, b"")
    assert cachenode("get", "user:7", "--namespace", "other", address=there).returncode == 3


def test_view_and_stats_know_all_members(trio: Running) -> None:
    """view and stats ask every member; the ring's parts add up, and counters are those of what was done."""
    there = trio.address
    assert cachenode("set", "counted", "1", "-n", "counts", address=there).returncode == 0
    assert cachenode("get", "counted", "-n", "counts", address=there).returncode == 0
    seen = json.loads(cachenode("view", "-o", "json", address=there).stdout)
    assert [member["id"] for member in seen["members"]] == ["node-0", "node-1", "node-2"]
    assert all(link["linked"] for member in seen["members"] for link in member["links"])
    assert sum(member["ring_share"] for member in seen["members"]) == pytest.approx(1, abs=1e-5)
    nodes = json.loads(cachenode("stats", "-o", "json", address=there).stdout)["nodes"]
    spaces = [space for node in nodes for space in node["namespaces"] if space["name"] == "counts"]
    assert sum(space["sets"] for space in spaces) == 1
    assert sum(space["l1_hits"] for space in spaces) == 1
    assert b"node-2" in cachenode("view", address=there).stdout
    assert b"counts" in cachenode("stats", address=there).stdout


def test_directory_is_taken_by_one_cluster(trio: Running) -> None:
    """A second cluster in the same directory is refused and does not disturb the first."""
    refused = cachenode("cluster", "--nodes", "1", "--dir", str(trio.directory))
    assert refused.returncode == 1
    assert b"another cluster is running" in refused.stderr
    assert (trio.directory / "cluster.json").exists()
    assert (trio.directory / "valkey.sock").exists()
    assert cachenode("get", "nothing", address=trio.address).returncode == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_signal_stops_everything(pair: Running, number: signal.Signals) -> None:
    """A signal ends the command with code 0, every process that it started, and its cluster.json."""
    assert len(pair.pids) == 3
    pair.process.send_signal(number)
    assert pair.process.wait(END_S) == 0
    assert wait_until_gone(*pair.pids) == []
    assert not (pair.directory / "cluster.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's signal at a parent's death")
def test_killed_command_leaves_nothing_behind(pair: Running) -> None:
    """Even when the command is killed and can run no code, its nodes and its Valkey end."""
    os.kill(pair.ready["nodes"][0]["pid"], signal.SIGSTOP)  # nor does a frozen one stay
    pair.process.kill()
    pair.process.wait(END_S)
    assert wait_until_gone(*pair.pids) == []


@contextmanager
def lingering(address: str) -> Iterator[None]:
    """Hold a session to a node that does not end when the node asks for it."""
    gone = threading.Event()

    def frames() -> Iterator[session_pb2.ClientFrame]:
        yield session_pb2.ClientFrame(hello=session_pb2.ClientHello(client_name="lingers"))
        gone.wait()

    with grpc.insecure_channel(address) as channel:
        stream = session_pb2_grpc.SessionServiceStub(channel).Session(frames())
        assert next(stream).HasField("hello")
        try:
            yield
        finally:
            gone.set()
            stream.cancel()


def test_second_signal_waits_for_nobody(pair: Running) -> None:
    """A client that does not leave holds a stop up; the second signal ends it at once."""
    with lingering(pair.ready["nodes"][0]["address"]):
        pair.process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            pair.process.wait(1.0)
        pair.process.send_signal(signal.SIGINT)
        assert pair.process.wait(3.0) == 0  # the first signal alone would take 5 s
    assert wait_until_gone(*pair.pids) == []


def test_dead_node_is_reported_and_the_other_goes_on(pair: Running) -> None:
    """A node that dies is named on standard error; the other serves, and the command ends when none is left."""
    first, second = pair.ready["nodes"]
    os.kill(first["pid"], signal.SIGKILL)
    deadline = time.monotonic() + START_S
    alone: list[str] = []
    while time.monotonic() < deadline and alone != ["node-1"]:
        shown = cachenode("view", "-o", "json", address=second["address"])
        alone = [member["id"] for member in json.loads(shown.stdout)["members"]] if shown.returncode == 0 else []
    assert alone == ["node-1"]
    assert "node-0 is gone: it was killed by SIGKILL" in pair.errors()
    assert cachenode("set", "k", "v", address=second["address"]).returncode == 0
    os.kill(second["pid"], signal.SIGKILL)
    assert pair.process.wait(END_S) == 1
    assert "no node is left" in pair.errors()
    assert wait_until_gone(*pair.pids) == []


def test_failed_start_shows_the_nodes_log(tmp_path: Path) -> None:
    """A node that does not start is named, with the end of its log; nothing is left behind."""
    config = tmp_path / "node.toml"
    config.write_text("[memory]\npolicy = 'random'\n")
    failed = cachenode("cluster", "--nodes", "2", "--dir", str(tmp_path / "c"), "--config", str(config))
    assert failed.returncode == 1
    assert b"did not start: it ended with code 2" in failed.stderr
    assert b"memory.policy: must be" in failed.stderr
    assert failed.stdout == b""
    assert not (tmp_path / "c/valkey.sock").exists()


def test_serve_says_ready_and_stops(tmp_path: Path) -> None:
    """A node of its own says where it is, refuses a second one at its address, and ends with 0 at SIGTERM."""
    command = [sys.executable, "-m", "cachenode", "serve", "--ready-json", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, "--http-listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=ENVIRON,
    ) as node:
        assert node.stdout is not None
        ready = json.loads(node.stdout.readline())
        assert ready["pid"] == node.pid
        taken = cachenode("serve", "--listen", ready["address"], "--http-listen", "")
        assert taken.returncode == 1
        assert f"cannot listen on {ready['address']}".encode() in taken.stderr
        node.send_signal(signal.SIGTERM)
        assert node.wait(END_S) == 0


async def test_nodes_can_be_killed_frozen_and_restarted(tmp_path: Path) -> None:
    """As a library: a killed node comes back under its name and address, a frozen one goes on."""
    gone: list[str] = []
    cluster = LocalCluster(directory=tmp_path, nodes=3, on_exit=lambda node_id, code: gone.append(node_id))
    async with cluster, CacheClient(cluster.address, timeout_s=5.0) as client:
        before = {node.id: node for node in cluster.nodes}
        await cluster.kill("node-1")
        assert not alive(before["node-1"].pid)
        after = await cluster.restart("node-1")
        assert (after.address, after.http) == (before["node-1"].address, before["node-1"].http)
        assert after.pid != before["node-1"].pid
        assert [node["pid"] for node in json.loads(cluster.file.read_text())["nodes"]][1] == after.pid
        cluster.pause("node-2")
        cluster.resume("node-2")
        stored = await client.set_many({f"k{number}": number for number in range(30)})
        assert len(stored) == 30
        pids = [node.pid for node in cluster.nodes]
        with pytest.raises(ClusterError, match="node-0, node-1, node-2"):
            await cluster.kill("node-9")
    assert gone == []
    assert wait_until_gone(*pids) == []


async def test_l2_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    """With a URL no Valkey is started, and what listens there is still there afterwards."""
    with EmbeddedValkey(tmp_path / "own") as valkey:
        async with LocalCluster(directory=tmp_path / "cluster", nodes=1, l2_url=valkey.url) as cluster:
            assert cluster.l2_pid is None
            assert cluster.describe()["l2"] == valkey.url
        assert alive(valkey.pid)
        assert not (tmp_path / "cluster/valkey.log").exists()
