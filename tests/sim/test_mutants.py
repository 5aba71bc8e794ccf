"""Every safeguard is needed: with one of them switched off the simulator finds a broken promise."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

from tests.sim.mutants.frame import Mutant
from tests.sim.runner import AIMED, PROFILES, run_seed

_NAMES = sorted(path.stem for path in (Path(__file__).parent / "mutants").glob("*.py") if path.stem != "frame")
_NOT_FOUND_YET = {
    "undone": "needs three answers of L2 in the wrong order; the external checker found it, and a unit test forces it",
}
"""What no run of the length that CI has time for has shown; ``MUTANT=name`` tries one."""
_ONLY = os.environ.get("MUTANT")


def _mutant(name: str) -> Mutant:
    mutant = importlib.import_module(f"tests.sim.mutants.{name}").MUTANT
    assert isinstance(mutant, Mutant), name
    return mutant


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name", [name for name in _NAMES if (name not in _NOT_FOUND_YET if _ONLY is None else name == _ONLY)]
)
def test_mutant_is_found(name: str) -> None:
    """Some run breaks a promise that this safeguard stands for."""
    mutant = _mutant(name)
    profile = (PROFILES | AIMED)[mutant.profile]
    for seed in range(mutant.first, mutant.first + mutant.seeds):
        if set(run_seed(seed, profile, mutant=mutant.apply).clauses) & set(mutant.clauses):
            return
    pytest.fail(f"no run of {mutant.seeds} under {profile.name} noticed that {name} was switched off")


@pytest.mark.parametrize("profile", sorted(AIMED))
def test_aimed_profiles_are_good(profile: str) -> None:
    """What finds the mutants finds nothing where no safeguard is switched off."""
    for seed in range(2):
        assert run_seed(seed, AIMED[profile]).clauses == []
