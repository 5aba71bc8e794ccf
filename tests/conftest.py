"""What holds for all tests."""

from __future__ import annotations

import sys

import structlog
from hypothesis import settings

# What nodes within a test's process say belongs to neither stream of the commands that the test runs.
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))
# How long one example takes depends on what else the machine does.
settings.register_profile("cachenode", deadline=None)
settings.load_profile("cachenode")
