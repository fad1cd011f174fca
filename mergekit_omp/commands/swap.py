"""`mergekit-omp swap`: one model, another's tokenizer, without writing a config by hand."""

from __future__ import annotations

import difflib
import os
from typing import Any

import click

from mergekit_omp.commands.merge_options import TakesMergeOptions
from mergekit_omp.commands.settings import parameters


@click.command(cls=TakesMergeOptions)
@click.argument("base")
@click.argument("donor")
@click.argument("out_path", metavar="OUT")
@click.option(
    "--method",
    default="kriging",
    show_default=True,
    help="How missing rows are made (docs/methods.md).",
)
@click.option(
    "--set",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    help="A parameter, such as match_donor_rows=true. Give it once for each parameter.",
)
@click.option("--dtype", help="Of the output's weights.  [default: as the base has them]")
def swap(
    base: str,
    donor: str,
    out_path: str,
    method: str,
    settings: tuple[str, ...],
    dtype: str | None,
    **options: Any,
) -> None:
    """Give BASE the tokenizer of DONOR, and write the result to OUT.

    Both are folders or names on a hub. Prints the config that does it, and merges as mergekit-yaml
    would: the config is in OUT afterwards, as mergekit_config.yml. It takes the options of
    mergekit-yaml.

    \b
        mergekit-omp swap Qwen/Qwen2.5-0.5B meta-llama/Llama-3.1-8B draft --set match_donor_rows=true
    """
    from mergekit.options import MergeOptions, add_merge_options

    source = config_text(base, donor, method, parameters(settings, "--set"), dtype)

    def run(merge_options: MergeOptions) -> None:
        import yaml
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge

        merge_options.apply_global_options()
        if not merge_options.quiet:
            click.echo(source)
        config = MergeConfiguration.model_validate(yaml.safe_load(source))
        run_merge(config, out_path, options=merge_options, config_source=source)

    add_merge_options(run)(**options)


def local(model: str) -> str:
    """The name of a model, a folder as `./folder`: mergekit's card asks a hub for other names."""
    here = os.path.isdir(model) and not os.path.isabs(model) and not model.startswith(".")
    return os.path.join(".", model) if here else model


def config_text(
    base: str, donor: str, method: str, settings: dict[str, Any], dtype: str | None
) -> str:
    """The config of the swap, as a file for mergekit-yaml. Raises UsageError for other methods."""
    import yaml

    from mergekit_omp.approximation.registry import APPROXIMATIONS

    if method not in APPROXIMATIONS:
        near = difflib.get_close_matches(method, APPROXIMATIONS, n=1)
        guess = f" Did you mean {near[0]}?" if near else ""
        raise click.BadParameter(
            f"there is no method {method!r}.{guess} Choose one of {', '.join(APPROXIMATIONS)}.",
            param_hint="--method",
        )
    config: dict[str, Any] = {
        # mergekit has a method of its own by the name of `linear`.
        "merge_method": "linear+passthrough" if method == "linear" else method,
        "base_model": local(base),
        "models": [{"model": local(base)}],
        "tokenizer_source": local(donor),
    }
    if settings:
        config["parameters"] = settings
    if dtype is not None:
        config["dtype"] = dtype
    text: str = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return text
