"""Writes ring_vectors.json: run it after a deliberate change of the ring, never to make a failing test pass.

The vectors let implementations in other languages check their routing. Each case holds a view (seed, vnodes, members
with weights), some points of the ring, and keys with their hash, owner and owner with follower. Seeds, keys and hashes
are hexadecimal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cachenode_api.ring import Ring
from cachenode_api.view import RING_HASH, Member, View

PATH = Path(__file__).with_name("ring_vectors.json")
CASES: tuple[tuple[str, int, dict[str, int]], ...] = (
    ("", 160, {"node-0": 1}),
    ("00", 160, {"node-0": 1, "node-1": 1, "node-2": 1}),
    ("6361636865", 160, {"node-0": 1, "node-1": 1, "node-2": 1}),
    ("ff" * 64, 160, {"node-0": 1, "node-1": 3, "node-10": 2}),
    ("6361636865", 1, {"a": 1, "b": 1}),
    ("6361636865", 40, {"cache-α": 1, "10.0.0.1:7401": 2}),
)
KEYS = (
    *(f"user:{number}".encode() for number in range(10)),
    b"\x00",
    b"\xff" * 1024,
    "ключ".encode(),
    b"a-0",
    b"node-0-0",
)


def build() -> dict[str, Any]:
    """Return the content of the file, computed by the ring of this release."""
    return {"ring_hash": RING_HASH, "cases": [_case(*case) for case in CASES]}


def _case(seed: str, vnodes: int, weights: dict[str, int]) -> dict[str, Any]:
    members = tuple(Member(name, "", "", weight=weight) for name, weight in weights.items())
    ring = Ring(View(1, bytes.fromhex(seed), members, vnodes=vnodes))
    return {
        "ring_seed": seed,
        "vnodes": vnodes,
        "members": [{"id": name, "weight": weight} for name, weight in weights.items()],
        "points": [
            {"label": label, "hash": f"{ring.hash(label.encode()):016x}"}
            for name, weight in weights.items()
            for label in (f"{name}-0", f"{name}-{vnodes * weight - 1}")
        ],
        "keys": [
            {
                "key": key.hex(),
                "hash": f"{ring.hash(key):016x}",
                "owner": ring.owner(key),
                "owners": ring.owners(key, 2),
            }
            for key in KEYS
        ],
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(build(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
