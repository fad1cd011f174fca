"""What a user should know before the merge: trouble that is there, one sentence each."""

from __future__ import annotations

import re
from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from mergekit_omp.inspection.control import ControlToken, Fate
from mergekit_omp.inspection.facts import Facts, ModelFacts

MORE_TOKENS = 1.5
"""How many times the tokens of before a text may take without a word on it."""
LITTLE_COPIED = 0.3
MUCH_UNTRAINED = 0.01
FEW_ANCHORS = 100
_MARKUP = re.compile(r"<[|｜][^|｜<>\s{}]+[|｜]>|<(?:start|end)_of_turn>|\[/?INST\]")


def warnings(facts: Facts) -> list[str]:
    """All warnings: first those that the merge will log itself, then what else is seen."""
    found = list(facts.run.transplant.warnings.messages)
    for group in facts.groups:
        found += _roles(facts, group[0])
    found += _padding(facts)
    found += _chat_template(facts)
    found += _texts(facts)
    for group in facts.groups:
        found += _rows(facts, group[0])
    found += _pursuits(facts)
    return list(dict.fromkeys(found))


def _roles(facts: Facts, model: ModelFacts) -> Iterator[str]:
    output, own = facts.run.transplant.output, model.vocabulary
    if own.fingerprint == output.fingerprint:
        return
    by_id = {token.id: token for token in model.control}
    for role, what in (("eos", "ends its texts"), ("bos", "begins its texts")):
        had = own.strings[own.roles[role]] if role in own.roles else None
        if role not in output.roles:
            if had is not None:
                yield _role_lost(role, what, had, model)
            continue
        token = by_id.get(output.roles[role])
        if token is None or token.fate in (Fate.ROLE, Fate.OVERRIDE):
            continue
        if token.fate == Fate.STRING and had is not None:
            yield (
                f"{model.model} {what} with {had!r} ({role}); the output's {role} is "
                f"{token.token!r}, which gets that model's row of the same name and not the row "
                f"of its {role}."
            )
        elif token.fate in (Fate.APPROXIMATED, Fate.MEAN):
            yield (
                f"The output's {role} {token.token!r} matches no {role} of {model.model}: its "
                f"row is {_made(token)}. An entry under `tokenizer: tokens:` can give it another."
            )
    for role, i in output.roles.items():
        token = by_id.get(i)
        if token is None or token.fate != Fate.STRING or role in ("bos", "eos"):
            continue
        played = [other for other, at in own.roles.items() if own.strings[at] == token.source]
        if played and role not in played:
            yield (
                f"{token.token!r} is {role} in the output and {' and '.join(played)} in "
                f"{model.model}; it keeps that model's row."
            )
    yield from _bos_in_front(facts, model)


def _padding(facts: Facts) -> Iterator[str]:
    output = facts.run.transplant.output
    if "pad" in output.roles and output.roles["pad"] == output.roles.get("eos"):
        yield (
            f"The output's tokenizer pads with its eos, {output.strings[output.roles['eos']]!r}: a "
            "later training that ignores padding ignores the end of texts too. Give it a pad "
            "token of its own before that."
        )


def _role_lost(role: str, what: str, had: str, model: ModelFacts) -> str:
    effect = (
        "generation stops at the length limit alone"
        if role == "eos"
        else "its texts begin without one"
    )
    return (
        f"{model.model} {what} with {had!r} ({role}), but the output's tokenizer has no {role}: "
        f"{effect}."
    )


def _bos_in_front(facts: Facts, model: ModelFacts) -> Iterator[str]:
    def begins(tokenizer: PreTrainedTokenizerBase) -> bool:
        ids = tokenizer("a")["input_ids"]
        return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]

    tokenizer = facts.run.tokenizer
    if begins(model.tokenizer) and tokenizer.bos_token_id is not None and not begins(tokenizer):
        yield (
            f"The tokenizer of {model.model} puts {model.tokenizer.bos_token!r} before every "
            f"text, and the output's tokenizer does not put its {tokenizer.bos_token!r} there: "
            "the model was trained to see one."
        )


def _made(token: ControlToken) -> str:
    return "approximated" if token.fate == Fate.APPROXIMATED else "the mean of the model's rows"


def _chat_template(facts: Facts) -> Iterator[str]:
    tokenizer, output = facts.run.tokenizer, facts.run.transplant.output
    template = _template_text(tokenizer.chat_template)
    if not template:
        with_one = [str(m.model) for m in facts.models if m.tokenizer.chat_template]
        if with_one:
            yield (
                f"{', '.join(with_one)} has a chat template, but the output's tokenizer has none, "
                "and so the output will have none. Add `chat_template:` to the config."
            )
        return
    ids = {string: i for i, string in enumerate(output.strings) if string is not None}
    used = dict.fromkeys(_MARKUP.findall(template))
    unknown = [markup for markup in used if markup not in ids]
    if unknown:
        yield (
            f"The chat template writes {_listed(unknown)}, which the output's tokenizer has no "
            "token for and cuts into pieces. Add it under `tokenizer: tokens:`, or name another "
            "`chat_template:`."
        )
    for group in facts.groups:
        made = [
            token.token
            for token in group[0].control
            if token.fate in (Fate.APPROXIMATED, Fate.MEAN) and token.token in template
        ]
        if made:
            yield (
                f"The chat template uses {_listed(made)}, which {group[0].model} does not have: "
                f"{'its row is' if len(made) == 1 else 'their rows are'} approximated, and the "
                "model was never trained on chats written so."
            )
    eos = tokenizer.eos_token
    turn_ends = [
        token
        for token in ("<|im_end|>", "<|eot_id|>", "<|eot|>", "<end_of_turn>", "<|end|>")
        if token in template and token in ids
    ]
    if turn_ends and eos is not None and eos not in template and eos not in turn_ends:
        yield (
            f"The chat template ends turns with {turn_ends[0]!r}, but the output's eos is "
            f"{eos!r}: in a chat, generation does not stop at the end of an answer."
        )


def _template_text(template: object) -> str:
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()), "")
    return template if isinstance(template, str) else ""


def _texts(facts: Facts) -> Iterator[str]:
    lost = [kind for kind, reading in facts.reading.items() if reading.unknown]
    if lost:
        yield (
            f"The output's tokenizer cannot spell all of the sample ({', '.join(lost)}): it reads "
            f"{facts.run.tokenizer.unk_token!r} where it knows no characters."
        )
    altered = [(kind, r.altered) for kind, r in facts.reading.items() if r.altered is not None]
    own = [group[0].reading for group in facts.groups]
    new = [
        (kind, change)
        for kind, change in altered
        if change is not None and any(not r[kind].altered and not r[kind].unknown for r in own)
    ]
    if new:
        change = new[0][1]
        yield (
            f"The output's tokenizer does not keep text as it is ({', '.join(k for k, _ in new)}): "
            f"{change[0]!r} comes back as {change[1]!r}."
        )
    for group in facts.groups:
        more = [
            (kind, len(facts.reading[kind].ids) / max(len(reading.ids), 1))
            for kind, reading in group[0].reading.items()
            if not reading.unknown and not facts.reading[kind].unknown
        ]
        worse = [f"{kind} {ratio:.1f}" for kind, ratio in more if ratio >= MORE_TOKENS]
        if worse:
            yield (
                f"The output reads some texts in more tokens than {group[0].model} does, times: "
                f"{', '.join(worse)}. Contexts hold less of them, and they are new to the model."
            )


def _rows(facts: Facts, model: ModelFacts) -> Iterator[str]:
    output, counts = facts.run.transplant.output, model.counts
    copied = counts["copied"] + counts["overridden"]
    if copied < LITTLE_COPIED * output.tokens:
        yield (
            f"Only {copied:,} of the output's {output.tokens:,} tokens keep rows of "
            f"{model.model} ({copied / output.tokens:.0%}); all others are approximated."
        )
    if counts["never_emitted"] > MUCH_UNTRAINED * max(counts["shared"], 1):
        yield (
            f"{counts['never_emitted']:,} of the tokens that {model.model} shares with the output "
            "are never produced by its own tokenizer: their rows are untrained, so they are "
            "approximated and not copied."
        )


def _pursuits(facts: Facts) -> Iterator[str]:
    for step in facts.steps:
        where = f"{step.tensor} of {', '.join(step.models)}"
        if step.refusal:
            yield f"{where}: the merge will stop with: {step.refusal}."
        if step.donor is None:
            continue
        if step.anchors < min(step.dimension, FEW_ANCHORS):
            yield (
                f"{where}: base and donor share only {step.anchors} tokens to learn from; rows "
                f"of {step.dimension} numbers are poorly approximated from so few."
            )
        if step.k is not None and step.k_in_force is not None and step.k_in_force < step.k:
            yield (
                f"{where}: `k: {step.k}` is reduced to {step.k_in_force}: there are {step.anchors} "
                f"anchors, and a row has {step.dimension} numbers."
            )


def _listed(tokens: list[str], most: int = 4) -> str:
    more = f" and {len(tokens) - most} more" if len(tokens) > most else ""
    return ", ".join(repr(token) for token in tokens[:most]) + more
