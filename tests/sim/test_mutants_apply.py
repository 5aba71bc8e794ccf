"""Every mutant still finds what it switches off: quick enough for each run of the tests, as the search is not."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.sim.test_mutants import _NAMES, _mutant


@pytest.mark.parametrize("name", _NAMES)
def test_mutant_has_something_to_switch_off(name: str) -> None:
    """What a change has renamed is named here, and not only by the search, which takes minutes."""
    with ExitStack() as stack:
        _mutant(name).apply(stack)
