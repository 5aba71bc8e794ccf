"""The command ``cachenode``. Importing this package loads nothing else; `main` loads what the command needs."""

from __future__ import annotations

__all__ = ["main"]


def main() -> int:
    """Run the command line of this process.

    Raises:
        SystemExit: Always, with the exit code.
    """
    from cachenode.cli.main import app

    app(prog_name="cachenode")
    return 0
