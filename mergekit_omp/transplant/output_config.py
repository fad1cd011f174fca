"""The output's config: how many rows there are, where the tokens are, whether the head is tied."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import transformers

from mergekit_omp.models.known_model import set_vocabulary_size
from mergekit_omp.transplant.request import MergeRequest
from mergekit_omp.transplant.token_ids import Moves, set_config_ids


@dataclass(frozen=True, eq=False)
class OutputConfig:
    """The output's config, and warnings about token ids in it."""

    config: transformers.PretrainedConfig
    warnings: tuple[str, ...]


def output_config(
    request: MergeRequest,
    tokenizer: transformers.PreTrainedTokenizerBase,
    rows: int,
    moves: Moves,
) -> OutputConfig:
    """A copy of mergekit's config for the output, with its number of rows and its token ids."""
    config = copy.deepcopy(request.out_config)
    set_vocabulary_size(config, rows)
    warnings = set_config_ids(config, request.base_config(), tokenizer, moves)
    return OutputConfig(config, tuple(warnings))


def with_tying(config: transformers.PretrainedConfig, tied: bool) -> transformers.PretrainedConfig:
    """A copy with `tie_word_embeddings` set at every level that has it."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    config.tie_word_embeddings = tied
    if text is not config and hasattr(text, "tie_word_embeddings"):
        text.tie_word_embeddings = tied
    return config


def hand_over(planned: transformers.PretrainedConfig, to: transformers.PretrainedConfig) -> None:
    """Set `to`, mergekit's own object that it will save, to the planned config."""
    vars(to).clear()
    vars(to).update(vars(copy.deepcopy(planned)))
