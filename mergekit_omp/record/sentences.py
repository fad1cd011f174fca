"""The record of a transplant in sentences: the facts that the log, the summary and the card share."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mergekit_omp.approximation.fit import FITS, Fit
from mergekit_omp.outside.counts import counted
from mergekit_omp.vocabulary.lost import WORTHWHILE

PARTS = {"input": "input", "head": "head", "head_bias": "head bias"}
_TOLD = ("tensor", "method", "donors", "counts", *FITS, "hypernetwork")


def by_models(record: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Models and their tensors; models for which the same was done are named together."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for model in record["models"]:
        told = [[tensor.get(key) for key in _TOLD] for tensor in model["tensors"]]
        groups.setdefault(repr(told), []).append(model)
    for models in groups.values():
        if models[0]["tensors"]:
            yield ", ".join(model["model"] for model in models), models[0]["tensors"]


def by_counts(tensors: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Tensors of which one sentence holds, as the parts that they are ('' for all) and the first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for tensor in tensors:
        groups.setdefault(repr((tensor["counts"], tensor["method"], _anchors(tensor))), []).append(
            tensor
        )
    for alike in groups.values():
        whole = len(groups) == 1
        yield "" if whole else ", ".join(t["tensor"] for t in alike), alike[0]


def rows_of(tensor: dict[str, Any]) -> str:
    """'2883 rows copied, 1725 approximated by omp from ./donor'."""
    counts = tensor["counts"]
    facts = [f"{counted(counts['copied'], 'row')} copied"]
    if counts["approximated"]:
        origin = origin_of([tensor])
        facts.append(f"{counts['approximated']} approximated by {tensor['method']}{origin}")
    for key, what in (
        ("without_donor_row", "without a donor's row"),
        ("overridden", "set by `tokens:`"),
        ("padding", "of padding"),
    ):
        if counts[key]:
            facts.append(f"{counts[key]} {what}")
    return ", ".join(facts)


def origin_of(tensors: list[dict[str, Any]], name: Callable[[str], str] = str) -> str:
    """' from ./donor' or ' with the hypernetwork ./hypernetwork'; '' where there is neither."""
    networks = dict.fromkeys(t["hypernetwork"]["source"] for t in tensors if "hypernetwork" in t)
    if networks:
        return f" with the hypernetwork {listed(name(network) for network in networks)}"
    # A method that reads no donor rows takes nothing from a donor.
    donors = dict.fromkeys(d["model"] for t in tensors for d in t["donors"] if d["tensor"])
    return f" from {listed(name(donor) for donor in donors)}" if donors else ""


def matched(tensor: dict[str, Any]) -> str:
    """'2880 tokens shared, 3 by role, ...; 2867 anchors'."""
    counts = tensor["counts"]
    facts = [f"{counted(counts['shared'], 'token')} shared"]
    for key, what in (("by_role", "by role"), ("by_string", "by string")):
        if counts[key]:
            facts.append(f"{counted(counts[key], 'control token')} {what}")
    for key, what in (
        ("never_emitted", "not copied, never emitted by the model"),
        ("out_of_range", "past the model's rows"),
    ):
        if counts[key]:
            facts.append(f"{counts[key]} {what}")
    anchors = [counted(count, "anchor") for count in _anchors(tensor) if count]
    return ", ".join(facts) + (f"; {listed(anchors)}" if anchors else "")


def fit_of(tensor: dict[str, Any]) -> tuple[Fit, dict[str, float]] | None:
    """A tensor's figure of fit, and its mean, median and so on; None where its method has none."""
    return next(((fit, tensor[key]) for key, fit in FITS.items() if tensor.get(key)), None)


def fit_sentence(tensors: list[dict[str, Any]]) -> str:
    """'mean relative residual (0 is exact): input 0.42, head 0.29', or that there is none.

    '' where no row was approximated.
    """
    means: dict[str, dict[str, float]] = {}
    readings: dict[str, Fit] = {}
    for tensor in tensors:
        found = fit_of(tensor)
        if found is not None:
            fit, figures = found
            readings[fit.key] = fit
            means.setdefault(fit.key, {}).setdefault(PARTS[tensor["part"]], figures["mean"])
    told = [
        f"mean {fit.title} ({fit.short}): "
        + ", ".join(f"{part} {mean:.2f}" for part, mean in means[key].items())
        for key, fit in readings.items()
    ]
    if told or not any(tensor["counts"]["approximated"] for tensor in tensors):
        return "; ".join(told)
    return f"no figure of fit: {tensors[0]['method']} does not look at single tokens"


def tokenizer_of(record: dict[str, Any]) -> str:
    """Whose tokenizer the output has, in words."""
    source: str = record["output"]["tokenizer_source"]
    if source == "union":
        return f"the union of {listed(model['model'] for model in record['models'])}"
    return "the base model" if source == "base" else source


def listed(names: Iterable[str]) -> str:
    """'a, b and c'."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _anchors(tensor: dict[str, Any]) -> list[int]:
    return [donor["anchors"] for donor in tensor["donors"] if donor["tensor"]]


def restoring(record: dict[str, Any], path: str) -> tuple[str, str] | None:
    """Why to give rows of the base back, and the command that does; None where it would not pay."""
    share, base = record.get("lost") or 0.0, record.get("base_model")
    if share < WORTHWHILE or base is None:
        return None
    words = [path, f"{path.rstrip('/')}-restored", "--restore", base]
    return (
        f"At {share:.0%} of the positions of a sample text a token ends that {base} had and the "
        "output has not. Its rows of them can be given back without training",
        f"mergekit-omp grow {shlex.join(words)}",
    )
