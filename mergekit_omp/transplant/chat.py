"""The chat template of an output: the text that it makes, and the token that ends an answer."""

from __future__ import annotations

from dataclasses import dataclass

import jinja2
import transformers

from mergekit_omp.transplant.control import TURN_END

_QUESTION, _ANSWER = "What is the capital of France?", "The capital of France is Paris."
# What a template raises that asks for other roles, other fields or other types.
_CANNOT_RENDER = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError)


@dataclass(frozen=True)
class TurnEnd:
    """How a chat template ends an answer."""

    id: int | None
    """The token, where there is one."""
    text: str
    """What stands after the answer, without space around it; '' where that is not known."""


def template_text(tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    """The template that a chat uses where none is named, or ''."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()), "")
    return template if isinstance(template, str) else ""


def syntax_error(tokenizer: transformers.PreTrainedTokenizerBase) -> str | None:
    """Why the chat template is no Jinja; None where it is, or there is none."""
    try:
        _render(tokenizer)
    except jinja2.TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except _CANNOT_RENDER:
        return None
    return None


def turn_end(tokenizer: transformers.PreTrainedTokenizerBase) -> TurnEnd:
    """What ends an answer, seen by writing a chat of one question with the template.

    Where the template cannot write that, its text tells, if it names a usual token.
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
