"""The facts as text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from mergekit_omp.inspection.checks import warnings
from mergekit_omp.inspection.facts import NUMBER, Digits, Facts, ModelFacts
from mergekit_omp.outside.columns import Columns, shortened
from mergekit_omp.outside.counts import counted
from mergekit_omp.outside.display import visible
from mergekit_omp.transplant.control import ControlToken, Fate
from mergekit_omp.vocabulary import DigitScheme, Match

WIDTH = 80
TOKENS = Columns("<34", ">10", ">9", "<25")
SAMPLE = Columns("<34", ">10", ">10", ">10")
PLAN = Columns("<29", ">8", ">9", "<2", "<16", ">8", ">8")
NAMED = 20
"""Control tokens named in one sentence, at most."""
ALIKE = 3
"""Control tokens whose names differ by a number alone are listed in one line from here on."""


def as_text(facts: Facts) -> str:
    """The whole report."""
    parts: list[Iterable[str]] = [_head(facts)]
    several = len(facts.groups) > 1
    for group in facts.groups:
        if several or len(group) > 1:
            parts.append(_wrapped(f"== {', '.join(str(m.model) for m in group)}"))
        parts += [_tokens(facts, group[0]), _control(group[0]), _texts(facts, group[0])]
    parts.append(_plan(facts))
    parts.append(_block(facts))
    parts.append(_warnings(facts))
    return "\n\n".join("\n".join(part) for part in map(list, parts) if part)


def _head(facts: Facts) -> Iterator[str]:
    transplant, request = facts.run.transplant, facts.run.transplant.request
    method, models = request.method.spec.name, request.models
    yield from _wrapped(
        f"{method} into {request.base}: a dry run, nothing is written"
        if len(models) == 1
        else f"{method} of {len(models)} models: a dry run, nothing is written"
    )
    yield ""
    for i, model in enumerate(models):
        yield f"{'models' if not i and len(models) > 1 else '' if i else 'model':<11}{model}"
    yield f"{'tokenizer':<11}{request.source}"
    size = ", ".join(
        counted(number, noun, separate=True)
        for number, noun in ((transplant.output.tokens, "token"), (transplant.rows, "row"))
    )
    before = sorted({f"{rows:,}" for rows in _rows_before(facts)})
    yield f"{'output':<11}{size} (before: {', '.join(before)})"


def _rows_before(facts: Facts) -> list[int]:
    transplant = facts.run.transplant
    return [
        transplant.inputs.rows(held).count
        for tensor in transplant.tensors[:1]
        for held in tensor.planned.models.values()
    ]


def _tokens(facts: Facts, model: ModelFacts) -> Iterator[str]:
    counts, tokens = model.counts, facts.run.transplant.output.tokens
    donors = ", ".join(model.donors)
    lines = [
        ("copied, the same bytes", model.copied_by[Match.BYTES], ""),
        ("copied, the same role", model.copied_by[Match.ROLE], "bos, eos, pad, ..."),
        ("copied, the same string", model.copied_by[Match.STRING], ""),
        ("set by `tokens:`", counts["overridden"], ""),
        ("approximated", counts["approximated"], f"from {donors}" if donors else ""),
        ("mean of the rows", counts["without_donor_row"], "no donor has a row"),
    ]
    yield TOKENS.line("Tokens of the output", "rows", "share")
    for name, count, note in lines:
        if count or name == "approximated":
            yield TOKENS.line(f"  {name}", f"{count:,}", _percent(count / tokens), f"  {note}")
    yield TOKENS.line("  all", f"{tokens:,}", _percent(1.0))
    if counts["padding"]:
        yield TOKENS.line("  rows without a token", f"{counts['padding']:,}")
    yield from _wrapped(_also(counts), indent="  ")


def _also(counts: dict[str, int]) -> str:
    said = [f"{counts['shared']:,} byte strings are tokens of both vocabularies"]
    if counts["never_emitted"]:
        said.append(
            f"{counts['never_emitted']:,} of them not copied, since the model's tokenizer never "
            "produces them"
        )
    if counts["out_of_range"]:
        past = counted(counts["out_of_range"], "token", separate=True)
        said.append(f"{past} past the model's rows")
    return "; ".join(said) + "."


def _control(model: ModelFacts) -> Iterator[str]:
    if not model.control:
        return
    yield "Control tokens of the output"
    width = min(48, max(len(label) for label, _ in _control_lines(model)) + 2)
    for label, gets in _control_lines(model):
        first, *rest = textwrap.wrap(gets, WIDTH - 2 - width) or [""]
        yield f"  {label:<{width}}{first}" if len(label) < width else f"  {label}  {first}"
        for line in rest:
            yield " " * (2 + width) + line


def _control_lines(model: ModelFacts) -> list[tuple[str, str]]:
    groups: dict[tuple[object, ...], list[ControlToken]] = {}
    for token in model.control:
        copied_alike = token.fate == Fate.STRING and token.source == token.token
        key = (
            token.family,
            token.roles,
            token.fate,
            None if copied_alike else token.source,
            token.suppressed,
        )
        groups.setdefault(key, []).append(token)
    lines = []
    for tokens in groups.values():
        shown = [tokens[0]] if len(tokens) >= ALIKE else tokens
        for token in shown:
            label = visible(token.token) + (f" ({', '.join(token.roles)})" if token.roles else "")
            if len(tokens) >= ALIKE:
                label = f"{visible(token.token)} and {len(tokens) - 1} alike"
            lines.append((label, _gets(token)))
    return lines


def _gets(token: ControlToken) -> str:
    said = str(token.fate.value)
    if token.source_model is not None:
        said += f": {visible(token.source or '')} of {token.source_model}"
    elif token.source is not None and token.source != token.token:
        said += f" from {visible(token.source)}"
    if token.suppressed:
        said += ", not to be generated (another token has the same row)"
    return said


def _texts(facts: Facts, model: ModelFacts) -> Iterator[str]:
    yield "Digits"
    yield f"  {'model':<10}{_digits(model.digits)}"
    yield f"  {'output':<10}{_digits(facts.digits)}"
    yield ""
    yield SAMPLE.line("Sample, bytes per token", "model", "output", "copied")
    unknown = False
    for kind, reading in facts.reading.items():
        figures = [model.reading[kind].bytes_per_token, reading.bytes_per_token]
        own, new = ("lost" if figure is None else f"{figure:.2f}" for figure in figures)
        unknown |= None in figures
        share = reading.share_of(model.kept)
        copied = "" if share is None else _percent(share)
        yield SAMPLE.line(f"  {kind}", own, new, copied)
    yield from _wrapped(
        "copied: the share of the output's tokens in the text whose rows are the model's own."
        + (" lost: the tokenizer cannot spell all of it." if unknown else ""),
        indent="  ",
    )


def _digits(digits: Digits) -> str:
    if digits.scheme == DigitScheme.NONE:
        return f"cannot spell {NUMBER}"
    return f"{NUMBER} is {visible(' '.join(digits.example))} ({digits.scheme.value})"


def _plan(facts: Facts) -> Iterator[str]:
    yield PLAN.line("Plan", "missing", "anchors", "", "search", "", "about")
    if not facts.steps:
        yield "  No row is approximated."
    models: tuple[str, ...] = ()
    for step in sorted(facts.steps, key=lambda step: step.models):
        if len(facts.models) > 1 and step.models != models:
            models = step.models
            yield from _wrapped(f"for {', '.join(models)}", indent="  ")
        search = step.search or step.method
        seconds = _duration(step.multiply_adds * facts.seconds_per_multiply_add)
        name = f"  {shortened(step.tensor, 26)}"
        sizes = f"{step.missing:,}", f"{step.anchors:,}"
        yield PLAN.line(name, *sizes, "", search, seconds, _memory(step.bytes))
    if len(facts.steps) > 1:
        adds = sum(step.multiply_adds for step in facts.steps)
        most = max(step.bytes for step in facts.steps)
        total = _duration(adds * facts.seconds_per_multiply_add)
        yield PLAN.line("  all", "", "", "", "", total, _memory(most))
    if facts.steps:
        yield from _wrapped(
            "about: on this machine, as busy as it is now; the memory is that of the whole "
            "process. The layers of the model come on top, as in any merge.",
            indent="  ",
        )


def _block(facts: Facts) -> Iterator[str]:
    if facts.block is not None:
        yield from _wrapped(
            "Control tokens that the model lacks get approximated rows. To give them the rows of "
            "its own tokens of that purpose, write this in place of `tokenizer_source:` (or "
            "`tokenizer:`), as far as you agree:"
        )
        yield ""
        yield facts.block
        if facts.without_counterpart:
            names = _names(facts.without_counterpart)
            for line in textwrap.wrap(f"no counterpart is known for {names}", WIDTH - 6):
                yield f"    # {line}"
    elif facts.without_counterpart:
        names = _names(facts.without_counterpart)
        yield from _wrapped(
            f"Control tokens that the model lacks and that resemble none of its own: {names}. "
            "They are approximated; entries under `tokenizer: tokens:` give them other rows."
        )


def _names(tokens: Sequence[ControlToken]) -> str:
    more = f" and {len(tokens) - NAMED} more" if len(tokens) > NAMED else ""
    return ", ".join(visible(token.token) for token in tokens[:NAMED]) + more


def _warnings(facts: Facts) -> Iterator[str]:
    found = warnings(facts)
    yield f"Warnings: {len(found) or 'none'}"
    for i, warning in enumerate(found, 1):
        yield from textwrap.wrap(
            warning,
            WIDTH,
            initial_indent=f"{i:>2}. ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _memory(size: int) -> str:
    return f" {size / 1e9:>4.1f} GB"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "< 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
