"""The configuration of a node: one frozen tree, checked as a whole before anything starts.

A value comes from the first of these that names it: a flag, an environment variable, the TOML file, the default.
`load_config` merges them and reports every problem at once, with the source of each.
"""

from __future__ import annotations

from cachenode.config.live import live_policy, settings
from cachenode.config.load import load_config
from cachenode.config.model import (
    AuthConfig,
    ClusterConfig,
    L2Config,
    LimitsConfig,
    LogConfig,
    MemoryConfig,
    NodeConfig,
    NodeSection,
    TlsConfig,
)
from cachenode.config.namespaces import NamespaceConfig
from cachenode.config.origins import OriginConfig
from cachenode.config.show import FieldHelp, describe, fields_help, fields_table
from cachenode.config.sources import FLAGS
from cachenode.config.values import parse_address, redact_url

__all__ = [
    "FLAGS",
    "AuthConfig",
    "ClusterConfig",
    "FieldHelp",
    "L2Config",
    "LimitsConfig",
    "LogConfig",
    "MemoryConfig",
    "NamespaceConfig",
    "NodeConfig",
    "NodeSection",
    "OriginConfig",
    "TlsConfig",
    "describe",
    "fields_help",
    "fields_table",
    "live_policy",
    "load_config",
    "parse_address",
    "redact_url",
    "settings",
]
