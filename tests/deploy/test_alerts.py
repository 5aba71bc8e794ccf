"""The alerts: promtool runs their unit tests, what they look at is exported, and the runbook explains each."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.deploy.exported import exported, metrics_in

DEPLOY = Path(__file__).parents[2] / "deploy"
SPEC: dict[str, Any] = yaml.safe_load((DEPLOY / "monitoring/alerts.yaml").read_text())["spec"]
RULES = [rule for group in SPEC["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]


def test_rules_do_what_they_should() -> None:
    """Each alert fires on what it is for, and none when all is well."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: it comes with Debian's package prometheus, which CI installs")
    for command in (["check", "rules", "rules.yaml"], ["test", "rules", "tests.yaml"]):
        ended = subprocess.run(
            [promtool, *command], cwd=DEPLOY / "monitoring", capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_rules_look_at_what_nodes_export() -> None:
    """No rule waits for a metric that there is not, nor for a recording that nobody makes."""
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    for rule in RULES:
        promql_parser.parse(rule["expr"])
        assert metrics_in(rule["expr"]) <= exported(), rule
        assert set(re.findall(r"\bcachenode:[a-z0-9_:]+", rule["expr"])) <= recorded, rule


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_is_tested_and_explained(alert: dict[str, Any]) -> None:
    """It has a severity, a summary, a section in the runbook that its annotation leads to, and a test both ways."""
    name = alert["alert"]
    assert alert["labels"]["severity"] in {"info", "warning", "critical"}
    assert alert["annotations"]["runbook_url"] == f"deploy/RUNBOOK.md#{name.lower()}"
    anchors = {title.lower() for title in re.findall(r"^## (\w+)$", (DEPLOY / "RUNBOOK.md").read_text(), re.MULTILINE)}
    assert name.lower() in anchors
    assert (DEPLOY / "monitoring/tests.yaml").read_text().count(name) >= 2, "once for silence, once for the alarm"
