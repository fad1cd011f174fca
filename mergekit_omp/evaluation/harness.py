"""Tasks of EleutherAI's lm-evaluation-harness, which does all of the work."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergekit_omp.evaluation.models import Loading

_SEEDS = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")


class HarnessMissingError(ImportError):
    """lm-evaluation-harness is not installed."""


def check_installed() -> None:
    """Raises HarnessMissingError, with what to install."""
    if importlib.util.find_spec("lm_eval") is None:
        raise HarnessMissingError(
            "--tasks needs lm-evaluation-harness, which is not installed: "
            "pip install 'mergekit-omp[eval]'"
        )


def run_tasks(
    models: Sequence[str],
    tasks: Sequence[str],
    *,
    include_path: Path | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    loading: Loading | None = None,
    quiet: bool = False,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Results by model, task and metric, as the harness names them.

    Raises ValueError for a task that the harness does not have.
    """
    check_installed()
    from lm_eval import simple_evaluate  # type: ignore[import-not-found,unused-ignore]
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found,unused-ignore]

    loading = loading or Loading()
    manager = TaskManager(include_path=str(include_path) if include_path else None)
    unknown = [task for task in tasks if not manager.match_tasks([task])]
    if unknown:
        raise ValueError(
            f"lm-evaluation-harness has no task {', '.join(unknown)}: `lm-eval ls tasks` lists "
            "those it has; --include-path adds a folder of your own"
        )
    results = {}
    for name in models:
        # The harness has no option for its progress bars.
        with contextlib.redirect_stderr(io.StringIO()) if quiet else contextlib.nullcontext():
            found = simple_evaluate(
                model="hf",
                model_args={
                    "pretrained": name,
                    "dtype": str(loading.torch_dtype()).removeprefix("torch."),
                    "trust_remote_code": loading.trust_remote_code,
                },
                tasks=list(tasks),
                device=str(loading.torch_device()),
                batch_size=batch_size or 8,
                limit=limit,
                task_manager=manager,
                log_samples=False,
                **dict.fromkeys(_SEEDS, 0),
            )
        results[name] = {
            # Metrics have a filter's name behind a comma; the rest tells how the task ran.
            task: {metric: value for metric, value in values.items() if "," in metric}
            for task, values in found["results"].items()
        }
    return results
