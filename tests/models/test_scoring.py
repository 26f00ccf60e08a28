"""Scoring along prefix trees gives what one forward a sequence gives, and pushes each distinct token once."""

import numpy as np
import pytest
import torch

from expunge.models.language_model import TransformerLM
from expunge.types import Example, GenerationParams, Prompt
from tests.conftest import FAMILIES, make_family

QUESTIONS = ["Where was Mara Olen born?", "What did the father of Tovin Brask do?", "Who taught Mara Brask?"]
ANSWERS = [
    "Mara Olen was born in Corvale.",
    "Mara Olen was a baker.",
    "He worked as a librarian.",
    "I do not know.",
]
EXAMPLES = [Example(Prompt.ask(q), a) for q in QUESTIONS for a in ANSWERS] + [
    Example(None, "the quick brown fox")
]


def one_by_one(lm, example):
    """Log-probabilities the plain way: transformers' own forward on one sequence, every position projected."""
    row = lm.encoder.examples([example])[0]
    ids = torch.tensor([row.ids])
    with torch.no_grad():
        logp = lm.model(ids).logits[0].log_softmax(-1)
    return np.array([float(logp[i - 1, row.ids[i]]) for i in range(row.start, len(row.ids))])


def check(lm, tolerance=2e-5):
    for example, score in zip(EXAMPLES, lm.score(EXAMPLES), strict=True):
        assert np.allclose(score.token_logprobs, one_by_one(lm, example), atol=tolerance)


def test_scores_equal_one_forward_per_sequence(lm):
    assert lm._follows_trees
    check(lm)


def test_each_distinct_token_is_pushed_once_and_only_answer_positions_are_projected(lm):
    lm.score(EXAMPLES + EXAMPLES)
    rows = lm.encoder.examples(EXAMPLES)
    prefixes = {
        (i // len(ANSWERS), *row.ids[:n]) for i, row in enumerate(rows) for n in range(1, len(row.ids))
    }
    predicting = {
        (i // len(ANSWERS), *row.ids[:n])
        for i, row in enumerate(rows)
        for n in range(row.start, len(row.ids))
    }
    work = lm.work
    assert work.distinct_tokens == len(prefixes)
    assert work.projected == work.distinct_answers == len(predicting)
    assert work.tokens <= 1.05 * work.distinct_tokens


def test_hits_say_whether_the_likeliest_token_is_the_given_one(lm):
    prompt = Prompt.ask(QUESTIONS[0])
    (row,) = lm.encoder.prompts([prompt])
    with torch.no_grad():
        best = int(lm.model(torch.tensor([row.ids])).logits[0, -1].argmax())
    score = lm.score([Example(prompt, ANSWERS[0])])[0]
    given = lm.encoder.examples([Example(prompt, ANSWERS[0])])[0].ids[row.start]
    assert bool(score.hits[0]) == (best == given)


@pytest.mark.parametrize("family", FAMILIES)
def test_other_architectures_score_alike(tokenizer, family):
    """A mixture of experts, a model that caps its logits after the head, and one without grouped heads."""
    lm = TransformerLM(make_family(family, tokenizer), tokenizer)
    check(lm, 1e-4)


def test_answers_longer_than_a_sliding_window_are_scored_as_the_window_has_it(tokenizer):
    """A packed tree has no window, so such answers are scored one by one."""
    model = make_family("gemma2", tokenizer)
    model.config.sliding_window = 8
    narrow = TransformerLM(type(model)(model.config).eval(), tokenizer)
    narrow.model.load_state_dict(model.state_dict())
    check(narrow, 1e-4)


def test_a_model_that_cannot_follow_trees_is_found_out_and_scored_plainly(tokenizer):
    """A recurrent model reads its input in order, whatever the mask says; the self-test sees it."""
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    model = MambaForCausalLM(
        MambaConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=8, pad_token_id=0
        )
    )
    lm = TransformerLM(model.eval(), tokenizer)
    lm.encoder.max_tokens = 128
    assert not lm._follows_trees
    check(lm, 1e-4)


def test_scoring_leaves_no_hook_behind(lm):
    lm.score(EXAMPLES)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())


def test_generation_equals_transformers_greedy_decoding(lm):
    params = GenerationParams(max_new_tokens=8)
    answers = lm.generate([Prompt.ask(q) for q in QUESTIONS], params)
    for question, (answer,) in zip(QUESTIONS, answers, strict=True):
        (row,) = lm.encoder.prompts([Prompt.ask(question)])
        ids = torch.tensor([row.ids])
        out = lm.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=0
        )
        assert answer.text == lm.tokenizer.decode(out[0, len(row.ids) :], skip_special_tokens=True).strip()


def test_sampling_repeats_by_seed_and_differs_between_copies(lm):
    params = GenerationParams(max_new_tokens=8, sample=True, copies=4, seed=3)
    first = lm.generate([Prompt.ask(QUESTIONS[0])], params)
    assert first == lm.generate([Prompt.ask(QUESTIONS[0])], params)
    assert len({answer.text for answer in first[0]}) > 1


def test_an_unfinished_and_a_finished_answer_are_told_apart(lm):
    words = lm.tokenizer(" in Corvale", add_special_tokens=False)["input_ids"]
    finished, unfinished = lm._read([*words, 2, 0, 0]), lm._read(words)
    assert (finished.text, finished.tokens, finished.finished) == ("in Corvale", len(words) + 1, True)
    assert (unfinished.text, unfinished.tokens, unfinished.finished) == ("in Corvale", len(words), False)
