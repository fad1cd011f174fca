"""The training loop of small models: gradients clipped, the learning rate warmed up and let down."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import tqdm
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

_LONGEST_GRADIENT = 1.0


def descend(
    parameters: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    loss: Callable[[], Tensor],
    *,
    steps: int,
    warmup: int,
    decay: Callable[[int], float],
    label: str,
    progress_line: int | None,
) -> None:
    """Take `steps` steps down `loss`, which draws a batch of its own each time.

    `parameters` are those of `optimizer`, whose gradients are clipped together.
    The learning rate is the optimizer's, times a linear rise in the first `warmup` steps and
    `decay` of the step, whichever is less. `progress_line` is the line of the terminal for a
    progress bar that `label` names, or None for no bar.
    """
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, decay(step))
    )
    # tqdm shows a bar on a terminal only where `disable` is None.
    with tqdm.tqdm(
        total=steps,
        desc=label,
        unit="step",
        position=progress_line,
        disable=True if progress_line is None else None,
    ) as bar:
        for step in range(steps):
            found = loss()
            found.backward()
            clip_grad_norm_(parameters, _LONGEST_GRADIENT)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            if step % 10 == 0:
                bar.set_postfix(loss=f"{found.item():.2f}", refresh=False)
            bar.update()
