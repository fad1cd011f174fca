"""The model card of a grown model: the source's own, with a section on what was added."""

from __future__ import annotations

from typing import Any

from mergekit_omp.outside.display import in_markdown

TITLE = "## Grown"


def with_growth(card: str | None, growth: dict[str, Any]) -> str:
    """The card with a section; a short card of its own where the source has none."""
    named = in_markdown(growth["name"])
    opening = card.rstrip() if card else f"# {named}, grown"
    return f"{opening}\n\n{section(growth)}"


def section(growth: dict[str, Any]) -> str:
    """What was added, what it is for, and how to load it."""
    beside = " where no row was given back" if "restored" in growth else ""
    lines = [
        TITLE,
        "",
        f"[mergekit-omp](https://pypi.org/project/mergekit-omp/) {growth['version']} added "
        f"{growth['parameters']} parameters to {in_markdown(growth['name'])}:",
        "",
        *added(growth),
        "",
        f"Logits of {growth['checked_tokens']} tokens were compared{beside}, and are those of before to "
        "the bit.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM",
        "",
        'model = AutoModelForCausalLM.from_pretrained("...", trust_remote_code=True)',
        "```",
        "",
        "Where mergekit-omp is installed, `import mergekit_omp.growth` takes the place of "
        "`trust_remote_code`. Other classes do not load this model, since they would leave out what "
        "was added.",
    ]
    return "\n".join(lines) + "\n"


def added(growth: dict[str, Any]) -> list[str]:
    """One item for each thing that was added."""
    items: list[str] = []
    if tables := growth["tables"]:
        sizes = ", ".join(f"{t['rows']} rows of {growth['width']} for {t['order']}" for t in tables)
        items.append(
            "* tables of the n-grams that end in each token ([Over-Tokenized "
            f"Transformers](https://arxiv.org/abs/2501.16975); {sizes} tokens). They are zero: until "
            "they are trained, they change nothing."
        )
    if "restored" in growth:
        items.append(
            f"* {growth['restored']} rows of the base, for tokens that this tokenizer cuts into "
            "several: they stand where the pieces of such a token stand together (a share of "
            f"{growth['share']:g}), at {growth['hit']:.1%} of the positions of a sample text. No "
            "training was involved."
        )
    if "further_heads" in growth:
        items.append(
            f"* {growth['further_heads']} heads for the tokens after the next. Until they are trained "
            "they predict nothing."
        )
    return items
