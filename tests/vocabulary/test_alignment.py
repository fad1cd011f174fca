"""Which row goes where, in cases that are easy to get wrong."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import numbered, sentencepiece
from handmade import vocabulary as handmade

from mergekit_omp.vocabulary import Kind, Match, Vocabulary, align

TRAINED = ["byte_level", "sentencepiece_bpe", "unigram", "wordpiece"]


def sources(alignment):
    """The model's string that each of the output's strings gets."""
    return {
        alignment.output.strings[i]: None if source < 0 else alignment.model.strings[source]
        for i, source in enumerate(alignment.source.tolist())
    }


@pytest.mark.parametrize("model", TRAINED)
@pytest.mark.parametrize("output", TRAINED)
def test_what_an_alignment_promises(vocabulary, model, output):
    alignment = align(vocabulary(model), vocabulary(output))
    copied = np.flatnonzero(alignment.source >= 0)
    of_model, of_output = alignment.model, alignment.output
    assert (np.isin(alignment.match, (Match.NONE, Match.GAP)) == (alignment.source < 0)).all()
    by_bytes = np.flatnonzero(alignment.match == Match.BYTES)
    for i in by_bytes.tolist():
        assert of_model.content[alignment.source[i]] == of_output.content[i] is not None
    assert len(set(alignment.source[by_bytes].tolist())) == len(by_bytes)
    anchors = np.flatnonzero(alignment.anchors)
    assert of_output.emitted(anchors).all()
    assert of_model.emitted(alignment.source[anchors]).all()
    counts = alignment.counts
    shared = {c for c in of_model.content if c is not None} & set(of_output.content)
    assert counts.shared == len(shared)
    assert counts.missing + counts.padding == of_output.size - len(copied)
    for i in np.flatnonzero(of_output.kinds == Kind.CONTROL).tolist():
        assert alignment.source[i] < 0 or of_model.kinds[alignment.source[i]] == Kind.CONTROL


def test_roles_are_found_under_other_names(vocabulary):
    alignment = align(vocabulary("wordpiece"), vocabulary("byte_level"))
    for role, i in alignment.output.roles.items():
        assert alignment.match[i] == Match.ROLE
        assert alignment.source[i] == alignment.model.roles[role]


def test_a_vocabulary_aligned_with_itself_is_copied_whole(vocabulary):
    for name in [*TRAINED, "mistral3"]:
        words = vocabulary(name)
        alignment = align(words, words)
        assert alignment.source.tolist() == list(range(words.size))
        assert alignment.counts.missing == alignment.counts.never_emitted == 0
        assert (alignment.anchors <= words.emitted(np.arange(words.size))).all()


def test_other_roles_do_not_cost_the_rest_of_a_vocabulary():
    tokens = ["<s>", "</s>", "<0x41>", "A", "xy"]
    base = handmade(*tokens, bos="<s>", eos="</s>", control=["<s>", "</s>"])
    chat = handmade(*tokens, bos="<s>", eos="</s>", pad="</s>", control=["<s>", "</s>"])
    assert base.fingerprint != chat.fingerprint
    assert align(base, chat).source.tolist() == [0, 1, 2, 3, 4]


def test_a_copy_comes_from_the_token_that_the_model_emits():
    model = handmade("<0x41>", "A")
    assert sources(align(model, handmade("x", "A"))) == {"x": None, "A": "A"}
    reverse = Vocabulary.from_tokenizer(sentencepiece({"A": 0, "<0x41>": 1}), "reverse")
    assert sources(align(reverse, handmade("x", "A")))["A"] == "A"


def test_one_row_is_not_copied_to_two_tokens_of_the_same_bytes():
    alignment = align(handmade("A", "x"), handmade("<0x41>", "A"))
    assert sources(alignment) == {"<0x41>": None, "A": "A"}
    assert alignment.counts.shared == 1
    assert alignment.counts.missing == 1
    assert alignment.anchors.tolist() == [False, True]


def test_a_row_that_was_never_trained_is_not_copied_to_a_token_that_is_used():
    merged = handmade("a", "b", "ab", merges=[("a", "b")])
    unmerged = handmade("x", "a", "b", "ab")
    alignment = align(unmerged, merged)
    assert sources(alignment) == {"a": "a", "b": "b", "ab": None}
    assert alignment.counts.shared == 3
    assert alignment.counts.never_emitted == 1
    # The other way round the row is trained: copied, but of no use as an anchor.
    back = align(merged, unmerged)
    assert sources(back) == {"x": None, "a": "a", "b": "b", "ab": "ab"}
    assert back.anchors.tolist() == [False, True, True, False]
    assert back.counts.never_emitted == 0


def test_a_token_that_neither_emits_is_copied_and_is_no_anchor():
    alignment = align(handmade("a", "b", "ab"), handmade("x", "a", "b", "ab"))
    assert sources(alignment)["ab"] == "ab"
    assert not alignment.anchors[3]


def test_rows_past_the_matrix_are_not_copied():
    model = handmade("a", "b", "c", "</s>", eos="</s>")
    output = handmade("c", "a", "<eos>", "b", eos="<eos>")
    alignment = align(model, output, rows=2)
    assert alignment.source.tolist() == [-1, 0, -1, 1]
    assert alignment.match.tolist() == [Match.NONE, Match.BYTES, Match.NONE, Match.BYTES]
    assert alignment.anchors.tolist() == [False, True, False, True]
    assert alignment.counts.out_of_range == 2
    assert align(model, model, rows=2).source.tolist() == [0, 1, -1, -1]


def test_gaps_of_the_output_are_padding_and_gaps_of_the_model_are_nobodys_source():
    gaps = Vocabulary.from_tokenizer(sentencepiece({"a": 0, "b": 4}), "gaps")
    alignment = align(handmade("b", "a"), gaps)
    assert alignment.source.tolist() == [1, -1, -1, -1, 0]
    assert alignment.match.tolist()[1:4] == [Match.GAP] * 3
    assert alignment.counts.padding == 3
    assert align(gaps, handmade("b", "a")).source.tolist() == [4, 0]


def test_text_never_gets_the_row_of_a_control_token():
    model = handmade("a", "[INST]", control=["[INST]"])
    output = handmade("a", "b", "[INST]")
    assert sources(align(model, output))["[INST]"] is None
    assert sources(align(output, model))["[INST]"] is None


def test_markup_that_was_added_as_text_matches_the_same_markup():
    special = handmade("a", control=["<tool>"])
    added = handmade("a", "b", markup=["<tool>"])
    for model, output in ((special, added), (added, special)):
        alignment = align(model, output)
        assert sources(alignment)["<tool>"] == "<tool>"
        assert alignment.counts.by_string == 1
        assert not alignment.anchors[-1]


END = "<|endoftext|>"


@pytest.mark.parametrize(
    ("model", "output", "expected"),
    [
        # One token of the model plays two roles.
        (
            {"bos": END, "eos": END},
            {"bos": "<s>", "eos": "</s>"},
            {"<s>": END, "</s>": END},
        ),
        # One token of the output plays two: the end of text counts for more than padding.
        (
            {"bos": "<s>", "eos": "</s>", "pad": "<pad>"},
            {"eos": END, "pad": END},
            {END: "</s>"},
        ),
        # The same spelling in another role: the role counts.
        (
            {"bos": "<s>", "eos": "</s>"},
            {"eos": "<s>"},
            {"<s>": "</s>"},
        ),
        # The very token, which plays one of the roles here as there.
        (
            {"eos": END, "pad": END},
            {"eos": "<|im_end|>", "pad": END},
            {"<|im_end|>": END, END: END},
        ),
        # The very token, in a role that the model has no token for.
        ({"eos": END}, {"pad": END}, {END: END}),
        # No token plays the role.
        ({"eos": "</s>"}, {"mask": "<mask>"}, {"<mask>": None}),
    ],
)
def test_roles(model, output, expected):
    of_model = handmade("a", *dict.fromkeys(model.values()), **model)
    of_output = handmade("b", "a", *dict.fromkeys(output.values()), **output)
    found = sources(align(of_model, of_output))
    assert {token: found[token] for token in expected} == expected


def test_the_same_markup_without_a_role_is_preferred_to_another_token_of_the_role():
    chat = "<|im_end|>"
    model = handmade("a", END, chat, eos=END, control=[chat])
    alignment = align(model, handmade("b", "a", chat, eos=chat))
    assert sources(alignment)[chat] == chat
    assert alignment.match[2] == Match.STRING


def test_padding_that_is_text_takes_part_as_text():
    alignment = align(
        handmade("!", "<pad>", "</s>", pad="<pad>", eos="</s>"),
        handmade("</s>", "!", pad="!", eos="</s>"),
    )
    assert sources(alignment) == {"</s>": "</s>", "!": "!"}
    assert alignment.match[1] == Match.BYTES


def test_rows_that_go_to_several_control_tokens_are_marked():
    model = handmade("a", END, bos=END, eos=END, pad=END)
    output = handmade("<s>", "</s>", "<pad>", "a", bos="<s>", eos="</s>", pad="<pad>")
    alignment = align(model, output)
    assert alignment.source.tolist() == [1, 1, 1, 0]
    # The end of the text keeps the row.
    assert alignment.repeated.tolist() == [True, False, True, False]


def test_no_token_in_common():
    alignment = align(handmade("a"), handmade("b", "c"))
    assert alignment.counts.shared == 0
    assert alignment.source.tolist() == [-1, -1]


def test_added_text_is_what_the_tokenizer_emits():
    model = Vocabulary.from_tokenizer(
        sentencepiece(numbered("▁", "x", "▁x"), [("▁", "x")], markup=[" x"]), "added"
    )
    assert sources(align(model, handmade("▁x", "▁", "x", merges=[("▁", "x")])))["▁x"] == " x"
