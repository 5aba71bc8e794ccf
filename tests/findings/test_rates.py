"""How long operations took, out of histograms at two moments."""

from __future__ import annotations

import pytest

from cachenode.findings.rates import latencies
from cachenode_api.v1 import admin_pb2 as pb

LIMITS = (0.001, 0.01, 0.1)


def node(
    within: list[int], *, operation: str = "get", layer: str = "l1", incarnation: str = "1"
) -> pb.GetStatsResponse:
    each = pb.OperationDurations(operation=operation, cache_layer=layer, limits_s=LIMITS, within=within)
    return pb.GetStatsResponse(incarnation=incarnation, durations=[each])


def test_quantiles_are_those_since_the_last_look() -> None:
    """What was counted before does not matter; nodes and layers are summed; within a limit times are spread evenly."""
    before = {"a": node([1_000, 1_000, 1_000, 1_000]), "b": pb.GetStatsResponse(incarnation="1")}
    after = {"a": node([1_050, 1_050, 1_050, 1_050]), "b": node([0, 50, 50, 50], layer="l2")}
    found = latencies(before, after)["get"]
    assert found.count == 100
    assert found.p50_s == pytest.approx(0.001)
    assert found.p99_s == pytest.approx(0.001 + 0.009 * 49 / 50)


def test_beyond_the_last_limit_is_the_last_limit() -> None:
    """A histogram does not say how far beyond."""
    found = latencies({"a": node([0, 0, 0, 0])}, {"a": node([0, 0, 0, 8])})["get"]
    assert (found.p50_s, found.p99_s) == (0.1, 0.1)


def test_no_operations_no_latency() -> None:
    """What did not happen has none, nor has a node that does not answer or has restarted."""
    assert latencies({"a": node([5, 5, 5, 5])}, {"a": node([5, 5, 5, 5])}) == {}
    assert latencies({"a": node([5, 5, 5, 5])}, {"a": node([9, 9, 9, 9], incarnation="2")}) == {}
    assert latencies({"a": node([5, 5, 5, 5]), "b": None}, {"a": None, "b": node([5, 5, 5, 5])}) == {}
