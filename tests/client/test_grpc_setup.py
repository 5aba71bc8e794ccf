"""How gRPC is set up: each case in a process of its own, since gRPC looks once, while it is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cachenode_api.transport import GRPC_SETTING

NAME, VALUE = GRPC_SETTING
SAY = f"import os; print(os.environ.get({NAME!r}))"


def said(program: str, **environ: str) -> str:
    """Return what a fresh interpreter prints."""
    fresh = {name: value for name, value in os.environ.items() if name not in {NAME, "CACHENODE_GRPC_TUNING"}}
    done = subprocess.run(
        [sys.executable, "-c", program], env=fresh | environ, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    "package",
    ["cachenode_client", "cachenode_client.blocking", "cachenode.process", "cachenode.cli.main, cachenode.server"],
)
def test_the_setting_is_there_before_grpc_is_loaded(package: str) -> None:
    """Whoever imports the SDK or the node loads a gRPC that is set up."""
    program = f"""
import os, sys
class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            print(os.environ.get({NAME!r}))
sys.meta_path.insert(0, Spy())
import {package}
"""
    assert said(program) == VALUE


def test_a_choice_of_the_user_wins() -> None:
    """A setting that is there already stays."""
    assert said(f"import cachenode_client; {SAY}", **{NAME: "pick_first_new"}) == "pick_first_new"


@pytest.mark.parametrize("word", ["off", "0", "No", "FALSE"])
def test_it_can_be_turned_off(word: str) -> None:
    """The opt-out leaves gRPC alone."""
    assert said(f"import cachenode_client; {SAY}", CACHENODE_GRPC_TUNING=word) == "None"


def test_a_program_that_has_grpc_already_is_left_as_it_is() -> None:
    """Too late is not at all: the variable would only reach child processes."""
    assert said(f"import grpc, cachenode_client; {SAY}") == "None"


@pytest.mark.parametrize(("release", "expected"), [("1.75.9", "None"), ("1.86.0", "None"), ("odd", "None")])
def test_releases_in_which_it_was_not_tried_are_left_alone(release: str, expected: str) -> None:
    """Experiments change their meaning between releases."""
    program = f"""
import importlib.metadata as metadata
found = metadata.version
metadata.version = lambda name: {release!r} if name == "grpcio" else found(name)
import cachenode_api.transport; {SAY}
"""
    assert said(program) == expected
