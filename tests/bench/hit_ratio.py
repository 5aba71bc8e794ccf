"""Which eviction policy keeps what will be read again: hit ratios of ours beside those of libcachesim.

``python -m tests.bench.hit_ratio`` prints a table in well under a minute. All entries have one size and the budget is a
number of entries, so that the simulator and the store mean the same. The traces, made with fixed seeds:

zipf      popularity falls with the rank (exponent 1)
scan      the same, broken by walks over keys that are read once
shift     the same, but every tenth of the trace other keys are the popular ones

`ns_per_op` is the time of one request through a `Store`, its put and eviction included if it missed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from random import Random
from struct import Struct
from tempfile import TemporaryDirectory

from cachenode.core.policies import DEFAULT_POLICY, POLICIES
from cachenode.core.store import Store

try:
    import libcachesim
except ImportError:  # the table then has our rows only
    libcachesim = None

__all__ = ["Row", "main", "run", "traces"]

Row = dict[str, str | float]

_KEYS = 50_000
_EXPONENT = 1.0
_BUDGET = 5_000
_SCAN_EVERY, _SCAN_KEYS = 20_000, 5_000
_SHIFTS = 10
_ORACLE_GENERAL = Struct("<IQIq")
_REFERENCES = {"LRU": "LRU", "S3-FIFO": "S3FIFO", "W-TinyLFU": "WTinyLFU", "SIEVE": "Sieve", "ARC": "ARC"}


def traces(requests: int) -> dict[str, list[int]]:
    """Return the traces as lists of key numbers."""
    return {"zipf": _zipf(requests, seed=1), "scan": _scan(requests), "shift": _shift(requests)}


def _zipf(requests: int, *, seed: int) -> list[int]:
    weights = list(accumulate(1 / (rank + 1) ** _EXPONENT for rank in range(_KEYS)))
    return Random(seed).choices(range(_KEYS), cum_weights=weights, k=requests)


def _scan(requests: int) -> list[int]:
    popular = _zipf(requests, seed=2)
    trace: list[int] = []
    fresh = _KEYS
    for start in range(0, requests, _SCAN_EVERY):
        trace += popular[start : start + _SCAN_EVERY]
        trace += range(fresh, fresh + _SCAN_KEYS)
        fresh += _SCAN_KEYS
    return trace[:requests]


def _shift(requests: int) -> list[int]:
    ranks = _zipf(requests, seed=3)
    keys = list(range(_KEYS))
    Random(4).shuffle(keys)
    part = -(-requests // _SHIFTS)
    return [keys[(rank + index // part * (_KEYS // _SHIFTS)) % _KEYS] for index, rank in enumerate(ranks)]


def _ours(trace: Sequence[int], policy: str) -> tuple[float, float]:
    store = Store(policy)
    keys = {number: b"key:%d" % number for number in set(trace)}
    hits = 0
    began = time.perf_counter()
    for number in trace:
        key = keys[number]
        if store.get(key, 0.0) is not None:
            hits += 1
            continue
        store.put(key, b"", flags=0, version=1, deadline=1.0, now=0.0)
        if len(store) > _BUDGET:
            store.evict()
    return hits / len(trace), (time.perf_counter() - began) / len(trace) * 1e9


def _references(trace: Sequence[int], folder: Path) -> dict[str, float]:
    path = folder / "trace.oracleGeneral"
    path.write_bytes(b"".join(_ORACLE_GENERAL.pack(at, number + 1, 1, -1) for at, number in enumerate(trace)))
    found = {}
    for name, kind in _REFERENCES.items():
        reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
        missed, _ = getattr(libcachesim, kind)(_BUDGET).process_trace(reader)
        found[f"libcachesim {name}"] = 1 - missed
    return found


def run(requests: int = 300_000) -> list[Row]:
    """Run every policy on every trace.

    Returns:
        Rows of trace, policy and hit_ratio, and for our policies ns_per_op. Without libcachesim its rows are missing.
    """
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        for name, trace in traces(requests).items():
            for policy in POLICIES:
                ratio, ns_per_op = _ours(trace, policy)
                rows.append({"trace": name, "policy": policy, "hit_ratio": ratio, "ns_per_op": ns_per_op})
            references: Mapping[str, float] = _references(trace, Path(folder)) if libcachesim else {}
            rows += [{"trace": name, "policy": policy, "hit_ratio": ratio} for policy, ratio in references.items()]
    return rows


def main() -> None:
    """Print the table."""
    print(f"{_BUDGET} of {_KEYS} keys fit; the default is {DEFAULT_POLICY}")
    print(f"{'trace':<8}{'policy':<24}{'hits':>8}{'ns/op':>8}")
    for row in run():
        ns_per_op = f"{row['ns_per_op']:8.0f}" if "ns_per_op" in row else ""
        print(f"{row['trace']:<8}{row['policy']:<24}{row['hit_ratio']:>8.2%}{ns_per_op}")
    if libcachesim is None:
        print("libcachesim is not installed, so nothing to compare with: run make setup.", file=sys.stderr)


if __name__ == "__main__":
    main()
