"""The candidates of a comparison: the config that each stands for, which differs in its method."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions

from mergekit_omp.approximation import APPROXIMATIONS, Needs
from mergekit_omp.errors import TransplantError
from mergekit_omp.models.donors import load_donor
from mergekit_omp.models.tokenizers import Vocabularies
from mergekit_omp.outside.faults import of_library
from mergekit_omp.transplant.config import check_parameters, tokenizer_source
from mergekit_omp.transplant.methods import ALONE, find, parameter_specs

ZERO = "zero"
"""The reference beside the base: what is left if nothing is known of a missing token."""


@dataclass(frozen=True)
class Candidate:
    """A method with parameters, and the merge's config with them."""

    name: str
    """As the user wrote it: `omp k=16`."""
    method: str
    """The approximation."""
    settings: Mapping[str, Any]
    """Its parameters that were named."""
    content: Mapping[str, Any]
    """The config, as YAML holds it."""

    @property
    def config(self) -> MergeConfiguration:
        """A fresh copy of the config: planning changes what it is given."""
        return MergeConfiguration.model_validate(copy.deepcopy(dict(self.content)))


@dataclass(frozen=True)
class LeftOut:
    """A method that cannot be compared, and the reason in a sentence."""

    method: str
    reason: str


class Candidates:
    """What can be compared for one config. Raises TransplantError for a config that is none."""

    def __init__(self, content: Any, file: str):
        with of_library(f"{file} is no merge config", "See the README for one that is."):
            config = MergeConfiguration.model_validate(copy.deepcopy(content))
        self._content = content
        self.source = tokenizer_source(config)
        method = find(config.merge_method)
        self._own = method.approximation if method else None
        self._inner = method.inner.spec.name if method else config.merge_method

    def named(self, method: str, settings: Mapping[str, Any], name: str) -> Candidate:
        """One that the user named. Raises TransplantError where there is no such method or setting.

        The parameters of the config are kept for the method that is the config's own; any other
        method has its defaults.
        """
        if method not in APPROXIMATIONS:
            raise TransplantError(self._no_such(method))
        known = {spec.name: spec for spec in parameter_specs(APPROXIMATIONS[method])}
        for parameter, value in settings.items():
            if parameter not in known:
                close = difflib.get_close_matches(parameter, known, n=1)
                raise TransplantError(
                    f"{name!r}: {method!r} has no parameter {parameter!r}."
                    + (f" Did you mean {close[0]!r}?" if close else "")
                    + f" It has: {', '.join(known)}."
                )
            try:
                known[parameter].validate(value)
            except TransplantError as error:
                raise TransplantError(f"{name!r}: {error}") from error
        candidate = Candidate(name, method, settings, self._with(method, settings))
        with of_library(f"{name!r} makes no merge config", "Write plain values."):
            config = candidate.config
        found = find(config.merge_method)
        assert found is not None
        check_parameters(config, found)
        return candidate

    def by_default(self, options: MergeOptions) -> tuple[list[Candidate], list[LeftOut]]:
        """Every method that the donor allows, with the config's own first; and the others."""
        names = [*([self._own_name] if self._own_name else []), *APPROXIMATIONS]
        found, left_out = [], []
        without: str | None = None
        for method in dict.fromkeys(names):
            candidate = Candidate(method, method, {}, self._with(method, {}))
            if method != self._own_name and _reads_donor(method, {}):
                without = self._without_weights(method, options) if without is None else without
                if without:
                    left_out.append(LeftOut(method, without))
                    continue
            found.append(candidate)
        return found, left_out

    def check_donor(self, candidates: Sequence[Candidate], options: MergeOptions) -> None:
        """Refuse candidates that read the rows of a donor which has no weights."""
        for candidate in candidates:
            if candidate.method != self._own_name and _reads_donor(
                candidate.method, candidate.settings
            ):
                self._load_donor(candidate.method, options)
                return

    def yaml_of(self, candidate: Candidate) -> str:
        """What to write in the config for a candidate: the lines that differ, or all of it."""
        lines = {"merge_method": candidate.content["merge_method"]}
        if candidate.content.get("parameters"):
            lines["parameters"] = candidate.content["parameters"]
        rest = [
            {key: value for key, value in content.items() if key not in _LINES}
            for content in (candidate.content, self._content)
        ]
        shown = lines if rest[0] == rest[1] else candidate.content
        text: str = yaml.safe_dump(dict(shown), sort_keys=False, allow_unicode=True)
        return text

    @property
    def _own_name(self) -> str | None:
        return self._own.name if self._own else None

    def _with(self, method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The config by another method: what belongs to its own method alone is taken out."""
        content = copy.deepcopy(self._content)
        gone = set(settings)
        if self._own is not None and method != self._own.name:
            gone |= set(self._own.model_fields)
        for holder in _holders_of_parameters(content):
            kept = {name: v for name, v in holder["parameters"].items() if name not in gone}
            holder["parameters"] = kept
            if not kept:
                del holder["parameters"]
        if settings:
            content["parameters"] = {**content.get("parameters", {}), **settings}
        # mergekit has a method of its own by the name of `linear`.
        alone = self._inner == ALONE and method != "linear"
        content["merge_method"] = method if alone else f"{method}+{self._inner}"
        return _in_order(content, self._content)

    def _no_such(self, method: str) -> str:
        head, plus, _ = method.partition("+")
        if plus and head in APPROXIMATIONS:
            return (
                f"{method!r} names a merge method too, and that is the config's: write {head!r} to "
                f"compare {head}+{self._inner}."
            )
        close = difflib.get_close_matches(method, APPROXIMATIONS, n=1)
        return (
            f"There is no method {method!r}."
            + (f" Did you mean {close[0]}?" if close else "")
            + f" Choose among {', '.join(APPROXIMATIONS)}."
        )

    def _without_weights(self, method: str, options: MergeOptions) -> str:
        """Why no method that reads the donor's rows will do; nothing where one will."""
        try:
            self._load_donor(method, options)
        except TransplantError as error:
            return error.message
        return ""

    def _load_donor(self, method: str, options: MergeOptions) -> None:
        if isinstance(self.source, ModelReference):
            LoaderCache().setup(options=options)
            vocabulary = Vocabularies(options).vocabulary(self.source)
            load_donor(self.source, vocabulary, method, options)


_LINES = ("merge_method", "parameters")


def _reads_donor(method: str, settings: Mapping[str, Any]) -> bool:
    kind = APPROXIMATIONS[method]
    own = {name: value for name, value in settings.items() if name in kind.model_fields}
    # Values that do not go together are for the plan to refuse.
    return Needs.DONOR_ROWS in kind.model_construct(**own).needs


def _holders_of_parameters(content: Any) -> Iterator[dict[str, Any]]:
    """Every part of a config that has a block `parameters:`."""
    if isinstance(content, list):
        for part in content:
            yield from _holders_of_parameters(part)
    elif isinstance(content, dict):
        for name, part in list(content.items()):
            if name != "parameters":
                yield from _holders_of_parameters(part)
        if isinstance(content.get("parameters"), dict):
            yield content


def _in_order(content: dict[str, Any], like: Collection[str]) -> dict[str, Any]:
    """The keys in the order of another config; new ones at the end."""
    names = [*(name for name in like if name in content), *content]
    return {name: content[name] for name in dict.fromkeys(names)}
