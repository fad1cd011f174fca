"""Registers the merge methods with mergekit and patches what they need, by `activate()`.

Every patched function does what it did before unless the config's merge method is one of ours.
Patched are the planner (`MergePlanner.__init__`, `_plan`, `plan_tensor`, `plan_to_disk`,
`plan_in_memory`), the order of models (`MergeConfiguration.referenced_models`) and, in
`mergekit.merge`, the vocabulary size in the output's config (`_update_config_vocab`), the model
card (`generate_card`), and the last step of a merge (`_copy_tagalong_files`), after which the
settings and the record are written and the summary is printed. `preflight` and `staged_merge` patch
one function each.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from typing import Any

from mergekit_omp.plugin import seams

LOG = logging.getLogger(__name__)

_CORRECT = "Correct the config, or name other models."

_active = False


class ActivatingLoader:
    """The loader of `mergekit.plan`, which activates the plugin when the module is loaded."""

    def __init__(self, loader: Any):
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        activate()


def activate() -> None:
    """Register the merge methods and patch mergekit's planner, once per process."""
    global _active
    if _active:
        return
    problem = seams.unsupported(seams.PLAN)
    if problem is not None:
        _refuse(seams.refusal(problem))
        _active = True
        return
    from mergekit_omp.plugin import preflight
    from mergekit_omp.plugin.staged_merge import wrap_run_merge
    from mergekit_omp.transplant import methods

    methods.register_composites()
    preflight.install()
    _wrap_referenced_models()
    _wrap_planner()
    wrap_run_merge()
    _active = True


def _refuse(message: str) -> None:
    """Have merges by our methods fail with `message`, and leave all others alone."""
    from mergekit_omp.approximation.registry import APPROXIMATIONS
    from mergekit_omp.errors import TransplantError

    planner = getattr(sys.modules["mergekit.plan"], "MergePlanner", None)
    if planner is None:
        LOG.error("%s", message)
        return
    original = planner.__init__

    @functools.wraps(original)
    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        approximation, composite, _ = str(getattr(config, "merge_method", "")).partition("+")
        if approximation in APPROXIMATIONS and (composite or approximation != "linear"):
            raise TransplantError(message)
        original(self, config, *args, **kwargs)

    planner.__init__ = __init__


def _wrap_referenced_models() -> None:
    """For our methods, return models in the config's order; mergekit's order is that of a set."""
    from mergekit.config import MergeConfiguration

    from mergekit_omp.plugin.noise import drop_noise
    from mergekit_omp.transplant.config import models_in_order
    from mergekit_omp.transplant.methods import find

    original = MergeConfiguration.referenced_models

    @functools.wraps(original)
    def referenced_models(self: Any) -> Any:
        if not find(self.merge_method):
            return original(self)
        drop_noise()
        return models_in_order(self)

    MergeConfiguration.referenced_models = referenced_models


def _wrap_planner() -> None:
    from mergekit.plan import MergePlanner

    from mergekit_omp.outside.faults import of_library
    from mergekit_omp.plugin.chat_template import set_chat_template
    from mergekit_omp.plugin.multi_gpu import devices_of, saved_in_main_thread
    from mergekit_omp.plugin.planner_state import PlannerState
    from mergekit_omp.plugin.staged_merge import begin
    from mergekit_omp.record.summary import planned_facts
    from mergekit_omp.transplant import merge as merges
    from mergekit_omp.transplant.config import parameter_errors
    from mergekit_omp.transplant.methods import find
    from mergekit_omp.transplant.output import check_out_path
    from mergekit_omp.transplant.output_config import hand_over
    from mergekit_omp.transplant.planning import plan_output, plan_rows
    from mergekit_omp.transplant.request import read_request
    from mergekit_omp.transplant.staging import destination
    from mergekit_omp.transplant.task_planning import plan_record, plan_tasks
    from mergekit_omp.transplant.tasks import TensorInMemory

    original_init = MergePlanner.__init__
    original_plan = MergePlanner._plan
    original_plan_tensor = MergePlanner.plan_tensor
    original_to_disk = MergePlanner.plan_to_disk
    original_in_memory = MergePlanner.plan_in_memory

    @functools.wraps(original_init)
    def __init__(self: Any, config: Any, arch_info: Any, options: Any, out_model_config: Any):  # type: ignore[no-untyped-def]
        self._transplant = None
        merges.end()
        method = find(config.merge_method)
        if method is None:
            original_init(self, config, arch_info, options, out_model_config)
            return
        _wrap_merge()
        merge = merges.begin(quiet=options.quiet)
        with merge.log.scope():
            request = read_request(config, method, options, arch_info, out_model_config)
            output = plan_output(request)
            set_chat_template(config, output.tokenizer)
            original_init(self, config, request.architecture, options, output.config)
        self._tokenizer_task = output.tokenizer_task()
        self._transplant = PlannerState(merge, out_model_config, output)

    @functools.wraps(original_plan_tensor)
    def plan_tensor(self: Any, weight: Any, *args: Any, **kwargs: Any) -> None:
        if self._transplant is None:
            original_plan_tensor(self, weight, *args, **kwargs)
            return
        method = self.config.merge_method
        with parameter_errors(method, weight.name), of_library("mergekit cannot plan it", _CORRECT):
            original_plan_tensor(self, weight, *args, **kwargs)

    @functools.wraps(original_plan)
    def _plan(self: Any) -> None:
        state = self._transplant
        if state is None:
            original_plan(self)
            return
        what = f"merge_method {self.config.merge_method!r}: mergekit cannot plan this merge"
        with of_library(what, _CORRECT):
            original_plan(self)
        with state.merge.log.scope():
            state.plan = plan_rows(state.output, self._tensors, state.merge.log)
            devices = devices_of(state.plan.request.options)
            state.tasks = plan_tasks(state.plan, state.merge.log, devices)
        self._tensors = list(state.tasks.tensors)

    @functools.wraps(original_to_disk)
    def plan_to_disk(self: Any, out_path: str) -> Any:
        state = self._transplant
        if state is None:
            return original_to_disk(self, out_path)
        with state.merge.log.scope():
            check_out_path(destination(out_path), state.output.request.sources)
            tasks = saved_in_main_thread(original_to_disk(self, out_path))
            record = plan_record(state.plan, state.tasks, state.merge, out_path)
            ids = state.plan.settings.generation_config
            for fact in planned_facts(record.planned.content, ids):
                LOG.info("%s", fact)
            begin(out_path)
        hand_over(state.plan.config, state.out_config)
        let_go(self)
        return [*tasks, record]

    @functools.wraps(original_in_memory)
    def plan_in_memory(self: Any) -> Any:
        state = self._transplant
        if state is None:
            return original_in_memory(self)
        self._plan()
        tasks = [
            TensorInMemory(
                weight_info=weight,
                tensor_task=task,
                dtype=weight.force_dtype or self.config.out_dtype,
            )
            for weight, task in self._tensors
        ]
        hand_over(state.plan.config, state.out_config)
        let_go(self)
        return tasks

    MergePlanner.__init__ = __init__
    MergePlanner.plan_tensor = plan_tensor
    MergePlanner._plan = _plan
    MergePlanner.plan_to_disk = plan_to_disk
    MergePlanner.plan_in_memory = plan_in_memory


def let_go(planner: Any) -> None:
    """Drop what a planner holds: mergekit caches planners beyond the end of their merges."""
    planner._transplant = planner._tokenizer_task = None
    planner._tensors = []
    planner._plan = _planned_already


def _planned_already() -> None:
    raise RuntimeError("this MergePlanner has planned its merge: make another for another plan")


def _wrap_merge() -> None:
    """Patch the steps of `mergekit.merge` after the graph, if that module has been imported."""
    merge: Any = sys.modules.get("mergekit.merge")
    if merge is None or getattr(merge, "_mergekit_omp", False):
        return
    from mergekit_omp.errors import TransplantError

    problem = seams.unsupported(seams.MERGE)
    if problem is not None:
        raise TransplantError(seams.refusal(problem))
    _wrap_vocabulary_size(merge)
    _wrap_card(merge)
    _wrap_last_step(merge)
    merge._mergekit_omp = True


def _wrap_vocabulary_size(merge: Any) -> None:
    """Write the number of rows to the config.

    Mergekit writes the number of tokens, which may be less.
    """
    from mergekit.common import set_config_value

    from mergekit_omp.transplant.merge import current

    original = merge._update_config_vocab

    @functools.wraps(original)
    def _update_config_vocab(config: Any, arch_info: Any, *args: Any, **kwargs: Any) -> None:
        original(config, arch_info, *args, **kwargs)
        ours = current()
        if ours is not None and ours.output is not None:
            key = arch_info.vocab_size_config_key or "vocab_size"
            set_config_value(config, key, ours.output.rows)

    merge._update_config_vocab = _update_config_vocab


def _wrap_card(merge: Any) -> None:
    """Add a section on the transplant to mergekit's model card."""
    from mergekit_omp.plugin.card import transplant_card
    from mergekit_omp.transplant.merge import current

    original = merge.generate_card

    @functools.wraps(original)
    def generate_card(config: Any, config_yaml: str, name: str | None = None) -> str:
        ours = current()
        if ours is None or ours.record is None or ours.output is None:
            card: str = original(config=config, config_yaml=config_yaml, name=name)
            return card
        # mergekit derives an empty name from a path such as `out/`.
        name = name or os.path.basename(os.path.abspath(ours.output.path))
        return transplant_card(
            lambda: original(config=config, config_yaml=config_yaml, name=name),
            ours.record,
            ours.output.sources,
            ours.output.shown,
        )

    merge.generate_card = generate_card


def _wrap_last_step(merge: Any) -> None:
    """After mergekit's last step write the settings and the record, and print a summary."""
    import click

    from mergekit_omp.record.record import save_record
    from mergekit_omp.record.summary import summary
    from mergekit_omp.transplant import merge as merges
    from mergekit_omp.transplant.staging import destination

    original = merge._copy_tagalong_files

    @functools.wraps(original)
    def _copy_tagalong_files(merge_config: Any, out_path: str, files: Any, options: Any) -> None:
        original(merge_config, out_path, files=files, options=options)
        ours = merges.current()
        merges.end()
        if ours is None or ours.record is None or ours.output is None:
            return
        ours.output.write_settings(out_path)
        save_record(out_path, ours.output.shown.of(ours.record), ours.row_facts)
        if not options.quiet:
            click.echo(summary(ours.record, destination(out_path)), err=True)

    merge._copy_tagalong_files = _copy_tagalong_files
