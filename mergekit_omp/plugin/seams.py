"""The seams: undocumented parts of other libraries that this package uses or overrides.

They may change with any release. Each is checked when the plugin is activated: that it exists, and
that it has the parameters that we call it with or that our override has.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

SUPPORTED = SpecifierSet(">=0.1.5,<0.2")
"""The versions of mergekit that the package works with."""

_MISSING = object()


@dataclass(frozen=True)
class Seam:
    """One function, class or attribute, and the parameters that it must have."""

    module: str
    name: str
    """Its dotted name in the module."""
    parameters: tuple[str, ...] | None = None
    """In their order; None for what is not called, or has no signature."""

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    def fault(self) -> str | None:
        """What is wrong with it, to follow 'mergekit 0.1.5' in a sentence; None if nothing is."""
        try:
            found: Any = importlib.import_module(self.module)
        except ImportError:
            return f"lacks {self.module}"
        for part in self.name.split("."):
            declared = getattr(found, "__annotations__", {})
            found = getattr(found, part, declared.get(part, _MISSING))
            if found is _MISSING:
                return f"lacks {self}"
        if self.parameters is None:
            return None
        has = inspect.signature(found).parameters
        named = [name for name in has if name in self.parameters]
        required = [
            name
            for name, parameter in has.items()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            and name not in self.parameters
        ]
        if named == list(self.parameters) and not required:
            return None
        return f"has {self}({', '.join(has)}), not ({', '.join(self.parameters)})"


PLAN = (
    Seam("mergekit.plan", "MergePlanner.__init__", ("self", "config", "arch_info", "options", "out_model_config")),
    Seam("mergekit.plan", "MergePlanner._plan", ("self",)),
    Seam("mergekit.plan", "MergePlanner.plan_tensor", ("self", "weight", "weights_in", "models", "cfg_reader")),
    Seam("mergekit.plan", "MergePlanner.plan_to_disk", ("self", "out_path")),
    Seam("mergekit.plan", "MergePlanner.plan_in_memory", ("self",)),
    Seam("mergekit.plan", "MergePlanner._tensors"),
    Seam("mergekit.plan", "MergePlanner._tokenizer_task"),
    Seam("mergekit.config", "MergeConfiguration.referenced_models", ("self",)),
    Seam("mergekit.merge_methods", "register", ("method",)),
    Seam("mergekit.merge_methods", "registered_methods", ()),
    Seam("mergekit.merge_methods.base", "MISSING"),
    Seam("mergekit.merge_methods.base", "MergeMethod._execute", ("self", "groups", "parameters", "options", "input_dtypes", "out_dtype")),
    Seam("mergekit.merge_methods.base", "MergeMethod._execute_resolved", ("self", "groups", "parameters", "dtype", "out_dtype", "batch_options")),
    Seam("mergekit.merge_methods.base", "MergeMethod.validate_inputs", ("self", "input_ids", "base_id", "group_name")),
    Seam("mergekit.merge_methods.base", "MergeMethodSpec", ("name", "parameters", "contract", "pretty_name", "reference_url", "optional_tensor_policy", "uses_accelerator")),
    Seam("mergekit.merge_methods.base", "ParameterSpec", ("name", "value_type", "scope", "default", "description")),
    Seam("mergekit.merge_methods.base", "ParameterSpec.validate", ("self", "value")),
    Seam("mergekit.merge_methods.task_adapter", "ExecuteMergeMethodTask", ("method_name", "gather_tensors", "model_order", "base_model", "output_weight", "parameters", "input_parameters")),
    Seam("mergekit.merge_methods.task_adapter", "ExecuteMergeMethodTask.execute", ("self", "tensors", "_kwargs")),
    Seam("mergekit.graph", "Task.arguments", ("self",)),
    Seam("mergekit.graph", "Task.execute", ("self", "kwargs")),
    Seam("mergekit.graph", "Task.group_label", ("self",)),
    Seam("mergekit.graph", "Task.main_thread_only", ("self",)),
    Seam("mergekit.graph", "Task.priority", ("self",)),
    Seam("mergekit.graph", "Task.uses_accelerator", ("self",)),
    Seam("mergekit.tokenizer", "BuildTokenizer", ("base_model", "referenced_models", "tokenizer_source", "add_tokens", "trust_remote_code")),
    Seam("mergekit.tokenizer", "PermutedVocabulary", ("gather_tensors", "tokenizer_task", "tokens", "pad_to_multiple_of", "base_model", "vocabulary_axis")),
    Seam("mergekit.tokenizer", "TokenizerInfo", ("tokenizer", "permutations", "original_vocabs")),
    Seam("mergekit.io.tasks", "GatherTensors", ("weight_info", "dtype", "device")),
    Seam("mergekit.io.tasks", "LoaderCache.get", ("self", "model")),
    Seam("mergekit.io.tasks", "LoaderCache.loaders"),
    Seam("mergekit.io.tasks", "LoaderCache.setup", ("self", "options")),
    Seam("mergekit.io.tasks", "LoaderCache.trust_remote_code"),
    Seam("mergekit.io.tasks", "LoadTensor", ("model", "tensor", "dtype", "optional", "aliases", "tied_names")),
    Seam("mergekit.io.tasks", "ReturnTensor", ("weight_info", "tensor_task", "dtype")),
    Seam("mergekit.io.lazy_tensor_loader", "LazyTensorLoader", ("index", "lazy_unpickle")),
    Seam("mergekit.io.lazy_tensor_loader", "ShardedTensorIndex", ("base_path", "is_safetensors", "tensor_paths", "shards")),
    Seam("mergekit.architecture", "ConfiguredModelArchitecture", ("info", "config")),
    Seam("mergekit.architecture", "ModelArchitecture", ("modules", "architectures", "model_type", "tagalong_files", "vocab_size_config_key")),
    Seam("mergekit.architecture", "ModuleDefinition", ("architecture", "weight_prefix")),
    Seam("mergekit.architecture", "WeightInfo", ("name", "vocabulary_axis", "optional", "aliases", "force_dtype", "tied_names")),
    Seam("mergekit.architecture", "arch_info_for_config", ("config",)),
    Seam("mergekit.architecture", "get_architecture_info", ("config", "options")),
    Seam("mergekit.architecture.auto", "infer_architecture_info", ("models", "base_model", "options")),
    Seam("mergekit.architecture.conversion", "can_convert_checkpoint_keys", ("model_type", "source_keys", "target_key")),
    Seam("mergekit.architecture.conversion", "convert_checkpoint_tensors", ("model_type", "source_tensors", "target_key")),
    Seam("mergekit.architecture.json_definitions", "JsonLayerTemplates", ("weights",)),
    Seam("mergekit.architecture.json_definitions", "JsonModuleArchDef", ("model_type", "architectures", "pre_weights", "layer_templates", "post_weights", "num_layers_config_key")),
    Seam("mergekit.architecture.json_definitions", "JsonModuleArchitecture", ("kind", "definition")),
    Seam("mergekit.common", "dtype_from_name", ("name",)),
    Seam("mergekit.common", "get_auto_cls", ("arch_name",)),
    Seam("mergekit.common", "set_config_value", ("config", "key", "value")),
    Seam("mergekit.io.tasks", "FinalizeModel", ("tensor_save_tasks", "writer_task")),
    Seam("mergekit.io.tasks", "SaveTensor", ("tensor_name", "tensor_task", "writer_task", "clone", "force_main_thread")),
    Seam("mergekit.multigpu_executor", "MultiGPUExecutor._device_worker", ("self", "task_list", "cached_values", "device", "quiet")),
    Seam("mergekit._data.chat_templates", "__path__"),
    Seam("transformers.conversion_mapping", "get_model_conversion_mapping", ("model",)),
    Seam("transformers.core_model_loading", "WeightConverter"),
    Seam("transformers.core_model_loading", "WeightRenaming"),
    Seam("transformers.core_model_loading", "dot_natural_key", ("s",)),
    Seam("transformers.core_model_loading", "rename_source_key", ("source_key", "weight_renamings", "weight_converters", "base_model_prefix", "meta_state_dict")),
    Seam("transformers.initialization", "no_init_weights", ()),
    Seam("transformers.modeling_utils", "PreTrainedModel._adjust_missing_and_unexpected_keys", ("self", "loading_info")),
    Seam("transformers.utils.loading_report", "LoadStateDictInfo", ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs", "conversion_errors", "skipped_pp_keys")),
    Seam("tokenizers.pre_tokenizers", "Sequence.__getstate__", ("self",)),
    Seam("tokenizers.pre_tokenizers", "Sequence.__setstate__", ("self", "state")),
    Seam("torch", "_int_mm"),
)  # fmt: skip
"""Checked when `mergekit.plan` is imported."""

MERGE = (
    Seam("mergekit.merge", "_copy_tagalong_files", ("merge_config", "out_path", "files", "options")),
    Seam("mergekit.merge", "_model_out_config", ("config", "arch_info", "trust_remote_code")),
    Seam("mergekit.merge", "_set_chat_template", ("tokenizer", "merge_config", "trust_remote_code")),
    Seam("mergekit.merge", "_update_config_vocab", ("config", "arch_info", "tokenizer", "pad_to_multiple_of")),
    Seam("mergekit.merge", "generate_card", ("config", "config_yaml", "name")),
    Seam("mergekit.card", "maybe_link_hf", ("path",)),
)  # fmt: skip
"""Checked at the first plan: mergekit imports these modules after the one that activates the
plugin."""


def unsupported(seams: Iterable[Seam]) -> str | None:
    """The first thing wrong with the installed libraries, as the end of a sentence.

    None if nothing is.
    """
    found = importlib.metadata.version("mergekit")
    try:
        supported = SUPPORTED.contains(Version(found), prereleases=True)
    except InvalidVersion:
        return f"mergekit {found} has no version that can be compared"
    if not supported:
        return f"mergekit {found} is not supported"
    for seam in seams:
        fault = seam.fault()
        if fault is not None:
            library = seam.module.partition(".")[0]
            return f"{library} {importlib.metadata.version(library)} {fault}"
    return None


def refusal(problem: str) -> str:
    """The error message for `problem`, which `unsupported` has found."""
    supported = f"mergekit{','.join(sorted(map(str, SUPPORTED), reverse=True))}"
    # The problem may be with another library; pip then installs the release that is declared.
    return (
        f"mergekit-omp works with {supported}, but {problem}. Install what it declares: pip install "
        f"--upgrade mergekit-omp '{supported}'."
    )
