"""Settings of every test run; fixtures with logic live beside the tests that use them."""

from __future__ import annotations

import os

# Asyncio's debug mode reports coroutines that nobody awaited and callbacks that block the loop. `make` sets it too.
os.environ.setdefault("PYTHONASYNCIODEBUG", "1")
