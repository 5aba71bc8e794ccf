"""Which settings of a namespace may be changed while a node runs, and what they are after a change.

A change is a text by setting, checked by the same model and the same rules as a file. What is not listed in `LIVE`
takes effect when a node starts; `FIXED` says why where there is more to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from cachenode.config.checks import conflicts
from cachenode.config.load import problem_text
from cachenode.config.model import NodeConfig
from cachenode.config.namespaces import NamespaceConfig
from cachenode.config.show import shown_value
from cachenode.config.sources import did_you_mean
from cachenode.core.live_policy import LivePolicy, Setting
from cachenode.core.policy import NamespacePolicy
from cachenode.errors import ConfigError
from cachenode_api.keys import DEFAULT_NAMESPACE

__all__ = ["LIVE", "live_policy", "settings", "why_fixed"]

LIVE = frozenset(
    {
        "ttl_s",
        "max_value_bytes",
        "holdoff_s",
        "ttl_jitter",
        "stale_s",
        "refresh_ahead",
        "xfetch_beta",
        "negative_ttl_s",
        "adaptive_ttl",
        "adaptive_steps",
        "adaptive_min_s",
        "adaptive_max_s",
        "adaptive_hit_rate",
        "admit_after",
        "sliding",
        "max_life_s",
        "max_bytes",
        "max_keys",
        "quota",
        "share",
    }
)
FIXED: Mapping[str, str] = MappingProxyType(
    {
        "l2": "while some nodes used L2 and others did not, they would not see each other's writes",
        "origin": "what was loaded from the former origin would be served as if it came from the new one",
        "write": "while some nodes wrote to the origin and others did not, a key's writes would have two orders",
        "demand_window_s": "what was counted of the keys so far would be lost",
    }
)
_START = "it is read when a node starts"
_UNITS = MappingProxyType({"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0})
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)\Z")

LivePolicies = Mapping[str, LivePolicy]


def why_fixed(name: str) -> str:
    """Return why a setting cannot be changed while nodes run; empty if it can."""
    return "" if name in LIVE else FIXED.get(name, _START)


def live_policy(config: NodeConfig, name: str, live: LivePolicies) -> NamespacePolicy:
    """Return the policy of a namespace after changes.

    Raises:
        ConfigError: A change is not valid. It carries every problem.
    """
    return _section(config, name, live).policy(name, config.limits.max_value_bytes, config.regions.name)


def settings(config: NodeConfig, name: str, live: LivePolicies) -> list[Setting]:
    """Return all settings of a namespace, each with where its value comes from."""
    section, configured, changes = _section(config, name, live), _configured(config, name), _changes(config, name, live)
    found = []
    for field, info in NamespaceConfig.model_fields.items():
        value = getattr(section, field)
        source = "live" if field in changes else "file" if field in configured.model_fields_set else "default"
        found.append(Setting(field, "" if value is None else shown_value(value, info), source, why_fixed(field)))
    return found


def _configured(config: NodeConfig, name: str) -> NamespaceConfig:
    return config.namespaces.get(name, config.namespaces[DEFAULT_NAMESPACE])


def _changes(config: NodeConfig, name: str, live: LivePolicies) -> dict[str, str]:
    """Return the changes that apply: a namespace without a table of its own follows "default"."""
    names = [name] if name in config.namespaces else [DEFAULT_NAMESPACE, name]
    return {field: text for each in names if each in live for field, text in live[each].fields.items()}


def _section(config: NodeConfig, name: str, live: LivePolicies) -> NamespaceConfig:
    changes = _changes(config, name, live)
    problems = [
        f"{field}: {_no_such(field) if field not in NamespaceConfig.model_fields else f'cannot change live: {why}'}"
        for field in changes
        if (why := why_fixed(field))
    ]
    possible = {field: _value(field, text) for field, text in changes.items() if not why_fixed(field)}
    given = _configured(config, name).model_dump(exclude_unset=True)
    try:
        section = NamespaceConfig.model_validate(given | possible)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        problems += dict.fromkeys(f"{detail['loc'][0]}: {problem_text(detail)}" for detail in details)
        raise ConfigError(problems) from None
    whole = config.model_copy(update={"namespaces": {**config.namespaces, name: section}})
    for conflict in conflicts(whole, given=()):
        if conflict.fields[0][:2] == ("namespaces", name):
            problems.append(f"{conflict.fields[0][-1]}: {conflict.text}")
    if problems:
        raise ConfigError(problems)
    return section


def _no_such(field: str) -> str:
    return f"there is no such setting{did_you_mean(field, list(NamespaceConfig.model_fields))}"


def _value(field: str, text: str) -> Any:  # noqa: ANN401 - whatever the model takes
    """Return what a text stands for: as in a file, or in the environment; seconds may be written as 30s or 10m."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if field.endswith("_s") and (match := _DURATION.match(text)):
        return float(match[1]) * _UNITS[match[2]]
    return text
