"""The model card of a grown model: the source's own, with a section on what was added."""

from __future__ import annotations

from typing import Any

from mergekit_omp.outside.display import in_markdown

TITLE = "## Over-Encoding"


def with_growth(card: str | None, growth: dict[str, Any]) -> str:
    """The card with a section; a short card of its own where the source has none."""
    named = in_markdown(growth["name"])
    opening = card.rstrip() if card else f"# {named}, grown"
    return f"{opening}\n\n{section(growth)}"


def section(growth: dict[str, Any]) -> str:
    """What was added, how to load it, and what it is for."""
    tables = growth["tables"]
    lines = [
        TITLE,
        "",
        f"[mergekit-omp](https://pypi.org/project/mergekit-omp/) {growth['version']} added input "
        f"tables to {in_markdown(growth['name'])}, after [Over-Tokenized "
        "Transformers](https://arxiv.org/abs/2501.16975):",
        "",
    ]
    if tables:
        lines += ["| n-grams of | rows | width |", "|---:|---:|---:|"]
        lines += [f"| {t['order']} | {t['rows']} | {growth['width']} |" for t in tables]
        lines += [
            "",
            f"These are {growth['parameters']} parameters, zero where it matters: until it is "
            f"trained further, the model says exactly what it said before (logits of "
            f"{growth['checked_tokens']} tokens were compared to the bit).",
        ]
    if "further_heads" in growth:
        lines += [
            "",
            f"{growth['further_heads']} further heads predict the tokens after the next once they are "
            "trained; until then they predict nothing.",
        ]
    if "restored" in growth:
        lines += [
            "",
            f"{growth['restored']} tokens of the base, which this tokenizer cuts into several, have "
            f"the base's own rows again where their pieces stand together (a share of "
            f"{growth['share']:g}). No training was involved.",
        ]
    lines += [
        "",
        "```python",
        "import mergekit_omp.growth  # or trust_remote_code=True in the next line",
        "from transformers import AutoModelForCausalLM",
        "",
        'model = AutoModelForCausalLM.from_pretrained("...")',
        "```",
    ]
    return "\n".join(lines) + "\n"
