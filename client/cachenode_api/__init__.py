"""The contract between cachenode's nodes and their clients: keys, ring, views, versions, records, reasons, wire stubs.

Both ends must agree on everything here, so it exists once. Importing the hand-written modules does not import grpc.
"""
