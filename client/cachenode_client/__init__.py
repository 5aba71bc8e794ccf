"""The client of a cachenode cluster: `CacheClient` here for asyncio, in `cachenode_client.blocking` for threads."""

from __future__ import annotations

import cachenode_api.transport  # noqa: F401 - before the first `import grpc`, which the next line brings
from cachenode_api.dependencies import Parent
from cachenode_client._channels import Tls
from cachenode_client._client import CacheClient
from cachenode_client._events import EventInvalidation, Published
from cachenode_client._loads import ABSENT, Absent, Loaded
from cachenode_client._results import Lookup
from cachenode_client._versioned import Versioned
from cachenode_client._warm import WarmStep
from cachenode_client._watch import Invalidated, Reset
from cachenode_client.errors import (
    CacheError,
    CacheTimeout,
    CacheUnavailable,
    ClientClosed,
    DecodeError,
    ForkedClient,
    InvalidArgument,
    InvalidKey,
    InvalidNamespace,
    InvalidTtl,
    LoadFailed,
    ManyFailed,
    NodeError,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    SinkFailed,
    Unserializable,
    ValueTooLarge,
)
from cachenode_client.serializers import Serializer

__all__ = [
    "ABSENT",
    "Absent",
    "CacheClient",
    "CacheError",
    "CacheTimeout",
    "CacheUnavailable",
    "ClientClosed",
    "DecodeError",
    "EventInvalidation",
    "ForkedClient",
    "InvalidArgument",
    "InvalidKey",
    "InvalidNamespace",
    "InvalidTtl",
    "Invalidated",
    "LoadFailed",
    "Loaded",
    "Lookup",
    "ManyFailed",
    "NodeError",
    "Overloaded",
    "Parent",
    "PermissionDenied",
    "Published",
    "QuotaExceeded",
    "Reset",
    "Serializer",
    "SinkFailed",
    "Tls",
    "Unserializable",
    "ValueTooLarge",
    "Versioned",
    "WarmStep",
]
