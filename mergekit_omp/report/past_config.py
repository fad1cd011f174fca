"""The config of a merge that has run, to be planned once more, perhaps with another method."""

from __future__ import annotations

from typing import Any

from mergekit.config import MergeConfiguration

from mergekit_omp.approximation import APPROXIMATIONS
from mergekit_omp.errors import TransplantError
from mergekit_omp.outside.faults import of_library
from mergekit_omp.outside.files import parsed_yaml
from mergekit_omp.transplant.methods import find


def past_config(config_yaml: str, method: str | None = None) -> MergeConfiguration:
    """The config in a merge's mergekit_config.yml, by another approximation if `method` names one.

    Raises TransplantError where it is not the config of a merge by one of our methods.
    """
    settings = parsed_yaml("its mergekit_config.yml", config_yaml)
    if method is not None:
        settings = _with_method(settings, method)
    with of_library("its mergekit_config.yml is no merge's config", "Merge again"):
        config = MergeConfiguration.model_validate(settings)
    if find(config.merge_method) is None:
        raise TransplantError(
            f"its mergekit_config.yml is of a merge by {config.merge_method!r}, which is "
            "mergekit's own"
        )
    return config


def _with_method(settings: dict[str, Any], method: str) -> dict[str, Any]:
    """The config with another approximation, without parameters which that one does not have."""
    own, plus, inner = settings["merge_method"].partition("+")
    dropped = APPROXIMATIONS[own].model_fields.keys() - APPROXIMATIONS[method].model_fields.keys()
    return {**_without(settings, dropped), "merge_method": f"{method}{plus}{inner}"}


def _without(node: Any, names: set[str]) -> Any:
    """Copies a config, every block of `parameters:` in it without those of `names`."""
    if isinstance(node, list):
        return [_without(item, names) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: {name: v for name, v in (value or {}).items() if name not in names}
        if key == "parameters"
        else _without(value, names)
        for key, value in node.items()
    }
