"""Writes what each distribution brings along as CycloneDX: ``python -m tests.support.sbom cyclonedx-py build/sbom``.

A distribution is installed with all that its users may ask for, in the versions that CI runs with, into an environment
of its own, and that is what is listed. Where it came from (a folder or an index of this machine) is left out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

__all__ = ["DISTRIBUTIONS", "without_places"]

DISTRIBUTIONS = {
    "cachenode-client": ("client", "./client[lz4,msgspec,orjson,otel,zstd]"),
    "cachenode": (".", ".[embedded,kubernetes,otel,reflection,sql]"),
}
"""The folder of each, and what is installed."""
_TIMEOUT_S = 600


def without_places(bom: dict[str, Any]) -> dict[str, Any]:
    """Return a bill without what names this machine or its index: where a component was installed from."""
    for component in [bom.get("metadata", {}).get("component", {}), *bom.get("components", [])]:
        kept = [each for each in component.get("externalReferences", ()) if each.get("type") not in _PLACES]
        component.pop("externalReferences", None)
        if kept:
            component["externalReferences"] = kept
        component["purl"] = component.get("purl", "").partition("?")[0]
        if not component["purl"]:
            del component["purl"]
    return bom


_PLACES = {"distribution", "vcs", "build-system"}


def write(program: str, name: str, into: Path) -> str:
    """Write the bill of a distribution; return what to say about it."""
    folder, asked = DISTRIBUTIONS[name]
    environment = into / f"{name}-venv"
    shutil.rmtree(environment, ignore_errors=True)
    venv.create(environment, with_pip=False)
    python = str(environment / "bin" / "python")
    client = [] if name == "cachenode-client" else ["./client"]
    _run("uv", "pip", "install", "--quiet", "--python", python, "-c", "requirements/constraints.txt", *client, asked)
    options = ("--pyproject", f"{folder}/pyproject.toml", "--output-reproducible", "--mc-type", "application")
    found = _run(program, "environment", *options, python)
    bom = without_places(json.loads(found))
    (into / f"{name}.cdx.json").write_text(json.dumps(bom, indent=2, sort_keys=True) + "\n")
    shutil.rmtree(environment)
    return f"{name}: {len(bom['components'])} components in {into / name}.cdx.json"


def _run(program: str, *arguments: str) -> str:
    beside = Path(sys.executable).parent / program
    words = [str(beside) if beside.exists() else program, *arguments]
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=_TIMEOUT_S, check=True).stdout


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for distribution in DISTRIBUTIONS:
        print(write(sys.argv[1], distribution, folder))
