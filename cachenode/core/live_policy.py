"""Settings of a namespace that were changed while the cluster runs: what was changed, and which change is the newest.

Whoever changes one makes a version above the newest that is known. Two who do so at a moment make the same version;
then the greater text wins, at every node and in the store alike, so all end with the same one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["LivePolicy", "Setting"]


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """What of a namespace's settings is not what its configuration says.

    Attributes:
        version: Of the change, from 1 on; 0 if there never was one.
        fields: Texts of values by setting, as they stand in the configuration. None are left after a reset, whose
            version says that it is newer than what it has taken back.
    """

    version: int = 0
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The form in which it is kept."""
        return json.dumps({"version": self.version, "fields": dict(sorted(self.fields.items()))}, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str | bytes) -> LivePolicy:
        """Return what a text says.

        Raises:
            ValueError: It is none.
        """
        try:
            found = json.loads(text)
            return cls(int(found["version"]), {str(name): str(value) for name, value in found["fields"].items()})
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not the settings of a namespace: {type(error).__name__}") from None

    def newer(self, other: LivePolicy) -> bool:
        """Return True if this change goes before another one."""
        return (self.version, self.text) > (other.version, other.text)

    def changed(self, fields: Mapping[str, str], reset: frozenset[str] | None = frozenset()) -> LivePolicy:
        """Return the next version.

        Args:
            fields: What is set.
            reset: Whose configured values apply again; None for all.
        """
        kept = {} if reset is None else {name: text for name, text in self.fields.items() if name not in reset}
        return LivePolicy(self.version + 1, {**kept, **fields})


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of one namespace, for people.

    Attributes:
        name: Of the setting.
        value: As it would be written in TOML; empty if another setting decides.
        source: "default", "file" (or environment) or "live".
        fixed: Why it cannot be changed while nodes run; empty if it can.
    """

    name: str
    value: str
    source: str
    fixed: str
