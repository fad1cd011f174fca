"""The settings beside an output's weights: its config, generation config, processors, tokenizer."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from mergekit.common import ModelReference
from mergekit.io.tasks import LoaderCache

from mergekit_omp.outside.files import LARGEST_SETTINGS, read_json
from mergekit_omp.transplant.chat import turn_end
from mergekit_omp.transplant.other_readers import (
    TokenizerFiles,
    write_older_config,
    write_tokenizer_files,
)
from mergekit_omp.transplant.token_ids import (
    PROCESSOR_FILES,
    Moves,
    base_stops,
    generation_settings,
    processor_settings,
)
from mergekit_omp.vocabulary import Alignment

_OTHER_TOKENIZERS = ("vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json")
"""Files of the base's tokenizer, which mergekit copies to the output for some architectures."""


@dataclass(frozen=True, eq=False)
class OutputSettings:
    """The content of the settings files that the output gets, as planned."""

    base_config: dict[str, Any]
    """The content of the base's config.json."""
    generation_config: dict[str, Any]
    processors: dict[str, dict[str, Any]]
    """The base's processor files by name, with the output's token ids."""
    warnings: tuple[str, ...]

    def write(
        self, folder: Path, config: transformers.PretrainedConfig, files: TokenizerFiles
    ) -> None:
        """Write them into `folder`, where mergekit has written its own files.

        `config` is the one that it saved there. transformers 4.57 and 5 then read the same.
        """
        write_tokenizer_files(folder, files)
        write_older_config(folder, config, self.base_config)
        whole = {"generation_config.json": self.generation_config, **self.processors}
        for name, content in whole.items():
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (folder / name).write_text(text + "\n", encoding="utf-8")
        if files.settings is not None:
            for name in _OTHER_TOKENIZERS:
                (folder / name).unlink(missing_ok=True)


def output_settings(
    base: ModelReference,
    tokenizer: transformers.PreTrainedTokenizerBase,
    alignment: Alignment,
    moves: Moves,
) -> OutputSettings:
    """The base's settings with the output's token ids.

    `tokenizer`: the output's, with its chat template.
    """
    config = base_file(base, "config.json")
    generation = base_file(base, "generation_config.json")
    end = turn_end(tokenizer).id
    levels = [generation, config, *(v for v in config.values() if isinstance(v, dict))]
    settings, warnings = generation_settings(
        generation or {"_from_model_config": True},
        tokenizer,
        moves,
        stops=[*base_stops(levels, moves), *([] if end is None else [end])],
        suppressed=np.flatnonzero(alignment.repeated).tolist(),
    )
    files = {name: base_file(base, name) for name in PROCESSOR_FILES}
    processors, more = processor_settings(files, moves)
    return OutputSettings(config, settings, processors, (*warnings, *more))


def base_file(model: ModelReference, name: str) -> dict[str, Any]:
    """The content of a JSON file beside a model's weights; empty where there is no such file."""
    path = os.path.join(LoaderCache().get(model).index.base_path, name)
    if not os.path.exists(path):
        return {}
    return read_json(path, dict, "Mend it, or remove it.", largest=LARGEST_SETTINGS)
