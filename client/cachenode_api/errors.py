"""Errors of the contract itself: input that neither end accepts."""

from __future__ import annotations

__all__ = [
    "ContractError",
    "InvalidDependencies",
    "InvalidKey",
    "InvalidNamespace",
    "InvalidSelector",
    "InvalidTags",
    "InvalidView",
]


class ContractError(ValueError):
    """Input that breaks the contract. Its text names the field and the limit, never a value."""


class InvalidDependencies(ContractError):
    """What an entry is said to depend on, if that is of a wrong type or too much, or not well formed."""


class InvalidKey(ContractError):
    """A key that is empty, too long, or of a wrong type."""


class InvalidNamespace(ContractError):
    """A namespace's name outside the allowed form."""


class InvalidSelector(ContractError):
    """What an invalidation is to cover, if it is empty, too long, or not well formed."""


class InvalidTags(ContractError):
    """Tags of a wrong type, too many, or one that is empty or too long; or a block of tags that is not well formed."""


class InvalidView(ContractError):
    """A view without members, with two members of one id, or with an unknown ring hash."""
