"""Over-encoded models generate with a cache what they generate without one, or say why not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, some_ids, tiny_grown

LENGTH = {"max_new_tokens": 9, "min_new_tokens": 9, "pad_token_id": 0}


@pytest.fixture(scope="module")
def grown() -> Any:
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            made[name] = tiny_grown(name)
        return made[name]

    return get


@pytest.fixture(scope="module")
def llama(grown: Any) -> Any:
    return grown("LlamaForCausalLM")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_cache_changes_nothing(name: str, grown: Any) -> None:
    model, ids = grown(name), some_ids(2, 8)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    ids[0, :3] = 0
    for settings in ({}, {"do_sample": True}, {"num_beams": 3}):
        texts = []
        for use_cache in (True, False):
            torch.manual_seed(3)
            texts.append(
                model.generate(ids, attention_mask=mask, use_cache=use_cache, **LENGTH, **settings)
            )
        assert torch.equal(*texts), settings
    # The tables matter to what is said: without them it is another text.
    bare = copy.deepcopy(model)
    for table in bare.over_encoding.tables:
        torch.nn.init.zeros_(table.weight)
    assert not torch.equal(bare.generate(ids, attention_mask=mask, **LENGTH), texts[0])


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Gemma2ForCausalLM", "OlmoeForCausalLM"])
def test_assisted_generation_is_greedy_generation(name: str, grown: Any) -> None:
    model, ids = grown(name), some_ids(1, 8)
    greedy = model.generate(ids, do_sample=False, **LENGTH)
    other = tiny_grown(name, tables=[(2, 67)])
    for settings in ({"assistant_model": other}, {"prompt_lookup_num_tokens": 3}):
        assert torch.equal(model.generate(ids, do_sample=False, **LENGTH, **settings), greedy)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Olmo2ForCausalLM"])
def test_padding_on_either_side_is_before_the_start(name: str, grown: Any) -> None:
    model, ids = grown(name), some_ids(1, 7)
    alone = model(ids).logits[0]
    pads = torch.full((1, 3), 5)
    ones, zeros = torch.ones_like(ids), torch.zeros_like(pads)
    left = model(torch.cat([pads, ids], 1), attention_mask=torch.cat([zeros, ones], 1)).logits[0]
    right = model(torch.cat([ids, pads], 1), attention_mask=torch.cat([ones, zeros], 1)).logits[0]
    assert torch.allclose(left[3:], alone, atol=1e-5)
    assert torch.allclose(right[:7], alone, atol=1e-5)


def test_rows_of_a_batch_are_what_they_are_alone(llama: Any) -> None:
    ids = some_ids(3, 6)
    together = llama.generate(ids, do_sample=False, **LENGTH)
    for row, text in zip(ids, together, strict=True):
        assert torch.equal(llama.generate(row[None], do_sample=False, **LENGTH)[0], text)


def test_packed_sequences_begin_anew_at_position_0(llama: Any) -> None:
    first, second = some_ids(1, 5, seed=1), some_ids(1, 6, seed=2)
    positions = torch.cat([torch.arange(5), torch.arange(6)])[None]
    ids = torch.cat([first, second], 1)
    # transformers keeps the attention of packed sequences apart by the same positions, uncached.
    packed = llama(ids, position_ids=positions, use_cache=False).logits[0]
    assert torch.allclose(packed[:5], llama(first).logits[0], atol=1e-5)
    assert torch.allclose(packed[5:], llama(second).logits[0], atol=1e-5)


def test_a_static_cache_and_a_cache_that_goes_on(llama: Any) -> None:
    ids = some_ids(2, 8)
    greedy = llama.generate(ids, do_sample=False, **LENGTH)
    static = llama.generate(
        ids, do_sample=False, cache_implementation="static", disable_compile=True, **LENGTH
    )
    assert torch.equal(static, greedy)
    begun = llama.generate(ids, do_sample=False, return_dict_in_generate=True, max_new_tokens=4)
    goes_on = llama.generate(
        begun.sequences, past_key_values=begun.past_key_values, max_new_tokens=5, min_new_tokens=5
    )
    assert torch.equal(goes_on, greedy)


def test_a_compiled_model_answers_the_same(llama: Any) -> None:
    ids = some_ids(2, 8)
    with torch.no_grad():
        compiled = torch.compile(llama, backend="eager")
        assert torch.allclose(compiled(ids).logits, llama(ids).logits, atol=1e-5)
        known = llama.ngrams_of(ids)
        whole = torch.compile(llama, backend="eager", fullgraph=True)
        found = whole(input_ids=ids, ngrams=known, use_cache=False).logits
        assert torch.allclose(found, llama(ids).logits, atol=1e-5)


def test_what_is_not_known_is_an_error(llama: Any) -> None:
    ids = some_ids(1, 8)
    cache = llama(ids, use_cache=True).past_key_values
    one = ids[:, :1]
    with pytest.raises(ValueError, match="cache of 8 tokens: the ids before it are not known"):
        llama(one, past_key_values=cache)
    with pytest.raises(ValueError, match="at position 8"):
        llama(one, position_ids=torch.tensor([[8]]))
    # Two requests in one flat row, the first in the middle of its text: as engines do.
    with pytest.raises(ValueError, match="at position 4"):
        llama(ids, position_ids=torch.tensor([[4, 0, 1, 2, 3, 4, 5, 6]]))
    with pytest.raises(ValueError, match="at position 3"):
        llama(ids[:, :4], position_ids=torch.tensor([[0, 1, 3, 4]]))
    with pytest.raises(ValueError, match="packed"):
        llama(ids, cu_seq_lens_q=torch.tensor([0, 4, 8]))
    with pytest.raises(ValueError, match="is not \\[batch, length\\]"):
        llama(ids, attention_mask=torch.ones(1, 1, 8, 8))
    with pytest.raises(ValueError, match="prefill_chunk_size"):
        llama.generate(ids, prefill_chunk_size=3, max_new_tokens=2)
    with pytest.raises(ValueError, match="cache of 1 tokens"):
        llama.generate(ids, guidance_scale=1.5, max_new_tokens=3)
    with pytest.raises(ValueError, match="has the shape"):
        llama(ids, ngrams=torch.zeros(1, 8, 2, dtype=torch.long))


def test_embeddings_in_the_place_of_ids_are_refused(llama: Any) -> None:
    ids = some_ids(1, 4)
    rows = llama.get_input_embeddings().weight[ids]
    for call in (llama, llama.generate):
        with pytest.raises(ValueError, match="inputs_embeds"):
            call(inputs_embeds=rows)
    with pytest.raises(ValueError, match="input_ids"):
        llama(ids, inputs_embeds=rows)
    # What is within the model would answer without the tables.
    for inner in (llama.model, llama.get_input_embeddings()):
        with pytest.raises(RuntimeError, match="Call the model as a whole"):
            inner(ids)


def test_ids_that_a_caller_knows_can_be_given(llama: Any) -> None:
    """A loop of one's own: `ngrams` with a cache."""
    from mergekit_omp.growth.ngrams import windows

    ids = some_ids(1, 8)
    whole = llama(ids).logits[0, -1]
    cache = llama(ids[:, :-1], use_cache=True).past_key_values
    last = llama(ids[:, -1:], past_key_values=cache, ngrams=windows(ids, 3)[:, -1:]).logits[0, -1]
    assert torch.allclose(last, whole, atol=1e-5)
