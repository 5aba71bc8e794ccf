"""Asks the public advisories about the versions that CI runs with: ``python -m tests.support.audit pip-audit``.

Exit code 1 if one is known to be weak. Where the advisories cannot be reached that is said, and it is no failure: the
floors in the projects' files are checked against what was known on a date (``tests/meta/test_known_bad.py``).
"""

from __future__ import annotations

import json
import subprocess
import sys

_TIMEOUT_S = 120
_COMMAND = (
    "-r",
    "requirements/constraints.txt",
    "--no-deps",
    "--disable-pip",
    "-f",
    "json",
    "--progress-spinner",
    "off",
)


def verdict(report: str) -> tuple[int, str]:
    """Return the exit code and what to say about pip-audit's report."""
    try:
        entries = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        entries = []
    asked = [entry for entry in entries if "skip_reason" not in entry]
    if not asked:
        return 0, "The advisories cannot be reached from here: nothing was asked."
    weak = [
        f"  {entry['name']} {entry['version']}: {', '.join(each['id'] for each in entry['vulns'])}"
        for entry in asked
        if entry["vulns"]
    ]
    left = len(entries) - len(asked)
    said = [f"{len(asked)} asked about, {len(weak)} weak, {left} that the advisories do not know.", *weak]
    return int(bool(weak)), "\n".join(said)


def main(program: str) -> int:
    """Run from the command line."""
    try:
        report = subprocess.run(
            [program, *_COMMAND], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        report = ""
    code, text = verdict(report)
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
