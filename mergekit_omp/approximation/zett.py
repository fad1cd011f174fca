"""`zett`: a trained hypernetwork predicts a token's rows from its bytes.

Zero-Shot Tokenizer Transfer (Minixhofer, Ponti & Vulić 2024). Reads published checkpoints; the
network itself is in `hypernetwork/`. The original gives every ordinary token a predicted row;
here shared tokens keep theirs unless `copy_shared` is false.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from jaxtyping import Float
from pydantic import BeforeValidator, Field
from torch import Tensor

from mergekit_omp.approximation.base import Approximation, MissingRows, Needs, Part, texts_of
from mergekit_omp.approximation.fit import PIECES, Fit
from mergekit_omp.approximation.hypernetwork.opened import OpenedHypernetwork
from mergekit_omp.approximation.moments import mean_row


def _text(value: Any) -> Any:
    if value is not None and (not isinstance(value, str) or not value):
        # YAML reads `no`, which is Norwegian, as false.
        raise ValueError(f"{value!r} is not text: write it in quotes")
    return value


_Text = Annotated[str | None, BeforeValidator(_text)]


class Zett(Approximation, frozen=True):
    """Rows that a ZeTT hypernetwork predicts from the pieces of a token and the base's rows.

    Input, head and bias come from one pass. Control tokens have no pieces: they, and tokens that
    the hypernetwork's vocabulary cannot spell, get the mean of the base's matrix.
    """

    name: ClassVar[str] = "zett"
    reference: ClassVar[str | None] = "https://arxiv.org/abs/2405.07883"
    fit: ClassVar[Fit | None] = PIECES

    hypernetwork: _Text = Field(
        default=None,
        description="The hypernetwork, which has to be given: a folder with config.json, "
        "tokenizer.json and model.safetensors, or its id on the Hugging Face hub, `owner/name` "
        "or `owner/name@revision`.",
    )
    language: _Text = Field(
        default=None,
        description="The language of the new vocabulary, where the hypernetwork has languages.",
    )
    copy_shared: bool = Field(
        default=True,
        description="Copy the rows of shared tokens. If false every ordinary token is "
        "predicted, as published.",
    )

    @property
    def needs(self) -> frozenset[Needs]:
        return frozenset({Needs.TEXT, Needs.BASE_MATRICES})

    @property
    def copies_shared(self) -> bool:
        return self.copy_shared

    def open(self, *, headers_only: bool = False) -> OpenedHypernetwork:
        """The hypernetwork's files, checked; with `headers_only` no weights are downloaded.

        Raises ValueError, naming file, key or tensor, what was expected and what was found.
        """
        if self.hypernetwork is None:
            raise ValueError(
                "zett needs a `hypernetwork`: write a folder, or its id on the Hugging Face hub"
            )
        return OpenedHypernetwork.open(self.hypernetwork, self.language, headers_only=headers_only)

    def approximate(self, problem: MissingRows) -> Float[Tensor, "missing base_dim"]:
        texts = texts_of(self.name, problem.inputs)
        if Part.INPUT not in problem.matrices:
            raise ValueError("zett needs the base's own matrices: give the problem its `matrices`")
        opened = self.open()
        opened.check_shapes(
            "the base", {p: (len(m), m.shape[1]) for p, m in problem.matrices.items()}
        )
        segments = opened.segment(texts.missing)
        problem.inputs.row_fit[PIECES.key] = segments.counts
        progress = problem.inputs.progress
        predicted = opened.predict(segments, problem.matrices, progress=progress)
        return self._chosen(predicted, problem.base, problem.inputs.missing, problem.part)

    def decode(
        self,
        predicted: Mapping[str, Tensor],
        base: Float[Tensor, "base_rows base_dim"],
        missing: int,
        part: Part,
    ) -> Float[Tensor, "missing base_dim"]:
        """The missing rows of one matrix, from what `OpenedHypernetwork.predict` found.

        `base` is the base's matrix, `part` says which; `missing` is how many tokens were cut.
        """
        return self.finished(self._chosen(predicted, base, missing, part), base, part)

    def _chosen(
        self, predicted: Mapping[str, Tensor], base: Tensor, missing: int, part: Part
    ) -> Tensor:
        rows = mean_row(base).repeat(missing, 1)
        if part == Part.HEAD and part.value not in predicted:
            # The head of a base that has one matrix for both.
            part = Part.INPUT
        if part.value in predicted:
            places = predicted["places"].to(rows.device)
            rows[places] = predicted[part.value].to(rows.device, rows.dtype)
        return rows
