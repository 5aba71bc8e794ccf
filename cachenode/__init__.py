"""The cachenode server: a node of a cache cluster.

Importing this package loads nothing else, so that `import cachenode.core.store` stays free of gRPC and asyncio. The
version is looked up when it is asked for.
"""

from __future__ import annotations

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("cachenode")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
