"""From sources to a valid configuration, or to the list of everything that is wrong.

A field with a bad value takes its default while the rest is checked, so that one run shows every problem; rules that
look at such a field are left out, because what they would say is about the default.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from cachenode.config.checks import EVENT, REGION_PEERS, conflicts
from cachenode.config.model import NodeConfig
from cachenode.config.sources import FILE_VARIABLE, FieldPath, Merged, dotted
from cachenode.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["load_config", "problem_text"]

_LISTS = frozenset({EVENT, REGION_PEERS})
_TEXTS = {
    "greater_than": "must be above {gt:,}",
    "greater_than_equal": "must be {ge:,} or more",
    "less_than_equal": "must be {le:,} or less",
    "finite_number": "must be a finite number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of reasonable size",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "literal_error": "must be {expected}",
    "extra_forbidden": "there is no such setting",
    "value_error": "{error}",
}


def load_config(
    *, flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None, ignore: Collection[str] = ()
) -> NodeConfig:
    """Return the configuration that flags, environment, file and defaults make, the earlier ones winning.

    Args:
        flags: Values by dotted path ("node.listen"); None means that the flag was not given.
        environ: The environment: CACHENODE_NODE__LISTEN and the like, or the short CACHENODE_L2_URL, CACHENODE_MEMORY.
        file: A TOML file; None takes the one that CACHENODE_CONFIG names, if any.
        ignore: Variables that begin with CACHENODE_ and that others read.

    Raises:
        ConfigError: Something is wrong. It carries every problem: field, rule and source, never a value.
    """
    merged = Merged()
    if file is None and environ.get(FILE_VARIABLE):
        file = Path(environ[FILE_VARIABLE])
    if file is not None:
        merged.add_file(file)
    merged.add_environment(environ, ignore=ignore)
    merged.add_flags(flags)
    bad = _check_fields(merged)
    config = NodeConfig.model_validate(merged.tree)
    for conflict in conflicts(config, given=merged.origins):
        if bad.isdisjoint(conflict.fields):
            origins = dict.fromkeys(merged.origins[path] for path in conflict.fields if path in merged.origins)
            merged.problems.append(_line(conflict.fields[0], conflict.text, origins))
    if merged.problems:
        raise ConfigError(merged.problems)
    return config


def _check_fields(merged: Merged) -> set[FieldPath]:
    """Take out every value that is not valid by itself, as a problem, and return the paths of these."""
    bad: set[FieldPath] = set()
    try:
        NodeConfig.model_validate(merged.tree)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            place = tuple(str(part) for part in detail["loc"])
            # It may be within a list; the setting is the list.
            path = next(path for path in merged.origins if place[: len(path)] == path)
            if path not in bad or path in _LISTS:
                bad.add(path)
                text = problem_text(detail)
                if path in _LISTS and (within := place[len(path) :]):  # of its entries each is told, as of tables
                    text = ": ".join([f"number {int(within[0]) + 1}", *within[1:], text])
                merged.problems.append(_line(path, text, [merged.origins[path]]))
    for path in bad:
        merged.drop(path)
    return bad


def problem_text(detail: ErrorDetails) -> str:
    """Return what is wrong with a value, which is not repeated."""
    template = _TEXTS.get(detail["type"])
    return "is not valid" if template is None else template.format(**detail.get("ctx", {}))


def _line(path: FieldPath, text: str, origins: Iterable[str]) -> str:
    source = "; ".join(origins)
    return f"{dotted(path)}: {text} ({source})" if source else f"{dotted(path)}: {text}"
