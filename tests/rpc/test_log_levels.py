from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc import aio

from cachenode.adapters.logs import levels
from cachenode.core.log_levels import LEVELS
from cachenode_api.v1 import admin_pb2 as pb

DRAIN = "cachenode.node.drain"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Levels are the process's: what a test says is taken back."""
    yield
    for name in levels.said(0):
        levels.reset(name)


async def test_level_is_changed_and_taken_back(admin: Any) -> None:
    """A logger's level, for a time, for all, and as it was."""
    answer = await admin.SetLogLevel(pb.SetLogLevelRequest(logger=DRAIN, level="debug", seconds=600))
    [said] = answer.loggers
    assert (answer.header.node_id, answer.level, said.logger, said.level) == ("n0", "info", DRAIN, "debug")
    assert 500 < said.seconds <= 600
    assert levels.writes(DRAIN, LEVELS["debug"], 0)
    await admin.SetLogLevel(pb.SetLogLevelRequest(level="error"))
    answer = await admin.GetLogLevels(pb.GetLogLevelsRequest())
    assert [(each.logger, each.HasField("seconds")) for each in answer.loggers] == [
        ("cachenode", False),
        (DRAIN, True),
    ]
    answer = await admin.SetLogLevel(pb.SetLogLevelRequest(logger=DRAIN))
    assert [each.logger for each in answer.loggers] == ["cachenode"]


@pytest.mark.parametrize(
    "fields",
    [
        {"logger": "grpc", "level": "debug"},
        {"logger": "cachenode.nothing", "level": "debug"},
        {"logger": DRAIN, "level": "loud"},
        {"logger": DRAIN, "level": "debug", "seconds": -1.0},
    ],
)
async def test_what_is_refused(admin: Any, fields: dict[str, Any]) -> None:
    """Loggers, levels and times that there are not; nothing changes."""
    with pytest.raises(aio.AioRpcError) as refused:
        await admin.SetLogLevel(pb.SetLogLevelRequest(**fields))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert levels.said(0) == {}
