"""Renders the manifests as their users do: kustomize by kubectl, the chart by Helm. Everything offline."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

__all__ = ["CHART", "DEPLOY", "NAMES", "Rendered", "big_tool", "chart", "chart_values", "kustomized", "tool"]

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm/cachenode"
NAMES = ["dev", "prod"]
"""What there is both as an overlay and as values of the chart."""
_BIG_TOOLS = DEPLOY.parent / "build/deploy-venv/bin"

Rendered = list[dict[str, Any]]


def tool(name: str) -> str:
    """Return the path of a tool that comes in a wheel."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found is not None, f"{name} is not installed; run make setup"
    return found


def big_tool(name: str) -> str:
    """Return the path of a tool of requirements/deploy.txt, or skip: they are large, and only this needs them."""
    if not (_BIG_TOOLS / name).exists():
        pytest.skip("Helm and checkov are not there: make k8s-check installs them")
    return str(_BIG_TOOLS / name)


@cache
def kustomized(overlay: str) -> str:
    """Return an overlay's objects as YAML."""
    command = [tool("kubectl"), "kustomize", str(DEPLOY / "overlays" / overlay)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def chart_values(name: str) -> dict[str, Any]:
    """Return the chart's values for an overlay's twin."""
    return dict(yaml.safe_load((CHART / f"values-{name}.yaml").read_text()))


def chart(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Helm makes of the chart: `objects` by file and `findings`, or `error`."""
    ended = subprocess.run(
        [big_tool("python"), str(Path(__file__).with_name("chart.py"))],
        input=json.dumps({"chart": str(CHART), "values": values}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(ended.stdout))
