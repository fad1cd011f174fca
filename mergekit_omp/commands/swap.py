"""`mergekit-omp swap`: one model, another's tokenizer, without writing a config by hand."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from typing import Any

import click

from mergekit_omp.commands.merge_options import TakesMergeOptions
from mergekit_omp.commands.settings import parameters


def _of_tokensurgeon(word: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    """For an option of mergekit-tokensurgeon: says what to write here."""

    def refuse(_: click.Context, option: click.Parameter, value: str | None) -> None:
        if value is not None:
            raise click.UsageError(
                f"{option.opts[-1]} is an option of mergekit-tokensurgeon. Write {word}{value} here."
            )

    return refuse


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
@click.option(
    "-k", hidden=True, expose_value=False, callback=_of_tokensurgeon("--method omp --set k=")
)
@click.option(
    "-a",
    "--approximation-method",
    hidden=True,
    expose_value=False,
    callback=_of_tokensurgeon("--method "),
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

    out_path = os.path.expanduser(_given(out_path, "OUT"))
    base, donor = local(_given(base, "BASE")), local(_given(donor, "DONOR"))
    if os.path.realpath(base) == os.path.realpath(donor):
        raise click.UsageError(f"BASE and DONOR are both {donor}: there is nothing to swap.")
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


def _given(value: str, argument: str) -> str:
    if not value.strip():
        raise click.BadParameter("the name is empty", param_hint=argument)
    return value


def local(model: str) -> str:
    """The name of a model, a folder as `./folder`: mergekit's card asks a hub for other names."""
    model = os.path.expanduser(model)
    here = os.path.isdir(model) and not os.path.isabs(model) and not model.startswith(".")
    return os.path.join(".", model) if here else model


def config_text(
    base: str, donor: str, method: str, settings: dict[str, Any], dtype: str | None
) -> str:
    """The config of the swap, as a file for mergekit-yaml. Raises UsageError for other methods."""
    import yaml

    from mergekit_omp.approximation.registry import APPROXIMATIONS

    if method not in APPROXIMATIONS:
        alone, _, inner = method.partition("+")
        near = difflib.get_close_matches(alone.lower(), APPROXIMATIONS, n=1)
        guess = f" Did you mean {near[0]}?" if near else ""
        if inner and alone in APPROXIMATIONS:
            guess = f" A swap takes {alone} alone: to merge by {inner} as well, write a config."
        raise click.BadParameter(
            f"there is no method {method!r}.{guess} Choose one of {', '.join(APPROXIMATIONS)}.",
            param_hint="--method",
        )
    config: dict[str, Any] = {
        # mergekit has a method of its own by the name of `linear`.
        "merge_method": "linear+passthrough" if method == "linear" else method,
        "base_model": base,
        "models": [{"model": base}],
        "tokenizer_source": donor,
    }
    if settings:
        config["parameters"] = settings
    if dtype is not None:
        config["dtype"] = dtype
    text: str = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return text
