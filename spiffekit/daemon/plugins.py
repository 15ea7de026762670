# SPDX-License-Identifier: Apache-2.0
"""Plug-ins by entry point: only those that the configuration has a table for are loaded.

A daemon that runs as root must not run whatever happens to be installed. Our own built-ins come in by the
same door. An entry point names a factory with one parameter, whose annotation is the type of its table.
"""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, get_type_hints

from spiffekit.daemon.config import ConfigError, decode


def load(group: str, tables: Mapping[str, Mapping[str, Any]], *, prefix: str = "") -> dict[str, Any]:
    """Return an instance of each plug-in of `group` that `tables` names.

    Args:
        group: The group of entry points, e.g. "attestor.workload".
        tables: The configuration table of each plug-in, by its name.
        prefix: What stands before a name in the configuration file, for messages.

    Raises:
        ConfigError: A name is unknown, or a table breaks a rule; every error is reported.
    """
    known = {point.name: point for point in entry_points(group=group)}
    errors: list[str] = []
    found: dict[str, Any] = {}
    for name, table in tables.items():
        if name not in known:
            have = ", ".join(sorted(known)) or "none"
            errors.append(f"{prefix}{name}: no such plug-in; installed are: {have}")
            continue
        factory = known[name].load()
        (kind,) = [hint for key, hint in get_type_hints(factory).items() if key != "return"]
        config, problems = decode(table, kind, f"{prefix}{name}.")
        errors += problems
        if config is None:
            continue
        try:
            found[name] = factory(config)
        except ConfigError as error:
            errors += [f"{prefix}{name}.{line}" for line in error.errors]
    if errors:
        raise ConfigError(*errors)
    return found
