"""The output's chat template: whether it can be rendered, and which token ends an answer."""

from __future__ import annotations

from dataclasses import dataclass

import jinja2
import transformers

from mergekit_omp.transplant.control import TURN_END

_QUESTION, _ANSWER = "What is the capital of France?", "The capital of France is Paris."
# Raised by templates that expect other roles, other fields or other types than this chat has.
_CANNOT_RENDER = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError)


@dataclass(frozen=True)
class TurnEnd:
    """How a chat template ends an answer."""

    id: int | None
    """The token id; None where an answer ends with no single token, or it is not known."""
    text: str
    """What the template writes after the answer, stripped; '' where that is not known."""


def template_text(tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    """The tokenizer's default chat template, or '' where it has none."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()), "")
    return template if isinstance(template, str) else ""


def syntax_error(tokenizer: transformers.PreTrainedTokenizerBase) -> str | None:
    """The syntax error in the chat template; None where it is valid Jinja, or there is none."""
    try:
        _render(tokenizer)
    except jinja2.TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except _CANNOT_RENDER:
        return None
    return None


def turn_end(tokenizer: transformers.PreTrainedTokenizerBase) -> TurnEnd:
    """What ends an answer, found by rendering a chat of one question and one answer.

    Where the template cannot render that, the first of `TURN_END` that its text contains is taken.
    """
    template = template_text(tokenizer)
    if not template:
        return TurnEnd(None, "")
    tokens = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
    try:
        written = _render(tokenizer)
    except _CANNOT_RENDER:
        named = next((token for token in TURN_END if token in template and token in tokens), None)
        return TurnEnd(tokens[named] if named else None, named or "")
    _, found, rest = written.rpartition(_ANSWER)
    rest = rest.strip() if found else ""
    first = max(
        (token for token in tokens if token and rest.startswith(token)), key=len, default=None
    )
    return TurnEnd(None if first is None else tokens[first], rest if first is None else first)


def _render(tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    if not template_text(tokenizer):
        return ""
    chat = [
        {"role": "user", "content": _QUESTION},
        {"role": "assistant", "content": _ANSWER},
    ]
    return str(
        tokenizer.apply_chat_template(chat, chat_template=template_text(tokenizer), tokenize=False)
    )
