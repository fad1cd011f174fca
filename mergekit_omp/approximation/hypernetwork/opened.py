"""A hypernetwork whose files have been found and checked, ready for a base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mergekit_omp.approximation.base import Cost, Part
from mergekit_omp.approximation.hypernetwork.config import HypernetworkConfig, read_config
from mergekit_omp.approximation.hypernetwork.files import CONFIG, TOKENIZER, Place, Weights
from mergekit_omp.approximation.hypernetwork.network import (
    Network,
    expected_tensors,
    multiply_adds,
)
from mergekit_omp.approximation.hypernetwork.pieces import PieceVocabulary, Segments


@dataclass(frozen=True, eq=False)
class BaseFacts:
    """What is known of a base model before its weights are read."""

    name: str
    strings: Sequence[str | None]
    """Its tokenizer's own string of each id; None where there is no token."""
    content: Sequence[bytes | None]
    """The bytes of each id; None for control tokens and where there is no token."""
    shapes: Mapping[Part, tuple[int, int]]
    """(rows, numbers per row) of its input embedding, and of its head where that is a matrix of
    its own."""


@dataclass(frozen=True, eq=False)
class OpenedHypernetwork:
    """The parts of one hypernetwork. Its weights are read when it predicts."""

    place: Place
    config: HypernetworkConfig
    vocabulary: PieceVocabulary
    weights: Weights
    language: int | None

    @classmethod
    def open(
        cls, source: str, language: str | None, *, headers_only: bool = False
    ) -> OpenedHypernetwork:
        """Find and check all files; with `headers_only` no weights are downloaded.

        Raises ValueError, naming file, key or tensor, what was expected and what was found.
        """
        place = Place(source)
        config = read_config(place.json(CONFIG), place.name(CONFIG))
        chosen = config.language(language, source)
        vocabulary = PieceVocabulary(
            place.text(TOKENIZER), place.name(TOKENIZER), config.vocabulary
        )
        weights = Weights(place, expected_tensors(config), headers_only=headers_only)
        return cls(place, config, vocabulary, weights, chosen)

    def check_weights(self) -> None:
        """Raises ValueError for a tensor that cannot be read or is not finite."""
        for name in self.weights.expected:
            self.weights.read(name, torch.device("cpu"))

    def check_base(self, base: BaseFacts) -> None:
        """Raises ValueError where this is not a hypernetwork for the base."""
        self.check_shapes(base.name, base.shapes)
        self.vocabulary.check_base(base.strings, base.content, base.name)

    def check_shapes(self, base: str, shapes: Mapping[Part, tuple[int, int]]) -> None:
        """Raises ValueError where it is for other matrices than those that a base has.

        `shapes` are (rows, numbers per row) as in `BaseFacts`.
        """
        config, source = self.config, self.place.source
        separate = Part.HEAD in shapes
        if separate != config.separate:
            raise ValueError(
                f"the hypernetwork {source} is for {_models(config)}; {base} "
                + ("has a head of its own" if separate else "has one matrix for both")
            )
        for part, (rows, width) in shapes.items():
            what = f"the {'head' if part == Part.HEAD else 'input embedding'} of {base}"
            if width != config.width:
                raise ValueError(
                    f"{self.place.name(CONFIG)}: n_embd must be the length of a row of {what} "
                    f"({width}); found {config.width}"
                )
            if rows < config.vocabulary:
                raise ValueError(
                    f"{self.place.name(CONFIG)}: original_vocab_size must be at most the rows of "
                    f"{what} ({rows}); found {config.vocabulary}"
                )

    def is_for(self, name: str) -> bool:
        """Whether the config names this model, or no model, as the one it was trained for."""
        own = self.config.base
        return own is None or own.rstrip("/").split("/")[-1] == name.rstrip("/").split("/")[-1]

    def segment(self, tokens: Sequence[bytes | None]) -> Segments:
        """The pieces of each token, those that the network reads."""
        fallback = self.weights.shapes["fallback_embeddings.weight"][0]
        return self.vocabulary.segment(
            tokens, self.config.longest, self.config.vocabulary + fallback
        )

    def predict(
        self,
        segments: Segments,
        matrices: Mapping[Part, Float[Tensor, "rows width"]],
        *,
        progress: bool = False,
    ) -> dict[str, Tensor]:
        """The rows of all tokens that can be predicted, on the device of the base's matrices.

        `places` says which tokens of `segments` they are for; the rows are under the names of
        the parts: `head` where the base has a head of its own, `head_bias` where it is predicted.
        A token for which the base's rows are not finite is left out.
        """
        entry = matrices[Part.INPUT]
        read = [entry, matrices[Part.HEAD]] if self.config.separate else [entry]

        def source(ids: Tensor) -> Tensor:
            return torch.cat([m[ids.to(m.device)].to(entry.device).float() for m in read], dim=1)

        places = segments.predicted
        with torch.no_grad():
            network = Network(
                self.config,
                {name: self.weights.read(name, entry.device) for name in self.weights.expected},
                self.language,
            )
            found = network.predict([segments.pieces[i] for i in places], source, progress=progress)
        rows = {Part.INPUT: found.input, Part.HEAD: found.head, Part.HEAD_BIAS: found.bias}
        predicted = {part.value: tensor for part, tensor in rows.items() if tensor is not None}
        finite = torch.stack([t.isfinite().all(1) for t in predicted.values()]).all(0)
        result = {name: tensor[finite] for name, tensor in predicted.items()}
        result["places"] = torch.tensor(places, dtype=torch.int64, device=entry.device)[finite]
        return result

    def cost(self, segments: Segments) -> Cost:
        """What predicting these tokens takes: with the weights, and without temporaries."""
        lengths = [len(segments.pieces[i]) for i in segments.predicted]
        numbers = self.weights.size + segments.distinct * self.config.hidden
        return Cost(
            multiply_adds=multiply_adds(self.config, lengths, segments.distinct),
            bytes=4 * (numbers + len(lengths) * self.config.read_width),
        )


def _models(config: HypernetworkConfig) -> str:
    own = f" such as {config.base}" if config.base else ""
    if config.separate:
        return f"models whose head is a matrix of its own{own}"
    return f"models whose input embedding serves as the head too{own}"
