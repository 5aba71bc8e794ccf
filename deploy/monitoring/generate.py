"""Writes what is generated here: Grafana's dashboards, and the alerts as a plain rule file.

    python deploy/monitoring/generate.py

`make alerts-check` says whether what is committed is what this writes. A panel is a line: its title, its unit, and
pairs of a query and a legend. `$node` and `$space` are the dashboards' variables; `RATE` is replaced by the interval
that fits the zoom.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml
from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

__all__ = ["DASHBOARDS", "Page", "Panel", "generated"]

FOLDER = Path(__file__).parent
_NODE, _SPACE = '{instance=~"$node"}', '{instance=~"$node",namespace=~"$space"}'
_SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
_HEIGHT, _WIDTH = 8, 8


class Panel(NamedTuple):
    """One diagram: queries with their legends over time."""

    title: str
    unit: str
    queries: Mapping[str, str]
    text: str = ""


class Page(NamedTuple):
    """One dashboard: rows of panels."""

    title: str
    text: str
    rows: Mapping[str, tuple[Panel, ...]]


def _rate(metric: str, by: str, labels: str = _SPACE) -> str:
    return f"sum by ({by}) (rate({metric}{labels}[RATE]))"


def _mean(seconds: str, count: str, by: str, labels: str = _NODE) -> str:
    return f"{_rate(seconds, by, labels)} / {_rate(count, by, labels)}"


def _p99(by: str, labels: str = _NODE) -> str:
    return f"histogram_quantile(0.99, {_rate('cache_operation_duration_seconds_bucket', f'{by}, le', labels)})"


def _each(metrics: Mapping[str, str], by: str, labels: str = _SPACE) -> dict[str, str]:
    """Return the rates of several counters, with a word for each."""
    return {_rate(metric, by, labels): f"{{{{{by}}}}} {word}" for metric, word in metrics.items()}


_READS = f"({_rate('cache_hits_total', 'namespace')} + {_rate('cache_misses_total', 'namespace')})"
_HIT_RATIO = Panel(
    "Hit ratio", "percentunit", {f"{_rate('cache_hits_total', 'namespace')} / {_READS}": "{{namespace}}"},
    "Part of the reads that found a value, in memory or in L2.",
)  # fmt: skip
_MEMORY = Panel(
    "Memory filled",
    "percentunit",
    {
        f"sum by (instance) (cache_memory_bytes{_NODE}) / sum by (instance) (cachenode_memory_max_bytes{_NODE})":
        "{{instance}}"
    },
    "Entries of all namespaces. Full is what a cache becomes; what it costs is in the evictions.",
)  # fmt: skip
_EVICTIONS = Panel(
    "Left memory", "ops", {_rate("cache_evictions_total", "namespace, reason"): "{{namespace}} {{reason}}"}
)
_L2_STATE = Panel(
    "L2 is not believed", "none",
    {'max by (instance, state) (cachenode_l2_state{instance=~"$node",state!~"closed|off"})': "{{instance}} {{state}}"},
    "1 while the breaker is open, tries, or catches up.",
)  # fmt: skip
_VIEW = Panel("View", "none", {f"max by (instance) (cachenode_view_epoch{_NODE})": "{{instance}}"})

DASHBOARDS: Mapping[str, Page] = {
    "overview": Page(
        "cachenode: overview",
        "Is the cluster well, and what does it do?",
        {
            "Clients": (
                _HIT_RATIO,
                Panel(
                    "Reads and writes", "ops",
                    {
                        _rate("cache_hits_total", "cache_layer"): "hits {{cache_layer}}",
                        _rate("cache_misses_total", "job"): "misses",
                        _rate("cache_operations_total", "operation"): "{{operation}}",
                    },
                ),
                Panel("p99 in the node", "s", {_p99("operation"): "{{operation}}"}, "The network is not in it."),
            ),
            "Nodes": (
                Panel("Members seen", "none", {f"max by (instance) (cachenode_members{_NODE})": "{{instance}}"}),
                _MEMORY,
                Panel("Sessions", "none", {f"sum by (instance) (cachenode_sessions{_NODE})": "{{instance}}"}),
            ),
            "Trouble": (
                Panel("Errors", "ops", {_rate("cache_errors_total", "reason", _NODE): "{{reason}}"}),
                Panel(
                    "Pressure", "percentunit", {f"max by (instance) (cachenode_pressure{_NODE})": "{{instance}}"},
                    "What there is to do, as a part of what there may be; beyond 1 work is refused.",
                ),
                Panel("Refused under overload", "ops", {_rate("cachenode_shed_total", "class", _NODE): "{{class}}"}),
                _L2_STATE,
                _VIEW,
                Panel(
                    "Hottest key", "ops",
                    {f"max by (instance) (cachenode_hottest_reads_per_second{_NODE})": "{{instance}}"},
                    "Reads a second of the key that is read most on a node. `cachenode hotkeys` names it.",
                ),
            ),
        },
    ),
    "namespaces": Page(
        "cachenode: namespaces",
        "What each namespace is asked, holds and loses.",
        {
            "Reads and writes": (
                _HIT_RATIO,
                Panel("Reads", "ops", {_READS: "{{namespace}}"}),
                Panel(
                    "Writes and invalidations", "ops",
                    {_rate("cache_operations_total", "namespace, operation"): "{{namespace}} {{operation}}"}
                    | _each({"cache_invalidations_total": "invalidations"}, "namespace"),
                ),
            ),
            "Memory": (
                Panel("Memory", "bytes", {f"sum by (namespace) (cache_memory_bytes{_SPACE})": "{{namespace}}"}),
                Panel("Entries", "none", {f"sum by (namespace) (cache_keys_total{_SPACE})": "{{namespace}}"}),
                _EVICTIONS,
                Panel(
                    "Beyond quotas", "ops",
                    _each({"cachenode_quota_evictions_total": "evicted", "cachenode_quota_refusals_total": "refused"},
                          "namespace"),
                ),
                Panel(
                    "Admission", "ops",
                    _each({"cachenode_admitted_total": "kept", "cachenode_not_admitted_total": "not kept"},
                          "namespace"),
                ),
            ),
            "Loads": (
                Panel(
                    "Loads", "ops",
                    _each({"cachenode_loads_total": "loads", "cachenode_load_failures_total": "failures",
                           "cachenode_load_waits_total": "waits", "cachenode_renewals_total": "renewals"}, "namespace"),
                ),
                Panel(
                    "Mean load", "s",
                    {_mean("cachenode_load_seconds_total", "cachenode_loads_landed_total", "namespace", _SPACE):
                     "{{namespace}}"},
                ),
                Panel(
                    "Answered without a load", "ops",
                    _each({"cachenode_stale_reads_total": "stale", "cachenode_negative_hits_total": "known absent",
                           "cachenode_bloom_absences_total": "by the filter"}, "namespace"),
                ),
                Panel(
                    "Bloom filter errs", "ops",
                    _each({"cachenode_bloom_false_positives_total": "false positives"}, "namespace"),
                ),
                Panel("Warmed", "ops", _each({"cachenode_warmed_total": "loaded",
                                              "cachenode_warm_failures_total": "failed"}, "namespace")),
                Panel("Removed with what they depended on", "ops",
                      _each({"cachenode_cascaded_entries_total": "entries"}, "namespace")),
            ),
        },
    ),
    "l2-and-origins": Page(
        "cachenode: L2 and origins",
        "What nodes wait for: the Redis behind them, and where values come from.",
        {
            "L2": (
                _L2_STATE,
                Panel("Failed calls", "ops", {_rate("cachenode_l2_errors_total", "instance", _NODE): "{{instance}}"}),
                Panel(
                    "p99 of what memory could not answer", "s",
                    {_p99("operation", '{instance=~"$node",cache_layer="l2"}'): "{{operation}}"},
                ),
                Panel("Hits by layer", "ops", {_rate("cache_hits_total", "cache_layer"): "{{cache_layer}}"}),
            ),
            "Loads from origins": (
                Panel("Calls", "ops", _each({"cachenode_origin_calls_total": "calls",
                                             "cachenode_origin_failures_total": "failures",
                                             "cachenode_origin_retries_total": "retries"}, "origin", _NODE)),
                Panel("Mean call", "s", {_mean("cachenode_origin_seconds_total", "cachenode_origin_calls_total",
                                               "origin"): "{{origin}}"}),
                Panel("Keys a call", "none", {_mean("cachenode_origin_keys_total", "cachenode_origin_calls_total",
                                                    "origin"): "{{origin}}"}),
                Panel("Under way and waiting", "none",
                      {f"sum by (origin) (cachenode_origin_busy{_NODE})": "{{origin}} calls",
                       f"sum by (origin) (cachenode_origin_waiting{_NODE})": "{{origin}} keys that wait"}),
                Panel("Left alone", "none",
                      {f"max by (origin) (cachenode_origin_breaker_open{_NODE})": "{{origin}} loads",
                       f"max by (origin) (cachenode_origin_write_breaker_open{_NODE})": "{{origin}} writes"}),
            ),
        },
    ),
    "membership-and-coherence": Page(
        "cachenode: membership and coherence",
        "Do nodes agree, and who waits for whom?",
        {
            "Membership": (
                _VIEW,
                Panel("View changes in ten minutes", "none",
                      {f"max by (instance) (changes(cachenode_view_epoch{_NODE}[10m]))": "{{instance}}"}),
                Panel("Handed over", "ops", {_rate("cachenode_handover_total", "outcome", _NODE): "{{outcome}}"}),
                Panel("Passed on to owners", "ops", {_rate("cachenode_forwarded_total", "instance", _NODE):
                                                     "{{instance}}"}),
                Panel("Leaving", "none", {f"max by (instance) (cachenode_leaving{_NODE})": "{{instance}}"}),
            ),
            "Coherence": (
                Panel("Sessions with copies", "none", {f"sum by (instance) (cachenode_near_holders{_NODE})":
                                                       "{{instance}}"}),
                Panel("Writes that waited for copies", "ops",
                      {_rate("cachenode_invalidation_waits_total", "instance", _NODE): "{{instance}}"}),
                Panel("Their mean wait", "s", {_mean("cachenode_invalidation_wait_seconds_total",
                                                     "cachenode_invalidation_waits_total", "instance"): "{{instance}}"},
                      "Two seconds: a client that does not answer, whose lease had to end."),
                Panel("Invalidations", "ops", _each({"cache_invalidations_total": "declared"}, "namespace")
                      | {_rate("cachenode_swept_total", "instance", _NODE): "{{instance}} swept"}),
                Panel("Copies of hot keys", "ops", {_rate("cachenode_copy_hits_total", "instance", _NODE):
                                                    "{{instance}} hits"}),
                Panel("Events", "ops", {_rate("cachenode_events_total", "source, outcome", _NODE):
                                        "{{source}} {{outcome}}"}),
            ),
        },
    ),
    "write-behind": Page(
        "cachenode: write-behind",
        "What is acknowledged and has not reached its origin.",
        {
            "The queue": (
                Panel("Waiting", "none", {f"sum by (namespace) (cachenode_writebehind_waiting{_SPACE})":
                                          "{{namespace}}"}),
                Panel("The oldest waits for", "s",
                      {f"max by (namespace) (cachenode_writebehind_oldest_seconds{_SPACE})": "{{namespace}}"}),
                Panel("Reached the origin", "ops", _each({"cachenode_writebehind_applied_total": "applied",
                                                          "cachenode_writebehind_coalesced_total": "coalesced"},
                                                         "namespace")),
                Panel("Tried again", "ops", _each({"cachenode_writebehind_retries_total": "retries"}, "namespace")),
                Panel("Dead letters in an hour", "none",
                      {f"sum by (namespace) (increase(cachenode_writebehind_dead_letters_total{_SPACE}[1h]))":
                       "{{namespace}}"}),
            ),
            "The origin": (
                Panel("Writes", "ops", {_rate("cachenode_origin_writes_total", "origin, outcome", _NODE):
                                        "{{origin}} {{outcome}}"}),
                Panel("Mean call", "s", {_mean("cachenode_origin_write_seconds_total",
                                               "cachenode_origin_write_calls_total", "origin"): "{{origin}}"}),
                Panel("Wait for a call", "none", {f"sum by (origin) (cachenode_origin_writes_waiting{_NODE})":
                                                  "{{origin}}"}),
            ),
        },
    ),
}  # fmt: skip


def _panel(panel: Panel) -> timeseries.Panel:
    shown = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.text)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .min(0)
        .fill_opacity(8)
        .height(_HEIGHT)
        .span(_WIDTH)
        .legend(common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM))
    )
    for number, (query, legend) in enumerate(panel.queries.items()):
        expression = query.replace("RATE", "$__rate_interval")
        shown.with_target(prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + number)))
    return shown


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    every = VariableOption(text="All", value="$__all", selected=True)
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(_SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(every)
    )


def _board(name: str, page: Page) -> str:
    board = (
        dashboard.Dashboard(page.title)
        .uid(f"cachenode-{name}")
        .description(page.text)
        .tags(["cachenode"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .with_variable(_variable("node", "Node", "label_values(cachenode_build_info, instance)"))
        .with_variable(_variable("space", "Namespace", "label_values(cache_keys_total, namespace)"))
    )
    for title, panels in page.rows.items():
        board.with_row(dashboard.Row(title))
        for panel in panels:
            board.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=1).encode(board.build()) + "\n"


def generated() -> dict[str, str]:
    """Return every generated file's content, by its path in this folder."""
    spec = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))["spec"]
    head = "# Written by generate.py out of alerts.yaml: the same rules for a Prometheus without the operator.\n"
    rules = yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, width=120)
    return {"rules.yaml": head + rules} | {
        f"dashboards/{name}.json": _board(name, page) for name, page in DASHBOARDS.items()
    }


if __name__ == "__main__":
    for path, content in generated().items():
        (FOLDER / path).write_text(content, encoding="utf-8")
        sys.stdout.write(f"{path}\n")
