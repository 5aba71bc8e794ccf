"""The manifests keep the usual rules for pods, but for those that deploy/checkov.yaml names with its reasons."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.deploy.rendering import DEPLOY, NAMES, big_tool, kustomized


def test_manifests_keep_the_rules(tmp_path: Path) -> None:
    """checkov has nothing to say of the overlays, nor of the chart, which makes theirs; a bad one is noticed."""
    for name in NAMES:
        (tmp_path / f"{name}.yaml").write_text(kustomized(name))
    (tmp_path / "bad.yaml").write_text(kustomized("prod").replace("readOnlyRootFilesystem: true", "privileged: true"))
    command = [big_tool("checkov"), "--config-file", str(DEPLOY / "checkov.yaml"), "--directory", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 1, ended.stderr
    assert set(re.findall(r"File: /(\S+):", ended.stdout)) == {"bad.yaml"}, ended.stdout
