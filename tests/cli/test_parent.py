from __future__ import annotations

import os
import sys

import pytest

from tests.cli.conftest import Invoke


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_a_node_whose_launcher_is_gone_does_not_start() -> None:
    """A launcher that died before the node could ask for a signal is noticed by its id."""
    import subprocess

    command = [sys.executable, "-m", "cachenode", "serve", "--parent", str(os.getpid() + 1), "--listen", "127.0.0.1:0"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 1
    assert "is gone" in ended.stderr


def test_the_flag_of_launchers_is_not_in_the_help(invoke: Invoke) -> None:
    """--parent is between the launcher and the node."""
    assert "--parent" not in invoke("serve", "--help").output
