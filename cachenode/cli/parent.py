"""A node that a launcher started must not outlive it, not even if the launcher is killed with SIGKILL.

On Linux the kernel sees to it: the node asks for a signal at its parent's death (PR_SET_PDEATHSIG). The parent may
die before the request is made; its id, which it gives as a flag, tells. "Parent" is the thread that started the
process, so launch from the main thread. Other systems have no such call; there only a launcher that ends in an
orderly way takes its nodes along.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from cachenode.cli.errors import CliError

__all__ = ["end_with_parent"]

_PR_SET_PDEATHSIG = 1


def end_with_parent(pid: int) -> None:
    """Have this process killed when its parent dies.

    Args:
        pid: The parent's id.

    Raises:
        CliError: The parent is gone already.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != pid:
        raise CliError("the process that started this node is gone")
