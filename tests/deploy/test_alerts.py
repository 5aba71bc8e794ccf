"""The alerts: promtool runs their unit tests, what they look at is exported, and the runbook explains each."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cachenode.adapters.metrics import NodeCollector
from cachenode.core.stats import NodeStats
from tests.meta.test_pages import zeros

DEPLOY = Path(__file__).parents[2] / "deploy"
SPEC: dict[str, Any] = yaml.safe_load((DEPLOY / "monitoring/alerts.yaml").read_text())["spec"]
RULES = [rule for group in SPEC["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
_METRIC = re.compile(r"\b(?:cache|cachenode)_[a-z0-9_]+")


def test_rules_do_what_they_should(tmp_path: Path) -> None:
    """Each alert fires on what it is for, and none when all is well."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: it comes with Debian's package prometheus, which CI installs")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(SPEC))
    shutil.copy(DEPLOY / "monitoring/tests.yaml", tmp_path)
    for command in (["check", "rules", "rules.yaml"], ["test", "rules", "tests.yaml"]):
        ended = subprocess.run(
            [promtool, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_rules_look_at_what_nodes_export() -> None:
    """No rule waits for a metric that there is not."""
    exported = set()
    stats = dataclasses.replace(zeros(NodeStats), certificate_expires_at=0.0)
    for family in NodeCollector(lambda: stats).collect():
        endings = {"counter": ["_total"], "histogram": ["_bucket"]}.get(family.type, [""])
        exported |= {family.name + ending for ending in endings}
    named = {name for rule in RULES for name in _METRIC.findall(rule["expr"]) if ":" not in name}
    assert named - exported == set()


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_is_tested_and_explained(alert: dict[str, Any]) -> None:
    """It has a severity, a summary, a section in the runbook that its annotation leads to, and a test both ways."""
    name = alert["alert"]
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert alert["annotations"]["runbook_url"] == f"deploy/RUNBOOK.md#{name.lower()}"
    assert f"## {name}\n" in (DEPLOY / "RUNBOOK.md").read_text()
    assert (DEPLOY / "monitoring/tests.yaml").read_text().count(name) >= 2, "once for silence, once for the alarm"
