"""Input that was once handled badly is handled well; and each target gets a little that is new. Scenario 58."""

from __future__ import annotations

import pytest

from tests.fuzz.running import CORPUS, fuzz, run_one
from tests.fuzz.targets import TARGETS, Target

FOUND = sorted(CORPUS.glob("*/*.bin"))
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # batches given up


@pytest.mark.parametrize("file", FOUND, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_what_was_found_once(file: object) -> None:
    """No finding comes back."""
    path = next(each for each in FOUND if each == file)
    run_one(TARGETS[path.parent.name], path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_a_little_of_everything(name: str) -> None:
    """The same inputs in each run: what is new is for `make fuzz`."""
    tried, worst = fuzz(name, first_seed=1, examples=30)
    assert worst is None
    assert tried >= 10


def test_findings_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that fails over some inputs is caught, with the smallest of them."""

    def bad(data: bytes) -> None:
        if b"x" in data:
            raise KeyError

    damaged = TARGETS["glob"].inputs.map(lambda data: data + b"x" * (len(data) > 3))
    monkeypatch.setitem(TARGETS, "bad", Target(bad, damaged))
    tried, worst = fuzz("bad", first_seed=1, examples=100)
    assert tried
    assert worst is not None
    assert b"x" in worst
