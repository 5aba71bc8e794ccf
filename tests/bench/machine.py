"""What kind of machine and which versions: numbers without them say little."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from tests.bench.servers import redis_server_path, tracking_redis_path, valkey_path

__all__ = ["describe", "use_cores"]

_PACKAGES = {"grpcio": "grpcio", "protobuf": "protobuf", "redis-py": "redis", "hiredis": "hiredis"}


def use_cores(count: int) -> int:
    """Confine this process and its children to so many cores, where the system allows it; returns how many are used."""
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1
    chosen = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, chosen)
    return len(chosen)


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def _server_version(binary: str | None) -> str:
    if binary is None:
        return "not installed"
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    found = re.search(r"\d+\.\d+[\w.]*", said)
    return found[0] if found else "unknown"


def describe(cores: int) -> dict[str, str]:
    """Return the machine class and the versions, for people."""
    known = {"cores used": f"{cores} of {os.cpu_count()}", "cpu": _cpu_model(), "python": platform.python_version()}
    for label, package in _PACKAGES.items():
        with contextlib.suppress(metadata.PackageNotFoundError):
            known[label] = metadata.version(package)
    known["valkey"] = _server_version(valkey_path())
    known["redis-server"] = _server_version(redis_server_path())
    known["redis-server with client-side caches"] = _server_version(tracking_redis_path())
    known["memcached"] = _server_version(shutil.which("memcached"))
    return known
