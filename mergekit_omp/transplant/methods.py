"""The registered merge methods: an approximation in front of an inner merge method.

`<approximation>` alone stands for `<approximation>+passthrough`. A composite merges exactly as
its inner method does; its own parameters are read while planning and taken away before merging.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any

import pydantic
from mergekit import merge_methods
from mergekit.merge_methods.base import (
    MISSING,
    MergeMethod,
    MergeMethodSpec,
    ParameterScope,
    ParameterSpec,
)
from pydantic_core import PydanticUndefined

from mergekit_omp.approximation.base import Approximation
from mergekit_omp.approximation.registry import APPROXIMATIONS
from mergekit_omp.errors import TransplantError
from mergekit_omp.outside.faults import of_library

ALONE = "passthrough"


class ParameterCollisionError(ValueError):
    """An approximation and an inner method that use one name for two parameters."""


class OwnParameter(ParameterSpec):
    """A parameter of an approximation, whose refusals name it."""

    def validate(self, value: Any) -> Any:
        try:
            return super().validate(value)
        except pydantic.ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise TransplantError(
                f"parameter {self.name}: {reason[0].lower()}{reason[1:]}; found {value!r}."
            ) from error


MATCH_DONOR_ROWS = OwnParameter(
    name="match_donor_rows",
    value_type=bool,
    scope=ParameterScope.SHARED,
    default=False,
    description="Give the output exactly the donor's number of rows, padding included: what "
    "speculative decoding asks of a draft model. One value for the whole merge.",
)


def parameter_specs(approximation: type[Approximation]) -> tuple[ParameterSpec, ...]:
    """The approximation's fields as mergekit parameters, shared by all models of a merge."""
    return (MATCH_DONOR_ROWS, *_field_specs(approximation))


def _field_specs(approximation: type[Approximation]) -> tuple[ParameterSpec, ...]:
    return tuple(
        OwnParameter(
            name=name,
            value_type=Annotated[(field.annotation, *field.metadata)]
            if field.metadata
            else field.annotation,
            scope=ParameterScope.SHARED,
            default=MISSING if field.default is PydanticUndefined else field.default,
            description=field.description,
        )
        for name, field in approximation.model_fields.items()
    )


class TransplantMethod(MergeMethod):
    """`inner`, which gets vocabulary tensors whose missing rows `approximation` has made."""

    def __init__(self, name: str, approximation: type[Approximation], inner: MergeMethod):
        own = parameter_specs(approximation)
        taken = {p.name for p in inner.spec.parameters} & {p.name for p in own}
        if taken:
            raise ParameterCollisionError(
                f"merge method {name!r} cannot be registered: the approximation "
                f"{approximation.name!r} and the merge method {inner.spec.name!r} both have "
                f"a parameter named {' and one named '.join(sorted(taken))}"
            )
        self.approximation = approximation
        self.inner = inner
        self.supports_batching = inner.supports_batching
        self._own = frozenset(p.name for p in own)
        label = f"{approximation.name} tokenizer transplant"
        alone = name == approximation.name
        self.spec = MergeMethodSpec(
            name=name,
            parameters=(*inner.spec.parameters, *own),
            contract=inner.spec.contract,
            pretty_name=label
            if alone
            else f"{label}, then {inner.spec.pretty_name or inner.spec.name}",
            reference_url=approximation.reference if alone else inner.spec.reference_url,
            optional_tensor_policy=inner.spec.optional_tensor_policy,
            uses_accelerator=inner.spec.uses_accelerator,
        )

    def build(self, parameters: dict[str, Any]) -> Approximation:
        """The approximation with those of `parameters` that are its own."""
        fields = self.approximation.model_fields
        return self.approximation(**{k: v for k, v in parameters.items() if k in fields})

    def validate_inputs(
        self,
        input_ids: Sequence[Hashable],
        base_id: Hashable | None = None,
        *,
        group_name: str | None = None,
    ) -> None:
        try:
            self.inner.validate_inputs(input_ids, base_id, group_name=group_name)
        except ValueError as error:
            models = ", ".join(str(model) for model in input_ids)
            remedy = (
                f"{self.spec.name!r} swaps the tokenizer of one model: name one model, which "
                f"also is the base_model, or merge several with {self.spec.name}+<merge method>, "
                f"for example {self.spec.name}+linear"
                if self.spec.name == self.approximation.name
                else f"give {self.inner.spec.name!r} the models that it takes"
            )
            raise TransplantError(
                f"merge_method {self.spec.name!r} with the models {models}: {error}. "
                f"{remedy[0].upper()}{remedy[1:]}."
            ) from error

    def _inner_parameters(self, parameters: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in group.items() if k not in self._own} for group in parameters]

    def _execute_resolved(self, groups: Any, parameters: Any, **options: Any) -> Any:
        with self._faults(groups):
            return self.inner._execute_resolved(
                groups, self._inner_parameters(parameters), **options
            )

    def _execute(self, groups: Any, parameters: Any, *args: Any, **options: Any) -> Any:
        with self._faults(groups):
            return self.inner._execute(groups, self._inner_parameters(parameters), *args, **options)

    def _faults(self, groups: Any) -> AbstractContextManager[None]:
        names = ", ".join(str(group.metadata.name) for group in groups)
        return of_library(
            f"merge_method {self.spec.name!r}: {self.inner.spec.name!r} fails on {names}",
            "Check the models' shapes and the parameters of that merge method.",
        )


_collisions: dict[str, ParameterCollisionError] = {}


def register_composites() -> None:
    """Register every approximation alone and before every merge method not yet covered.

    A composite whose two halves both have a parameter of one name is not registered; asking
    for it (`find`) says so.
    """
    registered = {method.spec.name: method for method in merge_methods.registered_methods()}
    for inner in list(registered.values()):
        if isinstance(inner, TransplantMethod):
            continue
        for name, approximation in APPROXIMATIONS.items():
            names = [f"{name}+{inner.spec.name}"]
            if inner.spec.name == ALONE:
                names.append(name)
            for composite in names:
                if composite in registered or composite in _collisions:
                    continue
                try:
                    method = TransplantMethod(composite, approximation, inner)
                except ParameterCollisionError as error:
                    _collisions[composite] = error
                else:
                    merge_methods.register(method)


def find(name: str) -> TransplantMethod | None:
    """The composite of this name, or None where the name is not one of ours.

    Merge methods that others registered since are covered too. Raises TransplantError for a
    composite that cannot be, naming both halves.
    """
    register_composites()
    _refuse_unknown(name)
    if name.split("+")[0] not in APPROXIMATIONS:
        return None
    if name in _collisions:
        raise TransplantError(f"{_collisions[name]}.")
    registered = {method.spec.name: method for method in merge_methods.registered_methods()}
    method = registered.get(name)
    if isinstance(method, TransplantMethod):
        return method
    if method is not None:
        # mergekit's own `linear` stays what it is: the approximation is `linear+passthrough`.
        return None
    inner = sorted(n for n, m in registered.items() if not isinstance(m, TransplantMethod))
    close = difflib.get_close_matches(name.partition("+")[2], inner, n=1)
    raise TransplantError(
        f"merge_method {name!r}: mergekit has no merge method {name.partition('+')[2]!r} to put "
        f"behind {name.split('+')[0]!r}."
        + (f" Did you mean {name.split('+')[0]}+{close[0]}?" if close else "")
        + f" It has: {', '.join(inner)}."
    )


def _refuse_unknown(name: str) -> None:
    """Answer for a name that is no merge method, with the one of ours that it comes near to."""
    registered = {method.spec.name: method for method in merge_methods.registered_methods()}
    head, _, rest = name.partition("+")
    if name in registered or name in _collisions or (head in APPROXIMATIONS and rest):
        return
    meant = _meant(name, registered)
    raise TransplantError(
        f"merge_method {name[:80]!r} is no method of mergekit or mergekit-omp."
        + (f" Did you mean {meant}?" if meant else " Check the spelling, or install what has it.")
    )


def _meant(name: str, registered: Mapping[str, MergeMethod]) -> str | None:
    """The registered name that one with other case, spaces, signs or order stands for."""
    inner = [n for n, m in registered.items() if not isinstance(m, TransplantMethod)]
    words = [word for word in re.split(r"[^a-z0-9_]+", name[:80].lower()) if word]
    if "+".join(words) in registered:
        return "+".join(words)
    if len(words) == 1 and "_" in name:
        words = words[0].split("_", 1)
    own = [_close(word, APPROXIMATIONS) for word in words]
    at = next((i for i, found in enumerate(own) if found), None)
    if at is None or len(words) > 2:
        return _close(name.lower(), inner)
    rest = [_close(word, inner) for i, word in enumerate(words) if i != at]
    return "+".join([str(own[at]), *map(str, rest)]) if all(rest) else None


def _close(word: str, names: Iterable[str]) -> str | None:
    found = difflib.get_close_matches(word, names, n=1, cutoff=0.75)
    return found[0] if found else None
