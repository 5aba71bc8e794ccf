from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import cachenode.process
from cachenode.cli.main import app
from cachenode.config import FLAGS, NodeConfig

VALUES = {
    "node.id": "n7",
    "node.listen": "127.0.0.1:7001",
    "node.advertise": "cache-7:7001",
    "node.http_listen": "127.0.0.1:7002",
    "node.insecure": True,
    "cluster.name": "blue",
    "cluster.discovery": "static",
    "cluster.seeds": "a:1,b:2",
    "cluster.dns_name": "cache:7401",
    "memory.max_bytes": "64MiB",
    "l2.url": "redis://r:6379/0",
    "log.level": "debug",
    "log.format": "json",
    "memory.policy": "lru",
    "node.reflection": True,
}
EXPECTED = VALUES | {"cluster.seeds": ("a:1", "b:2"), "memory.max_bytes": 64 << 20}


class Started:
    """Stands for the server: keeps what it would have been started with."""

    def __init__(self) -> None:
        self.config = NodeConfig()
        self.ready_json = False

    def run(self, config: NodeConfig, *, ready_json: bool = False) -> int:
        self.config, self.ready_json = config, ready_json
        return 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """A server that is not started."""
    found = Started()
    monkeypatch.setattr(cachenode.process, "run", found.run)
    return found


@pytest.mark.parametrize("path", FLAGS)
def test_flag_reaches_its_setting(path: str, started: Started) -> None:
    """Every flag that the configuration's texts name exists here, and sets what it says."""
    value = VALUES[path]
    needed = ["--discovery", "static"] if path == "cluster.seeds" else []
    needed += ["--discovery", "dns"] if path == "cluster.dns_name" else []
    needed += ["--seed", "a:1"] if path == "cluster.discovery" else []
    given = [FLAGS[path]] if value is True else [FLAGS[path], str(value)]
    result = CliRunner().invoke(app, ["serve", *given, *needed])
    assert result.exit_code == 0, result.output
    section, _, name = path.partition(".")
    assert getattr(getattr(started.config, section), name) == EXPECTED[path]


def test_more_flags(started: Started) -> None:
    """The short names of flags work too, seeds may be repeated, and --ready-json is passed on."""
    arguments = ["--id", "n7", "--policy", "lru", "--reflection", "--ready-json", "--discovery", "static"]
    result = CliRunner().invoke(app, ["serve", *arguments, "--seeds", "a:1,b:2", "--seeds", "c:3"])
    assert result.exit_code == 0, result.output
    assert started.ready_json
    assert started.config.node.id == "n7"
    assert started.config.node.reflection
    assert started.config.memory.policy == "lru"
    assert started.config.cluster.seeds == ("a:1", "b:2", "c:3")


def test_flags_go_before_environment_and_file(started: Started, tmp_path: Path) -> None:
    """Flag, then environment, then file; the command line's own variables are no settings."""
    file = tmp_path / "node.toml"
    file.write_text('[node]\nid = "file"\nlisten = "127.0.0.1:1"\n[cluster]\nname = "file"\n')
    environ = {"CACHENODE_NODE__ID": "env", "CACHENODE_NODE__LISTEN": "127.0.0.1:2", "CACHENODE_ADDRESS": "x:1"}
    result = CliRunner().invoke(app, ["serve", "--config", str(file), "--id", "flag"], env=environ)
    assert result.exit_code == 0, result.output
    config = started.config
    assert (config.node.id, config.node.listen, config.cluster.name) == ("flag", "127.0.0.1:2", "file")


def test_all_problems_are_shown_at_once(started: Started) -> None:
    """Everything that is wrong is said in one run, and the exit code is 2."""
    result = CliRunner().invoke(app, ["serve", "--memory", "3x", "--discovery", "magic", "--listen", "nowhere"])
    assert result.exit_code == 2
    assert all(name in result.output for name in ("memory.max_bytes", "cluster.discovery", "node.listen"))


def test_node_without_its_launcher_does_not_start(started: Started) -> None:
    """A node that was told to end with a process does not start if that is not its parent (any more)."""
    result = CliRunner().invoke(app, ["serve", "--parent", "1999999999"])
    assert result.exit_code == 1
    assert "gone" in result.output
