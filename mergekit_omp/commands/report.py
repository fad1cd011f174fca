"""`mergekit-omp report`: what a merge did to the vocabulary, as a file to look at or send."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command()
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write.  [default: tokenizer_transplant.html (or .md) in OUT_DIR]",
)
@click.option("--markdown", is_flag=True, help="Write Markdown, with tables and without plots.")
@click.option("--compare", is_flag=True, help="Make the held-out check with every method.")
@click.option(
    "--hidden",
    type=click.IntRange(min=0),
    default=300,
    show_default=True,
    help="Tokens to hide for the held-out check; 0 for none.",
)
@click.option("--trust-remote-code", is_flag=True, help="As in the merge.")
def report(
    out_dir: Path,
    output: Path | None,
    markdown: bool,
    compare: bool,
    hidden: int,
    trust_remote_code: bool,
) -> None:
    """Report on the merge in OUT_DIR: one HTML file that needs nothing else.

    Run it where the merge ran, so that the models of the config are found. Without them the
    report is still made, with less in it. Nothing is downloaded, and of the models only
    tokenizers and vocabulary tensors are read.
    """
    # A report is on what is there: models that are not in the cache are not fetched for it.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from mergekit_omp.report.write import write_report

    path = write_report(
        out_dir,
        output,
        markdown=markdown,
        compare=compare,
        hidden=hidden,
        trust_remote_code=trust_remote_code,
    )
    click.echo(f"The report is in {path} ({path.stat().st_size / 1e6:.1f} MB).")
