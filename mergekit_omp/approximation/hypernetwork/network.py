"""The forward pass of a hypernetwork, in float32: pieces of tokens in, rows out.

A token's pieces are embedded by the base's own rows, read by a small post-LN transformer, and
turned into rows by residual blocks. Follows Minixhofer, Ponti & Vulić 2024, section 3, and the
tensors of the published checkpoints.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from mergekit_omp.approximation.chunks import chunks
from mergekit_omp.approximation.hypernetwork.config import HypernetworkConfig
from mergekit_omp.approximation.hypernetwork.files import Expected

_BLOCK_EPS = 1e-6
_LAYER_EPS = 1e-5

SourceRows = Callable[[Int64[Tensor, "pieces"]], Float32[Tensor, "pieces read_width"]]
"""The base's rows of some of its ids: input and head side by side where it has two matrices."""


@dataclass(frozen=True, eq=False)
class PredictedRows:
    """What the network says of some tokens."""

    input: Float32[Tensor, "tokens width"]
    head: Float32[Tensor, "tokens width"] | None
    """None where it is for bases whose head is tied."""
    bias: Float32[Tensor, "tokens 1"] | None


def expected_tensors(config: HypernetworkConfig) -> dict[str, Expected]:
    """The tensors that are read, by their published names."""
    h, i = config.hidden, config.intermediate
    found: dict[str, Expected] = {}

    def add(name: str, *shape: int, rows: int | None = None) -> None:
        found[name] = Expected(shape, rows)

    def linear(name: str, inputs: int, outputs: int) -> None:
        add(f"{name}.weight", outputs, inputs)
        add(f"{name}.bias", outputs)

    def norm(name: str) -> None:
        add(f"{name}.weight", h)
        add(f"{name}.bias", h)

    def block(name: str) -> None:
        linear(f"{name}.dense1", h, i)
        linear(f"{name}.dense2", i, h)
        norm(f"{name}.ln")

    if config.extra is None:
        add("fallback_embeddings.weight", 1, config.read_width, rows=1)
    else:
        add("fallback_embeddings.weight", max(config.extra, 1), config.read_width)
    linear("input_projection.0", config.read_width, h)
    block("input_projection.1")
    if config.rescaled:
        add("in_scaler.w", 1, config.read_width)
        add("in_scaler.b", 1, config.read_width)
    add("model.embeddings.position_embeddings.weight", config.longest, h, rows=config.longest)
    add("model.embeddings.token_type_embeddings.weight", 1, h, rows=1)
    norm("model.embeddings.LayerNorm")
    if config.languages:
        add("lang_embeddings.weight", len(config.languages), h)
    for n in range(config.layers):
        layer = f"model.encoder.layer.{n}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{layer}.attention.{part}", h, h)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", h, i)
        linear(f"{layer}.output.dense", i, h)
        norm(f"{layer}.output.LayerNorm")
    block("output_projection.0")
    linear("output_projection.1", h, config.read_width if config.single_head else config.width)
    heads = ["scaler"]
    if config.separate:
        heads.append("out_scaler")
        if not config.single_head:
            block("output_projection_out.0")
            linear("output_projection_out.1", h, config.width)
    if config.rescaled:
        for name in heads:
            add(f"{name}.w", 1, config.width)
            add(f"{name}.b", 1, config.width)
    if config.predicts_bias:
        linear("bias_projection", h, 1)
    return found


def multiply_adds(config: HypernetworkConfig, lengths: Sequence[int], distinct: int) -> float:
    """Multiply-adds for tokens of these numbers of pieces, `distinct` of which differ."""
    h, i, language = config.hidden, config.intermediate, bool(config.languages)
    outputs = 2 if config.separate else 1
    feed_forward = 2 * h * i
    # The last layer is needed at the first position alone, but for its keys and values.
    positions = sum(length + language for length in lengths)
    first = (config.layers - 1) * (4 * h * h + feed_forward) + 2 * h * h
    last = 2 * h * h + feed_forward
    blocks = 1 if config.single_head else outputs
    head = blocks * feed_forward + outputs * h * config.width
    piece = config.read_width * h + feed_forward
    return float(positions * first + len(lengths) * (last + head) + distinct * piece)


class Network:
    """A hypernetwork with its weights on one device."""

    def __init__(
        self, config: HypernetworkConfig, weights: Mapping[str, Tensor], language: int | None
    ):
        """`weights` are those of `expected_tensors`; `language` the place of its embedding."""
        self.config = config
        self.weights = weights
        self.language = language
        self.device = weights["fallback_embeddings.weight"].device

    def predict(
        self, pieces: Sequence[Sequence[int]], source: SourceRows, *, progress: bool = False
    ) -> PredictedRows:
        """Rows for tokens of one piece at least, each by itself.

        Ids below the base's vocabulary are looked up by `source`, those above are the network's.
        """
        config = self.config
        distinct = sorted({piece for token in pieces for piece in token})
        table = self._projected(torch.tensor(distinct, dtype=torch.int64), source)
        place = {piece: i for i, piece in enumerate(distinct)}
        rows = [torch.empty((len(pieces), config.width), device=self.device)]
        if config.separate:
            rows.append(torch.empty_like(rows[0]))
        bias = None
        if config.predicts_bias:
            bias = torch.empty((len(pieces), 1), device=self.device)
        for tokens in self._batches(pieces, progress):
            at = torch.tensor(tokens, device=self.device)
            cut = [[place[piece] for piece in pieces[token]] for token in tokens]
            read = self._encode(table[torch.tensor(cut, device=self.device)])
            for matrix, predicted in zip(rows, self._heads(read), strict=True):
                matrix[at] = predicted
            if bias is not None:
                bias[at] = self._linear("bias_projection", read)
        return PredictedRows(rows[0], rows[1] if config.separate else None, bias)

    def _batches(self, pieces: Sequence[Sequence[int]], progress: bool) -> Iterator[list[int]]:
        """Tokens of one length at a time, so that nothing has to be masked."""
        by_length: dict[int, list[int]] = defaultdict(list)
        for token, cut in enumerate(pieces):
            by_length[len(cut)].append(token)
        with tqdm(
            total=len(pieces), desc="Predicted tokens", unit="token", disable=not progress
        ) as bar:
            for length, tokens in sorted(by_length.items()):
                each = 4 * (length + 1) * (6 * self.config.hidden + 2 * self.config.intermediate)
                for block in chunks(len(tokens), each):
                    yield tokens[block]
                    bar.update(len(tokens[block]))

    def _projected(
        self, pieces: Int64[Tensor, "distinct"], source: SourceRows
    ) -> Float32[Tensor, "distinct hidden"]:
        """Each piece as the encoder reads it, without its position."""
        config, weights = self.config, self.weights
        table = torch.empty((len(pieces), config.hidden), device=self.device)
        each = 4 * (2 * config.read_width + 3 * config.hidden + 2 * config.intermediate)
        for block in chunks(len(pieces), each):
            ids = pieces[block]
            own = ids >= config.vocabulary
            rows = torch.empty((len(ids), config.read_width), device=self.device)
            of_base = source(ids[~own]).to(self.device, torch.float32)
            if config.rescaled:
                of_base = of_base * weights["in_scaler.w"] + weights["in_scaler.b"]
            rows[(~own).to(self.device)] = of_base
            extra = (ids[own] - config.vocabulary).to(self.device)
            rows[own.to(self.device)] = weights["fallback_embeddings.weight"][extra]
            table[block] = self._block(
                "input_projection.1", self._linear("input_projection.0", rows)
            )
        return table

    def _encode(
        self, pieces: Float32[Tensor, "tokens length hidden"]
    ) -> Float32[Tensor, "tokens hidden"]:
        """What the transformer makes of each token, at its first position."""
        weights, length = self.weights, pieces.shape[1]
        states = pieces + weights["model.embeddings.position_embeddings.weight"][:length]
        states = states + weights["model.embeddings.token_type_embeddings.weight"][0]
        if self.language is not None:
            language = weights["lang_embeddings.weight"][self.language]
            states = torch.cat([states, language.expand(len(states), 1, -1)], dim=1)
        states = self._norm("model.embeddings.LayerNorm", states, _LAYER_EPS)
        for n in range(self.config.layers):
            layer = f"model.encoder.layer.{n}"
            # Of the last layer only what stands at the first position is read.
            asking = states[:, :1] if n == self.config.layers - 1 else states
            attended = self._attend(f"{layer}.attention", asking, states)
            attended = self._norm(
                f"{layer}.attention.output.LayerNorm", attended + asking, _LAYER_EPS
            )
            inner = functional.gelu(self._linear(f"{layer}.intermediate.dense", attended))
            outer = self._linear(f"{layer}.output.dense", inner)
            states = self._norm(f"{layer}.output.LayerNorm", outer + attended, _LAYER_EPS)
        return states[:, 0]

    def _attend(
        self,
        name: str,
        asking: Float32[Tensor, "tokens asking hidden"],
        states: Float32[Tensor, "tokens length hidden"],
    ) -> Float32[Tensor, "tokens asking hidden"]:
        def by_head(part: str, of: Tensor) -> Tensor:
            projected = self._linear(f"{name}.self.{part}", of)
            return projected.unflatten(-1, (self.config.heads, -1)).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(
            by_head("query", asking), by_head("key", states), by_head("value", states)
        )
        return self._linear(f"{name}.output.dense", mixed.transpose(1, 2).flatten(2))

    def _heads(
        self, read: Float32[Tensor, "tokens hidden"]
    ) -> list[Float32[Tensor, "tokens width"]]:
        """The row of each matrix of the base, input first."""
        config, weights = self.config, self.weights
        first = self._block("output_projection.0", read)
        predicted = self._linear("output_projection.1", first)
        rows = [predicted]
        if config.separate and config.single_head:
            rows = list(predicted.split(config.width, dim=1))
        elif config.separate:
            second = self._block("output_projection_out.0", read)
            rows.append(self._linear("output_projection_out.1", second))
        if config.rescaled:
            scalers = ("scaler", "out_scaler")
            rows = [
                row * weights[f"{name}.w"] + weights[f"{name}.b"]
                for row, name in zip(rows, scalers, strict=False)
            ]
        return rows

    def _block(
        self, name: str, x: Float32[Tensor, "*batch hidden"]
    ) -> Float32[Tensor, "*batch hidden"]:
        inner = functional.gelu(self._linear(f"{name}.dense1", x), approximate="tanh")
        outer = functional.gelu(self._linear(f"{name}.dense2", inner), approximate="tanh")
        return self._norm(f"{name}.ln", outer + x, _BLOCK_EPS)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return functional.layer_norm(x, weight.shape, weight, bias, eps)
