"""What other libraries say in a merge that nobody who merges can act upon."""

from __future__ import annotations

import logging


def drop_noise() -> None:
    """Drop what transformers 5 says of mergekit's own code; it comes with `--quiet` too."""
    # Adding the same filter again changes nothing.
    logging.getLogger("transformers.configuration_utils").addFilter(_worth_saying)


def _worth_saying(record: logging.LogRecord) -> bool:
    # mergekit sets `torch_dtype` on the output's config, under whatever transformers is installed.
    return not record.getMessage().startswith("`torch_dtype` is deprecated")
