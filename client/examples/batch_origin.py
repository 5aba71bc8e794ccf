"""The loader of batch_loader.toml: it runs in the nodes, and is asked for many keys at once."""

from __future__ import annotations

import asyncio

__all__ = ["load_prices"]


async def load_prices(keys: list[str]) -> dict[str, object]:
    """Return the prices of products, as a query with `WHERE id IN (…)` would; a key that is left out has none."""
    await asyncio.sleep(0.05)
    numbers = {key: int(key.removeprefix("price:")) for key in keys}
    return {key: {"cents": 100 * number, "loaded_with": len(keys)} for key, number in numbers.items() if number > 0}
