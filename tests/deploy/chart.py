"""Renders, lints and packages the chart with Helm itself; runs in the environment of requirements/deploy.txt.

Reads `{"chart": folder, "values": {…}}` and writes `{"objects": {file: text}, "findings": […]}` or `{"error": text}`.
"""

import json
import sys
import tempfile
from pathlib import Path

import helm_python as helm


def answer(folder: str, values: dict[str, object]) -> dict[str, object]:
    """Return the chart's files, rendered, and what Helm's linter says of them.

    What users install is the package: links are followed, and what .helmignore names is not there.
    """
    with tempfile.TemporaryDirectory() as built:
        package = Path(helm.package(folder, destination=built)).read_bytes()
    with helm.Chart.load_archive(package) as chart:
        chart.validate_schema(values)
        objects = chart.render(values, name="cachenode", namespace="shop")
    report = helm.lint(folder, values, strict=True, kube_version="v1.32.0")
    findings = [each["error"] for each in report["messages"] if each["severity"] > 1] + report["errors"]
    return {"objects": objects, "findings": findings}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    try:
        told = answer(asked["chart"], asked["values"])
    except helm.HelmError as error:
        told = {"error": str(error)}
    json.dump(told, sys.stdout)
