"""What `--set field=value` says."""

import json
from typing import Any

from nanochat_core.errors import SpecError


def parse_changes(items: list[str]) -> dict[str, Any]:
    """Return {"a.b": value} of ["a.b=value"]; a value is JSON, else text. Raises SpecError for an item without "="."""
    changes = {}
    for item in items:
        field, separator, text = item.partition("=")
        if not separator:
            raise SpecError(f"--set {item}: expected field=value, for example pretrain.model.depth=6.")
        try:
            changes[field.strip()] = json.loads(text)
        except ValueError:
            changes[field.strip()] = text
    return changes


def nested(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the same with a dictionary for each group; raises SpecError where a field is named as a value and a group.

    >>> nested({"port": 8001, "limits.messages": 10, "limits.prompts": 2})
    {'port': 8001, 'limits': {'messages': 10, 'prompts': 2}}
    """
    whole: dict[str, Any] = {}
    for field, value in changes.items():
        *groups, leaf = field.split(".")
        inner = whole
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise SpecError(f"--set {field}: {group} was set as a whole already.")
        inner[leaf] = value
    return whole
