"""File descriptors that remain for the node itself."""

from __future__ import annotations

import resource

import pytest

from cachenode.adapters.descriptors import connections_that_fit, http_connections_that_fit, raise_descriptor_limit


@pytest.mark.parametrize(
    ("descriptors", "wanted", "fitting"),
    [(1_048_576, 10_000, 10_000), (1_024, 10_000, 768), (64, 10_000, 32), (1_024, 100, 100), (-1, 10_000, 10_000)],
)
def test_connections_that_fit(descriptors: int, wanted: int, fitting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some remain, however few there are; -1 is any number."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert connections_that_fit(wanted) == fitting


@pytest.mark.parametrize(("descriptors", "fitting"), [(1_048_576, 500), (1_024, 128), (64, 16), (-1, 500)])
def test_http_connections_that_fit(descriptors: int, fitting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take at most half of what gRPC's connections leave."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert http_connections_that_fit(500, 10_000) == fitting


def test_limit_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process takes what it may have; what it may not, it goes without."""
    asked: list[tuple[int, tuple[int, int]]] = []

    def refuse(kind: int, limits: tuple[int, int]) -> None:
        asked.append((kind, limits))
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 4_096))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_descriptor_limit()
    assert asked == [(resource.RLIMIT_NOFILE, (4_096, 4_096))]
