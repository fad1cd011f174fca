"""What card and terminal say of a healing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mergekit_omp.healing.writing import CARD

_CONFIGURATION = "\n### Configuration\n"
_UNTRAINED = re.compile(r"No training (of the models )?was involved\.")


def write_card(folder: Path, stage: Path, record: dict[str, Any], entry: dict[str, Any]) -> None:
    """The card of the merge with a section on the healing, before its configuration."""
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else "# A healed model\n"
    text = _UNTRAINED.sub("Some of these rows were trained after the merge.", text)
    before, found, after = text.partition(_CONFIGURATION)
    whole = f"{before.rstrip()}\n\n{section(entry)}{found}{after}"
    (stage / CARD).write_text(whole, encoding="utf-8")


def section(entry: dict[str, Any]) -> str:
    """The healing's facts in Markdown."""
    trained = " and ".join(
        f"{rows['trained']} of the {rows['approximated']} approximated rows of `{rows['tensor']}`"
        for rows in entry["rows"]
    )
    bits, held_out = entry["bits_per_byte"], entry["text"]["held_out"]
    return (
        "### Healing\n\n"
        f"After the merge, {trained} were trained ({entry['objective']}), for "
        f"{entry['best_step']} steps of {entry['settings']['batch_size']} x "
        f"{entry['settings']['context']} tokens; {_rest(entry)}. On "
        f"{held_out['bytes']} bytes of held-out text (of {held_out['documents']} documents) "
        f"{bits['before']:.4f} bits per byte became {bits['after']:.4f}{_interval(bits)}.\n"
    )


def _rest(entry: dict[str, Any]) -> str:
    """What became of the other numbers."""
    if not entry["body"]:
        return "all other numbers are those of the merge"
    return (
        f"LoRA adapters of rank {entry['settings']['lora']} were trained beside them and merged into "
        f"{len(entry['body'])} matrices of the body"
    )


def _interval(bits: dict[str, Any]) -> str:
    """The interval of what was won."""
    found = bits["won_interval"]
    if found is None:
        return ""
    return f", a gain of {bits['won']:.4f} (95% interval {found[0]:.4f} to {found[1]:.4f})"


def told(entry: dict[str, Any], healed: str) -> str:
    """The last lines on the terminal."""
    best, steps = entry["best_step"], entry["steps"]
    wanted = entry["settings"]["steps"]
    if best == steps == wanted:
        stopped = f"{steps} steps, and the loss was still falling: more --steps may win more."
    elif steps == wanted:
        stopped = f"{steps} steps, of which step {best} was best."
    else:
        stopped = f"{steps} steps: after step {best} the loss no longer fell."
    return f"\n{stopped}\nThe healed model is in {healed}."
