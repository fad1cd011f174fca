"""Hides warnings of other libraries that a user can do nothing about."""

from __future__ import annotations

import logging


def drop_noise() -> None:
    """Hide transformers' warning about a deprecated setting in mergekit's own code."""
    # Adding a filter twice has no effect.
    logging.getLogger("transformers.configuration_utils").addFilter(_worth_saying)


def _worth_saying(record: logging.LogRecord) -> bool:
    # mergekit sets `torch_dtype` on the output's config, whichever transformers is installed.
    return not record.getMessage().startswith("`torch_dtype` is deprecated")
