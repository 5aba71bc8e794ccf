"""Traces of what the cache does for a call, across the SDK, nodes, L2 and origins, with OpenTelemetry.

Install ``cachenode-client[otel]`` and call `enable` once, after the application has set its tracer provider::

    from cachenode_client import tracing

    tracing.enable()

From then on `get_or_load` is a span, below the caller's if there is one; other calls pass the caller's span on. What
nodes add to the trace they export themselves (`tracing.endpoint` of their configuration).
"""

from __future__ import annotations

from cachenode_api.tracing import disable, enable

__all__ = ["disable", "enable"]
