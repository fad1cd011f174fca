"""The distillation page's script for TRL: `make distillation`, which installs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recipes.test_jobs import TEXT, Workshop, divergence, work  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer

pytest.importorskip("trl", reason="the extra `distillation` is not installed")


CHATS = [
    {
        "messages": [
            {"role": "user", "content": line.partition(";")[0]},
            {"role": "assistant", "content": line.partition(";")[2]},
        ]
    }
    for line in TEXT.split("\n\n") * 2
]


def test_trl_brings_the_student_to_the_teacher(
    work: Workshop,  # noqa: F811
    small: Any,
) -> None:
    lines = [json.dumps(chat) for chat in CHATS]
    Path("chats.jsonl").write_text("\n".join(lines), encoding="utf-8")
    work("distillation", "student", slice(1, None))
    teacher = AutoModelForCausalLM.from_pretrained(small("meta-llama/Llama-3.1-8B-Instruct"))
    tokenizer = AutoTokenizer.from_pretrained("distilled")
    read = tokenizer.apply_chat_template(
        CHATS[3]["messages"], return_tensors="pt", return_dict=True
    )
    before, after = (
        divergence(AutoModelForCausalLM.from_pretrained(path), teacher, read)
        for path in ("student", "distilled")
    )
    assert after < before


def test_trl_asks_for_one_number_of_rows(work: Workshop, small: Any) -> None:  # noqa: F811
    """Why the page's config has `match_donor_rows: true`."""
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    teacher = small("meta-llama/Llama-3.1-70B-Instruct")
    assert len(AutoTokenizer.from_pretrained(teacher)) < 2048
    student = small("meta-llama/Llama-3.1-8B-Instruct")
    with pytest.raises(ValueError, match="vocab_size"):
        GKDTrainer(
            str(student),
            teacher_model=str(teacher),
            args=GKDConfig("run", bf16=False, report_to=[]),
            train_dataset=Dataset.from_list(CHATS),
            processing_class=AutoTokenizer.from_pretrained(student),
        )
