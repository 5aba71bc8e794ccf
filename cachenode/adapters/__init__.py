"""Adapters: what the node's ports are in the real world (Redis, gRPC links, clocks), in memory, and under faults.

An adapter knows its port, the core's types and one outside library. It never imports the node or another layer above.
"""
