"""The one error that a user of `mergekit-yaml` sees: a sentence, not a traceback."""

from __future__ import annotations

import click


class TransplantError(click.ClickException):
    """A config, model or tokenizer that cannot be transplanted, and what to write instead.

    click prints its message after `Error:` and exits with status 1.
    """

    def __str__(self) -> str:
        return self.message

    def format_message(self) -> str:
        """The message for a terminal: what a token or a path holds cannot act on it."""
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in self.message)
