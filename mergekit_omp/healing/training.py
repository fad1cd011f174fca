"""The training itself, by transformers' Trainer: its steps, stops, checkpoints and faults."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import tqdm
from jaxtyping import Int64
from torch import Tensor
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from mergekit_omp.errors import TransplantError
from mergekit_omp.healing.adapting import Adapted
from mergekit_omp.healing.checkpoints import Checkpoints
from mergekit_omp.healing.settings import LORA_RATE, Settings

_METRIC = "eval_bits_per_byte"


@dataclass(frozen=True)
class Trained:
    """What came of a training. The adapted model has the best rows."""

    steps: int
    best_step: int
    bits_per_byte: tuple[tuple[int, float], ...]
    """Of the held-out text, at each evaluation."""


def train(
    adapted: Adapted,
    windows: Int64[Tensor, "windows window"],
    settings: Settings,
    checkpoints: Checkpoints,
    score: Callable[[], float],
    *,
    device: torch.device,
    progress: bool,
) -> Trained:
    """Trains until the steps are done or `score`, the held-out bits per byte, no longer falls.

    Goes on from the last checkpoint, with the same result as without a break. TransplantError where
    the loss is not a number.
    """
    arguments = TrainingArguments(
        output_dir=str(checkpoints.path),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        lr_scheduler_type="linear",
        warmup_steps=min(10, settings.steps // 10),
        max_grad_norm=1.0,
        eval_strategy="steps",
        eval_steps=settings.every,
        save_strategy="steps",
        save_steps=settings.every,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model=_METRIC,
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=settings.seed,
        use_cpu=device.type == "cpu",
        dataloader_drop_last=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        label_names=["labels"],
    )
    examples = [{"input_ids": window, "labels": window} for window in windows]
    # One device: others would each get a copy of a model that PEFT has taken apart.
    arguments._n_gpu = min(1, arguments.n_gpu)
    trainer = _RowTrainer(
        model=adapted.model,
        args=arguments,
        train_dataset=examples,
        # `evaluate` reads the held-out text instead.
        eval_dataset=examples[:1],
        optimizers=(_optimizer(adapted, settings), None),
        callbacks=[
            EarlyStoppingCallback(early_stopping_patience=settings.patience),
            _Bar(progress),
        ],
    )
    trainer.score = score
    trainer.remove_callback(PrinterCallback)
    last = checkpoints.last()
    with _silent():
        trainer.train(resume_from_checkpoint=str(last[1]) if last else None)
    state = trainer.state
    return Trained(
        steps=state.global_step,
        best_step=int(state.best_global_step or 0),
        bits_per_byte=tuple(
            (int(entry["step"]), float(entry[_METRIC]))
            for entry in state.log_history
            if _METRIC in entry
        ),
    )


class _RowTrainer(Trainer):
    """transformers' Trainer, which stops at a loss that is no number and evaluates by `score`."""

    score: Callable[[], float]

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise _not_a_number("loss", self.state.global_step + 1)
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        value = self.score()
        if not value < float("inf"):
            raise _not_a_number("held-out loss", self.state.global_step)
        metrics = {_METRIC: value}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


class _Bar(TrainerCallback):
    """A bar of the steps, with the last evaluation behind it."""

    def __init__(self, shown: bool):
        self._shown = shown
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar = tqdm.tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="healing",
            unit="step",
            disable=None if self._shown else True,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.update(state.global_step - self._bar.n)
        # Also where the steps are no multiple of those between evaluations.
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        self._bar.set_postfix_str(f"{metrics[_METRIC]:.4f} bits/byte")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.close()


def _optimizer(adapted: Adapted, settings: Settings) -> torch.optim.Optimizer:
    """Adam, whose steps are in proportion to what the entries of each matrix are like."""
    groups: list[dict[str, Any]] = [
        {"params": [rows], "lr": settings.learning_rate or settings.rate * typical}
        for (_, rows), typical in zip(adapted.rows, adapted.typical, strict=True)
    ]
    if adapters := adapted.adapters():
        groups.append({"params": adapters, "lr": LORA_RATE})
    return torch.optim.Adam(groups)


def _not_a_number(what: str, step: int) -> TransplantError:
    return TransplantError(
        f"The {what} is not a number at step {step}. Begin anew with --restart and a smaller "
        "--learning-rate, or with --dtype float32."
    )


class _silent:
    """transformers' logging at errors alone: what it tells is told by the bar."""

    def __enter__(self) -> None:
        self._logger = logging.getLogger("transformers")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *exception: object) -> None:
        self._logger.setLevel(self._level)
