"""Reading source as syntax trees."""

from __future__ import annotations

import ast
import gc

__all__ = ["parse"]


def parse(code: str) -> ast.Module:
    """Return the syntax tree of a module.

    Without garbage collections: what a finalizer of another test's leftovers parses in between makes CPython before
    3.11.8 raise SystemError, "AST constructor recursion depth mismatch" (python/cpython#106905).
    """
    gc.disable()
    try:
        return ast.parse(code)
    finally:
        gc.enable()
