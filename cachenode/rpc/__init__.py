"""The gRPC services of a node: unpack, let the node do it, pack. One file per service."""
