"""Exports the spans of a node to an OpenTelemetry collector, over OTLP and gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachenode.errors import ConfigError
from cachenode_api import tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["start_traces"]


def start_traces(endpoint: str, ratio: float, node_id: str, cluster: str, version: str) -> TracerProvider:
    """Trace from now on, and export what is recorded, in batches and in a thread of its own.

    Whoever begins a trace decides whether it is recorded; of those that are, this node records a part, by the trace's
    id, so that all nodes with the same ratio record the same ones.

    Args:
        endpoint: The collector, such as http://localhost:4317.
        ratio: That part, 0 to 1.
        node_id: Of this node.
        cluster: Its cluster.
        version: Of the software.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
    except ImportError:
        raise ConfigError(["tracing.endpoint: needs OpenTelemetry; install cachenode[otel]"]) from None
    names = {
        "service.name": "cachenode",
        "service.namespace": cluster,
        "service.instance.id": node_id,
        "service.version": version,
    }
    sampler = ParentBased(ALWAYS_OFF, remote_parent_sampled=TraceIdRatioBased(ratio))
    provider = TracerProvider(sampler=sampler, resource=Resource.create(names), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    tracing.enable(provider)
    return provider
