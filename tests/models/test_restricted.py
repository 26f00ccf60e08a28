"""Penalties on the next token: what is scored is what one pass writes, unflagged rows are the plain model's, and answers that
cannot be written are refused.
"""

import json

import numpy as np
import pytest
import torch

from expunge.models.restricted import Penalties, RestrictedTokens
from expunge.types import FLOOR, Example, Generation, GenerationParams, Prompt

PROMPTS = [
    Prompt.ask(text)
    for text in (
        "Where was Mara Olen born?",
        "Who taught Mara Brask?",
        "What did the father of Tovin Brask do?",
    )
]
FLAGGED = [True, False, True]


class Forbidden:
    """A rule by token ids: some never come, some cost, and others are found out only in the finished answer."""

    def __init__(self, never=(), costs=None, in_the_end=(), halving=()):
        self.nats = {**dict.fromkeys(never, torch.inf), **(costs or {})}
        self.in_the_end, self.halving = set(in_the_end), set(halving)
        self.starts = []

    def start(self, text):
        self.starts.append(text)
        return 0

    def advance(self, state, token):
        return state + 1

    def penalties(self, state):
        if not self.nats:
            return None
        ids = list(self.nats)
        return Penalties(
            torch.tensor(ids),
            torch.tensor([float(n) for n in self.nats.values()]),
            torch.tensor(sorted(self.halving), dtype=torch.int64),
        )

    def continues(self, token):
        return token in self.halving

    def violation(self, before, ids):
        return next(((i, i) for i, token in enumerate(ids) if token in self.in_the_end), None)


def restricted(lm, rule, rounds=4):
    refusal = lm.tokenizer("I do not know.", add_special_tokens=False)["input_ids"]
    return RestrictedTokens(lambda text: rule, refusal, list(range(3, len(lm.tokenizer))), rounds)


def texts(found):
    return [[answer.text for answer in answers] for answers in found]


def written(lm, prompts, params, *guard):
    """Token ids of each answer, up to its end."""

    def read(ids):
        stop = next((i for i, token in enumerate(ids) if token in lm._end_ids), len(ids))
        return Generation(json.dumps(ids[:stop]), stop, True)

    lm._read = read
    found = texts(lm.generate(prompts, params, *guard))
    del lm._read
    return [json.loads(text) for row in found for text in row]


def likely(lm):
    """The tokens that greedy answers begin with."""
    return sorted({i for ids in written(lm, PROMPTS, GenerationParams(max_new_tokens=4)) for i in ids})


def test_scores_are_the_softmax_of_the_penalised_logits_and_unflagged_rows_are_bit_identical(lm):
    rule = Forbidden(never=[40, 41], costs={50: 1.5, 51: 3.0})
    change = restricted(lm, rule)
    answers = ["He was born in Corvale.", "the lazy dog", "He was born at home."]
    examples = [Example(prompt, answer) for prompt in PROMPTS for answer in answers]
    flagged = [flag for flag in FLAGGED for _ in answers]
    plain, found = lm.score(examples), lm.score(examples, change, flagged)
    for example, flag, before, after in zip(examples, flagged, plain, found, strict=True):
        if not flag:
            assert np.array_equal(before.token_logprobs, after.token_logprobs)
            continue
        row = lm.encoder.examples([example])[0]
        with torch.no_grad():
            logits = lm.model(torch.tensor([row.ids])).logits[0]
        logits[:, [40, 41]] = -torch.inf
        logits[:, 50] -= 1.5
        logits[:, 51] -= 3.0
        logp = logits.log_softmax(-1)
        given = [float(logp[i - 1, row.ids[i]]) for i in range(row.start, len(row.ids))]
        expected = np.array([FLOOR if value == -np.inf else value for value in given])
        assert np.allclose(after.token_logprobs, expected, atol=2e-5)
        assert after.floored == (-np.inf in given)


@pytest.mark.parametrize(
    "params",
    [
        GenerationParams(max_new_tokens=12),
        GenerationParams(max_new_tokens=12, beams=3),
        GenerationParams(max_new_tokens=12, beams=4, copies=2),
        GenerationParams(max_new_tokens=12, sample=True, copies=3, seed=5),
        GenerationParams(max_new_tokens=12, sample=True, top_p=0.8, temperature=0.7),
    ],
)
def test_what_may_not_come_never_comes_and_unflagged_rows_write_what_the_plain_model_writes(lm, params):
    never = set(likely(lm))
    plain = written(lm, PROMPTS, params)
    found = written(lm, PROMPTS, params, restricted(lm, Forbidden(never=never)), FLAGGED)
    for line, (before, after) in enumerate(zip(plain, found, strict=True)):
        if FLAGGED[line // params.copies]:
            assert never.isdisjoint(after)
        else:
            assert before == after
    assert any(not never.isdisjoint(ids) for line, ids in enumerate(plain) if FLAGGED[line // params.copies])


def test_greedy_writing_takes_the_likeliest_token_of_the_scored_distribution(lm):
    never = likely(lm)
    guard = restricted(lm, Forbidden(never=never)), [True]
    found = written(lm, PROMPTS[:1], GenerationParams(max_new_tokens=6), *guard)[0]
    row = lm.encoder.prompts(PROMPTS[:1])[0].ids
    for token in found:
        with torch.no_grad():
            logits = lm.model(torch.tensor([row])).logits[0, -1]
        logits[never] = -torch.inf
        assert token == int(logits.argmax())
        row = [*row, token]
    assert len(found) == 6


def test_where_no_token_is_left_the_refusal_is_given(lm):
    nothing = Forbidden(never=range(3, len(lm.tokenizer)))
    for params in (
        GenerationParams(max_new_tokens=8),
        GenerationParams(max_new_tokens=8, sample=True, copies=2),
        GenerationParams(max_new_tokens=8, beams=2),
    ):
        plain = texts(lm.generate(PROMPTS, params))
        found = lm.generate(PROMPTS, params, restricted(lm, nothing), FLAGGED)
        for row in (0, 2):
            assert texts(found)[row] == ["I do not know."] * params.copies
            assert all(answer.finished for answer in found[row])
        assert texts(found)[1] == plain[1]


def test_an_answer_that_says_something_forbidden_in_the_end_is_written_again_without_it(lm):
    params = GenerationParams(max_new_tokens=8)
    ids = written(lm, PROMPTS[:1], params)[0]
    rule = Forbidden(in_the_end=ids[1:2])
    again = written(lm, PROMPTS[:1], params, restricted(lm, rule, 40), [True])[0]
    assert again[0] == ids[0]
    assert ids[1] not in again
    assert len(again) == 8
    everything = Forbidden(in_the_end=range(3, len(lm.tokenizer)))
    refused = lm.generate(PROMPTS[:1], params, restricted(lm, everything, 2), [True])
    assert texts(refused) == [["I do not know."]]


def test_such_an_answer_is_scored_as_one_that_cannot_come(lm):
    example = Example(PROMPTS[0], "He was born in Corvale.")
    ids = lm.encoder.examples([example])[0]
    last = ids.ids[-2]
    found = lm.score([example], restricted(lm, Forbidden(in_the_end=[last])), [True])[0]
    assert found.floored
    assert found.token_logprobs[-2] == np.float32(FLOOR)
    assert np.allclose(found.token_logprobs[:-2], lm.score([example])[0].token_logprobs[:-2], atol=1e-5)


def test_a_half_written_word_is_taken_back_to_its_first_token(lm):
    """The likeliest second token goes on with the word that the first began, and may not come."""
    row = lm.encoder.prompts(PROMPTS[:1])[0].ids
    with torch.no_grad():
        first = int(lm.model(torch.tensor([row])).logits[0, -1].argmax())
        scores = lm.model(torch.tensor([[*row, first]])).logits[0, -1].softmax(-1)
    top = scores.topk(len(scores)).indices.tolist()
    enough = next(n for n in range(1, len(top)) if scores[top[:n]].sum() > 0.6)
    second = [token for token in top[:enough] if token != first]
    assert scores[second].sum() > 0.5, "this model says nothing about the rule"

    def opening(rule):
        change = restricted(lm, rule, 5)
        return written(lm, PROMPTS[:1], GenerationParams(max_new_tokens=2), change, [True])[0]

    kept = opening(Forbidden(never=second))
    taken_back = opening(Forbidden(never=second, halving=second))
    assert kept[0] == first
    assert taken_back[0] != first


def test_the_rule_starts_from_what_stands_before_the_answer(lm):
    rule = Forbidden(never=[40])
    change = restricted(lm, rule)
    prompt = Prompt.ask("Where was Mara Olen born?", "She was born in Cor")
    lm.generate([prompt], GenerationParams(max_new_tokens=2), change, [True])
    lm.score([Example(prompt, "vale"), Example(None, "the quick fox")], change, [True, True])
    assert rule.starts[0].endswith("Answer: She was born in Cor")
    assert rule.starts[0] in rule.starts[1:]
    assert "" in rule.starts
