"""The node as an application: what it does with batches, views and its shared store, without gRPC and without Redis."""
