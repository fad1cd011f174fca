"""Warnings about roles, control tokens and chat templates of the output."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mergekit.common import ModelReference
from transformers import PreTrainedTokenizerBase

from mergekit_omp.transplant.chat import template_text, turn_end
from mergekit_omp.transplant.control import ControlToken, Fate
from mergekit_omp.vocabulary import Vocabulary

_MARKUP = re.compile(r"<[|｜][^|｜<>\s{}]+[|｜]>|<(?:start|end)_of_turn>|\[/?INST\]")


@dataclass(frozen=True, eq=False)
class ModelTokens:
    """One model of the merge, and where it gets the rows of the output's control tokens from."""

    model: ModelReference
    vocabulary: Vocabulary
    tokenizer: PreTrainedTokenizerBase
    control: tuple[ControlToken, ...]


def token_warnings(
    output: Vocabulary, tokenizer: PreTrainedTokenizerBase, models: Sequence[ModelTokens]
) -> Iterator[str]:
    """The warnings, one sentence each. `tokenizer` is the output's, with its chat template."""
    # Of models with the same vocabulary, only the first is warned about.
    firsts = list({model.vocabulary.fingerprint: model for model in reversed(models)}.values())[
        ::-1
    ]
    for model in firsts:
        yield from _roles(output, tokenizer, model)
        yield from _spelling(output, model)
    if "pad" in output.roles and output.roles["pad"] == output.roles.get("eos"):
        yield (
            f"The output's tokenizer pads with its eos, {output.strings[output.roles['eos']]!r}: a "
            "later training that ignores padding ignores the end of texts too. Give it a pad "
            "token of its own before that."
        )
    yield from _chat(output, tokenizer, models, firsts)


def _roles(
    output: Vocabulary, tokenizer: PreTrainedTokenizerBase, model: ModelTokens
) -> Iterator[str]:
    own = model.vocabulary
    if own.fingerprint == output.fingerprint:
        return
    by_id = {token.id: token for token in model.control}
    for role, what in (("eos", "ends its texts"), ("bos", "begins its texts")):
        had = own.strings[own.roles[role]] if role in own.roles else None
        if role not in output.roles:
            if had is not None and had not in output.strings:
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
            made = (
                "approximated"
                if token.fate == Fate.APPROXIMATED
                else "the mean of the model's rows"
            )
            yield (
                f"The output's {role} {token.token!r} matches no {role} of {model.model}: its "
                f"row is {made}. An entry under `tokenizer: tokens:` can give it another."
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
    if _begins(model.tokenizer) and tokenizer.bos_token_id is not None and not _begins(tokenizer):
        yield (
            f"The tokenizer of {model.model} puts {model.tokenizer.bos_token!r} before every "
            f"text, and the output's tokenizer does not put its {tokenizer.bos_token!r} there: "
            "the model was trained to see one."
        )


def _spelling(output: Vocabulary, model: ModelTokens) -> Iterator[str]:
    """Of an output that cannot spell every text, as one trained on a few texts may not."""
    single = [bytes([value]) for value in range(256)]
    lost = [byte for byte in single if byte not in output.representatives]
    if not lost or any(byte not in model.vocabulary.representatives for byte in single):
        return
    unknown = output.roles.get("unk")
    become = "are left out" if unknown is None else f"become {output.strings[unknown]!r}"
    yield (
        f"The tokenizer of {model.model} can spell any text, since it has a token for each byte; the "
        f"output's lacks {len(lost)} of the 256: characters that it has no token for {become}."
    )


def _role_lost(role: str, what: str, had: str, model: ModelTokens) -> str:
    effect, remedy = (
        ("generation stops at the length limit alone", "stop generation at it")
        if role == "eos"
        else ("its texts begin without one", "begin prompts with it")
    )
    return (
        f"{model.model} {what} with {had!r} ({role}), but the output's tokenizer has no {role}: "
        f"{effect}. To keep it, write `tokens: {{{had!r}: {{source: {model.model}}}}}` under "
        f"`tokenizer:`, and {remedy}."
    )


def _begins(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer puts its bos before a text."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def _chat(
    output: Vocabulary,
    tokenizer: PreTrainedTokenizerBase,
    models: Sequence[ModelTokens],
    firsts: Sequence[ModelTokens],
) -> Iterator[str]:
    template = template_text(tokenizer)
    if not template:
        with_one = [str(model.model) for model in models if model.tokenizer.chat_template]
        if with_one:
            yield (
                f"{', '.join(with_one)} has a chat template, but the output's tokenizer has none, "
                "and so the output will have none. Add `chat_template:` to the config."
            )
        return
    held = {string for string in output.strings if string is not None}
    unknown = [markup for markup in dict.fromkeys(_MARKUP.findall(template)) if markup not in held]
    if unknown:
        yield (
            f"The chat template writes {_listed(unknown)}, which the output's tokenizer has no "
            "token for and cuts into pieces. Add it under `tokenizer: tokens:`, or name another "
            "`chat_template:`."
        )
    end = turn_end(tokenizer)
    if end.id is None and end.text:
        yield (
            f"The chat template ends an answer with {end.text[:40]!r}, which is no token of the "
            "output: in a chat, generation does not stop there."
        )
    for model in firsts:
        made = [
            token.token
            for token in model.control
            if token.fate in (Fate.APPROXIMATED, Fate.MEAN) and token.token in template
        ]
        if made:
            yield (
                f"The chat template uses {_listed(made)}, which {model.model} does not have: "
                f"{'its row is' if len(made) == 1 else 'their rows are'} approximated, and the "
                "model was never trained on chats written so."
            )


def _listed(tokens: list[str], most: int = 4) -> str:
    more = f" and {len(tokens) - most} more" if len(tokens) > most else ""
    return ", ".join(repr(token) for token in tokens[:most]) + more
