"""Greedy answers in which rows leave: the tokens are those of `generate`, for every prompt and every architecture that keeps a cache."""

import pytest
import torch

from expunge.data.batching import collate
from expunge.models import greedy
from expunge.models.greedy import write_greedily, writes_as_generate
from expunge.models.language_model import TransformerLM
from expunge.types import GenerationParams, Prompt
from tests.conftest import FAMILIES, make_family, make_model
from tests.models.cases import ASKED, PROMPTS


def by_generate(lm, batch, tokens, ends):
    config = lm.generation_config(GenerationParams(max_new_tokens=tokens))
    config.eos_token_id = sorted(ends)
    with torch.inference_mode():
        out = lm.model.generate(batch.ids, attention_mask=batch.attention, generation_config=config)
    rows = out[:, batch.ids.shape[1] :].tolist()
    cut = [next((i + 1 for i, token in enumerate(row) if token in ends), len(row)) for row in rows]
    return [row[:n] for row, n in zip(rows, cut, strict=True)]


@pytest.mark.parametrize("leaves", [1, 8])
@pytest.mark.parametrize("family", ["llama", *FAMILIES])
def test_the_tokens_are_those_of_generate(tokenizer, family, leaves, monkeypatch):
    monkeypatch.setattr(greedy, "LEAVES", leaves)
    model = make_model(tokenizer) if family == "llama" else make_family(family, tokenizer)
    lm = TransformerLM(model, tokenizer)
    batch = collate(lm.encoder.prompts(PROMPTS), lm.pad_id, side="left")
    whole = by_generate(lm, batch, 12, {2})
    for ends in ({2}, {whole[0][1], whole[2][4]}, {whole[1][0]}):
        expected = by_generate(lm, batch, 12, ends)
        assert write_greedily(lm.model, batch, 12, ends) == expected
    assert len({len(row) for row in by_generate(lm, batch, 12, {whole[0][1], whole[2][4]})}) > 1


def test_rows_that_have_ended_cost_nothing_more(lm):
    batch = collate(lm.encoder.prompts(PROMPTS), lm.pad_id, side="left")
    first = by_generate(lm, batch, 8, {2})
    fed = []
    hook = lm.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    rows = write_greedily(lm.model, batch, 8, {first[0][0], first[3][2]})
    hook.remove()
    assert sum(fed) < len(fed) * len(ASKED)
    assert sum(fed) <= sum(len(row) for row in rows) + len(rows)


def test_a_model_that_cannot_is_answered_by_generate(lm, monkeypatch):
    params = GenerationParams(max_new_tokens=6)
    before = lm.generate(PROMPTS, params)
    assert lm._leaves_rows
    other = TransformerLM(lm.model, lm.tokenizer)

    def broken(*arguments):
        raise ValueError

    monkeypatch.setattr(greedy, "write_greedily", broken)
    assert not writes_as_generate(lm.model, lm.generation_config(params), lm.pad_id)
    assert other.generate(PROMPTS, params) == before


def test_what_a_checkpoint_wants_of_every_answer_is_not_lost(lm):
    """A repetition penalty of the checkpoint's own, where transformers takes it over, is seen when the model is tried out."""
    config = lm.generation_config(GenerationParams(max_new_tokens=6))
    config.no_repeat_ngram_size = 1
    config.repetition_penalty = 50.0
    assert not writes_as_generate(lm.model, config, lm.pad_id)


def test_prompts_in_other_batches_draw_for_themselves(lm):
    """Scores that hardly depend on the prompt, so that equal draws would give equal answers."""
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.mul_(0.05)
    params = GenerationParams(max_new_tokens=12, sample=True)
    answers = [lm.generate([Prompt.ask(text)], params)[0][0].text for text in ASKED]
    assert len(set(answers)) == len(ASKED)
    assert [lm.generate([Prompt.ask(text)], params)[0][0].text for text in ASKED] == answers
