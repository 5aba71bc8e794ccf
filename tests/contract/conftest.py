"""Servers for the contract suites."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support import redis_server, redis_topologies


@pytest.fixture(scope="session")
def server_urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """URL of the server of a leg, started when first asked for. Tests share it and take a cluster name each."""
    urls = {"url": redis_server.URL}
    with ExitStack() as stack:

        def url_of(leg: str) -> str:
            if leg == "cluster" and leg not in urls:
                urls[leg] = stack.enter_context(redis_topologies.cluster(tmp_path_factory.mktemp(leg))).url
            if leg not in urls:
                urls[leg] = stack.enter_context(redis_server.server(tmp_path_factory.mktemp(leg), leg)).url
            return urls[leg]

        yield url_of
