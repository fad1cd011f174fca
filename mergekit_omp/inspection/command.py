"""`mergekit-omp inspect`, from the file of a config to the text that is printed."""

from __future__ import annotations

import yaml
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_omp.inspection import as_json as json_form
from mergekit_omp.inspection.as_text import as_text
from mergekit_omp.inspection.facts import gather
from mergekit_omp.plugin.rehearsal import dry_run


def run(config_file: str, as_json: bool, merge_options: MergeOptions) -> str:
    """What the merge of a config will do, as text or JSON. Raises what mergekit-yaml would."""
    merge_options.apply_global_options()
    with open(config_file, encoding="utf-8") as file:
        config = MergeConfiguration.model_validate(yaml.safe_load(file.read()))
    with dry_run(config, merge_options) as planned:
        if planned is None:
            if as_json:
                return json_form.nothing_to_inspect(config.merge_method)
            return (
                f"merge_method {config.merge_method!r} is mergekit's own: this merge "
                "approximates no row, so that there is nothing to inspect."
            )
        facts = gather(planned)
        return json_form.as_json(facts) if as_json else as_text(facts)
