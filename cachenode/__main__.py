"""``python -m cachenode`` is the command ``cachenode``."""

from __future__ import annotations

import sys

from cachenode.cli import main

if __name__ == "__main__":
    sys.exit(main())
