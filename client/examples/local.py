"""Where the examples find a cluster: an address that is given, or one of their own for as long as they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = ["HERE", "cluster"]

HERE = Path(__file__).resolve().parent
_STOP_S = 30.0


@contextmanager
def cluster(config: str = "", files: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yield the address of a cluster: the first argument, else CACHENODE_ADDRESS, else one that is started here.

    Args:
        config: A TOML file beside the examples, for the nodes that are started; it may name loaders beside it.
        files: What these nodes find in the folder in which they run, by name.
    """
    given = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("CACHENODE_ADDRESS")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="cachenode-") as folder:
        for name, text in (files or {}).items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "cachenode", "cluster", "--nodes", "2", "--dir", f"{folder}/cluster"]
        if config:
            command += ["--config", str(HERE / config)]
        paths = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))  # nodes import loaders
        with (Path(folder) / "errors").open("w+b") as errors:
            process = subprocess.Popen(  # noqa: S603 - the command line that came with this package
                command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, env=os.environ | {"PYTHONPATH": paths}
            )
            assert process.stdout is not None
            try:
                line = process.stdout.readline()  # one line of JSON, when all nodes are ready
                if not line:
                    raise SystemExit((Path(folder) / "errors").read_text())
                yield ",".join(node["address"] for node in json.loads(line)["nodes"])
            finally:
                process.terminate()
                process.wait(_STOP_S)
                process.stdout.close()
