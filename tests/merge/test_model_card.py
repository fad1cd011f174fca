"""The model card of a transplant, and that plain merges' cards are mergekit's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from merges import merge_here, swap
from merging import record

from mergekit_omp.outside.display import in_markdown

SECTION = "### Tokenizer Transplant"


@pytest.fixture(scope="module")
def out(base: Path, donor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("card") / "out"
    assert merge_here(swap(base, donor, parameters={"k": 4}), out).status == 0
    return out


def front_matter(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def table(card: str) -> list[dict[str, str]]:
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]


def test_it_tells_the_facts_of_the_record(out: Path, base: Path, donor: Path) -> None:
    card = (out / "README.md").read_text()
    told = table(card)
    tensors = record(out)["models"][0]["tensors"]
    assert [row["tensor"] for row in told] == ["input", "head"]
    for row, tensor in zip(told, tensors, strict=True):
        counts = tensor["counts"]
        assert row["model"] == base.name
        assert int(row["copied"]) == counts["copied"] > 0
        assert int(row["of these by role"]) == counts["by_role"] > 0
        assert int(row["approximated"]) == counts["approximated"] > 0
        assert float(row["mean relative residual"]) == pytest.approx(
            tensor["relative_residual"]["mean"], abs=5e-4
        )
    assert (
        f"The tokenizer is that of {donor.name}: {record(out)['output']['tokens']} tokens" in card
    )
    assert all(in_markdown(warning) in card for warning in record(out)["warnings"])
    assert record(out)["warnings"]


def test_mergekits_own_card_is_whole_and_the_yaml_stands_there_once(out: Path, base: Path) -> None:
    card = (out / "README.md").read_text()
    config = (out / "mergekit_config.yml").read_text()
    # Local paths are cut in the card alone.
    assert card.count(config.replace(f"{base.parent}{os.sep}", "")) == 1
    assert card.index("### Models Merged") < card.index(SECTION) < card.index("### Configuration")
    matter = front_matter(card)
    assert matter["tags"] == ["mergekit", "merge", "tokenizer-transplant", "omp"]
    assert matter["library_name"] == "transformers"


def test_no_card_where_none_is_wanted(base: Path, donor: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert merge_here(swap(base, donor, "mean"), out, "--no-write-model-card").status == 0
    assert not (out / "README.md").exists()
    assert (out / "tokenizer_transplant.json").exists()


def test_a_plain_merge_after_a_transplant_has_a_plain_card(
    base: Path, donor: Path, tmp_path: Path
) -> None:
    plain = {
        "merge_method": "linear",
        "models": [{"model": str(base), "parameters": {"weight": 1}}],
    }
    out = tmp_path / "out"
    assert merge_here(swap(base, donor, "zero"), tmp_path / "first").status == 0
    assert merge_here(plain, out).status == 0
    card = (out / "README.md").read_text()
    assert SECTION not in card
    assert front_matter(card)["tags"] == ["mergekit", "merge"]


def test_models_with_other_counts_and_a_token_of_the_config_are_told_apart(
    family: list[Path], donor: Path, merge: Any
) -> None:
    out = merge(
        {
            "merge_method": "mean+linear",
            "models": [{"model": str(path), "parameters": {"weight": 0.5}} for path in family[:2]],
            "tokenizer": {
                "source": str(donor),
                "tokens": {"<extra>": {"source": {"kind": "zero"}}},
                "pad_to_multiple_of": 512,
            },
            "dtype": "float32",
        }
    )
    card = (out / "README.md").read_text()
    told = table(card)
    assert {row["model"] for row in told} == {path.name for path in family[:2]}
    assert all(row["set by `tokens:`"] == "1" and int(row["padding"]) > 0 for row in told)
    assert "residual" not in card, "nothing was fitted"
    assert front_matter(card)["tags"][-1] == "mean"
