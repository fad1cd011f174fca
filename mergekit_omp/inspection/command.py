"""`mergekit-omp inspect`, from the file of a config to the text that is printed."""

from __future__ import annotations

from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_omp.inspection import as_json as json_form
from mergekit_omp.inspection.as_text import as_text
from mergekit_omp.inspection.facts import gather
from mergekit_omp.outside.display import on_terminal
from mergekit_omp.outside.faults import of_library
from mergekit_omp.outside.files import read_yaml
from mergekit_omp.plugin.rehearsal import dry_run


def run(config_file: str, as_json: bool, merge_options: MergeOptions) -> str:
    """What the merge of a config will do, as text or JSON. Raises what mergekit-yaml would."""
    merge_options.apply_global_options()
    content = read_yaml(config_file, "Name the config of a merge.")
    with of_library(f"{config_file} is no merge config", "See the README for one that is."):
        config = MergeConfiguration.model_validate(content)
    with dry_run(config, merge_options) as planned:
        if planned is None:
            if as_json:
                return json_form.nothing_to_inspect(config.merge_method)
            return (
                f"merge_method {config.merge_method!r} is mergekit's own: this merge "
                "approximates no row, so that there is nothing to inspect."
            )
        facts = gather(planned)
        return json_form.as_json(facts) if as_json else on_terminal(as_text(facts))
