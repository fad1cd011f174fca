"""A command that has mergekit-yaml's options beside its own."""

from __future__ import annotations

import click


class TakesMergeOptions(click.Command):
    """A command that also has mergekit-yaml's options, which are loaded when it is used."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from mergekit.options import add_merge_options

        held = {parameter.name for parameter in self.params}
        options = reversed(add_merge_options(lambda: None).__click_params__)
        self.params += [option for option in options if option.name not in held]
        return super().get_params(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from mergekit.options import PrettyPrintHelp

        self.get_params(ctx)
        PrettyPrintHelp.format_options(self, ctx, formatter)
