"""Grafana's dashboards: what is committed is what is generated, and each query asks for what nodes export."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from deploy.monitoring.generate import DASHBOARDS, FOLDER, generated
from tests.deploy.exported import exported, metrics_in

BOARDS = {name: json.loads((FOLDER / f"dashboards/{name}.json").read_text()) for name in DASHBOARDS}
every_board = pytest.mark.parametrize("name", sorted(BOARDS))


def queries(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each panel's title with each of its queries, as Grafana sends them."""
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$__rate_interval", "1m")
            yield panel["title"], re.sub(r"\$\w+", ".*", query)


def test_committed_files_are_the_generated_ones() -> None:
    """Whoever changes a dashboard or an alert writes the files anew: python deploy/monitoring/generate.py."""
    there = {str(file.relative_to(FOLDER)) for file in FOLDER.glob("dashboards/*")} | {"rules.yaml"}
    assert there == set(generated())
    for path, content in generated().items():
        assert (FOLDER / path).read_text() == content, f"{path} is not what generate.py writes"


@every_board
def test_queries_ask_for_what_nodes_export(name: str) -> None:
    """Each is PromQL, and no panel waits for a metric that there is not."""
    found = list(queries(BOARDS[name]))
    assert len(found) >= 8
    for title, query in found:
        promql_parser.parse(query)
        assert metrics_in(query) <= exported(), title
        assert metrics_in(query), title


@every_board
def test_boards_can_be_read(name: str) -> None:
    """Panels lie beside each other, never on each other; each has a title of its own, a unit and a legend."""
    board = BOARDS[name]
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert place["x"] + place["w"] <= 24
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["legendFormat"] for target in panel["targets"])
    assert board["uid"] == f"cachenode-{name}"
    assert [each["name"] for each in board["templating"]["list"]] == ["source", "node", "space"]


def test_every_board_is_mounted() -> None:
    """Kubernetes' ConfigMap has all of them, by name."""
    [maps] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["configMapGenerator"]
    assert sorted(maps["files"]) == sorted(f"dashboards/{name}.json" for name in BOARDS)
    assert maps["options"]["labels"] == {"grafana_dashboard": "1"}
