"""Settings of methods as words of a command line: `k=16`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click


def parameters(settings: Iterable[str], option: str) -> dict[str, Any]:
    """Values by name, read as YAML reads them. Raises BadParameter, which names `option`."""
    import yaml
    from mergekit.config import ParameterSetting
    from pydantic import TypeAdapter, ValidationError

    setting_of = TypeAdapter(ParameterSetting)
    found: dict[str, Any] = {}
    for setting in settings:
        name, is_set, value = setting.partition("=")
        if not is_set or not name:
            raise click.BadParameter(
                f"{setting!r} is not NAME=VALUE; write for instance k=16", param_hint=option
            )
        if name in found:
            raise click.BadParameter(f"{name} is set twice", param_hint=option)
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise click.BadParameter(
                f"the value of {name} is not YAML: {value}", param_hint=option
            ) from error
        try:
            setting_of.validate_python(found[name])
        except ValidationError as error:
            raise click.BadParameter(
                f"{name} is {value or 'left empty'}; write a value, or {{filter: TENSOR, value: "
                "VALUE}, or a list of such",
                param_hint=option,
            ) from error
    return found
