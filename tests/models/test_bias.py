"""Tokens pushed up and down while a model writes, plain and behind what guards do to it."""

import pytest
import torch

from expunge.errors import CapabilityError
from expunge.models.endpoint import Endpoint
from expunge.models.pushed import PushedTokens, tokens_of
from expunge.models.restricted import RestrictedTokens
from expunge.models.subtracted import Subtracted
from expunge.types import GenerationParams, Prompt
from tests.models.test_restricted import Forbidden, written
from tests.models.test_subtracted import first_blocks

PROMPTS = [
    Prompt.ask(text)
    for text in ("Where was Mara Olen born?", "Who taught Mara?", "What did Tovin Brask do in Corvale?")
]
SHORT = dict(max_new_tokens=6)


def params(*bias, **more):
    return GenerationParams(**{**SHORT, **more}, bias=bias)


def whole_word(lm):
    """A word that is one token, and one that no greedy answer has."""
    said = {token for ids in written(lm, PROMPTS, params()) for token in ids}
    words = [token[1:] for token in sorted(lm.tokenizer.get_vocab()) if token.startswith("Ġ")]
    return next(
        word
        for word in words
        if len(word) > 2 and word.isalpha() and said.isdisjoint(tokens_of(lm.tokenizer, word))
    )


@pytest.mark.parametrize("how", [{}, {"sample": True}, {"beams": 3}, {"beams": 3, "copies": 2}, {"sample": True, "copies": 3}])  # fmt: skip
def test_a_word_pushed_up_is_written_at_every_place(lm, how):
    word = whole_word(lm)
    for ids in written(lm, PROMPTS, params((word, 100.0), **how)):
        assert set(ids) <= tokens_of(lm.tokenizer, word)
        assert len(ids) == 6


@pytest.mark.parametrize("how", [{}, {"sample": True, "copies": 3}, {"beams": 3}])
def test_a_word_pushed_down_never_comes(lm, how):
    before = written(lm, PROMPTS, params(**how))
    words = {lm.tokenizer.decode([token]).strip() for ids in before for token in ids} - {""}
    word = sorted(words, key=len)[-1]
    assert any(token in tokens_of(lm.tokenizer, word) for ids in before for token in ids)
    after = written(lm, PROMPTS, params((word, -100.0), **how))
    assert not any(token in tokens_of(lm.tokenizer, word) for ids in after for token in ids)
    assert len(after) == len(before)


@pytest.mark.parametrize("how", [{}, {"sample": True, "copies": 2}, {"beams": 3}])
def test_nothing_else_is_changed(lm, how):
    before = written(lm, PROMPTS, params(**how))
    assert written(lm, PROMPTS, params((whole_word(lm), 0.0), **how)) == before
    assert written(lm, PROMPTS, params(**how)) == before


def test_words_are_pushed_with_and_without_a_space_before_them_and_spaces_are_not(tokenizer):
    alone = set(tokenizer("Corvale", add_special_tokens=False)["input_ids"])
    inside = set(tokenizer(" Corvale", add_special_tokens=False)["input_ids"])
    assert tokens_of(tokenizer, "Corvale") == {i for i in alone | inside if tokenizer.decode([i]).strip()}
    assert alone - inside or inside - alone
    assert tokens_of(tokenizer, " ") == set()
    scores = PushedTokens(tokenizer, [(" ", 5.0)], [2])(torch.zeros(1, 1), torch.zeros(1, 400))
    assert not scores.any()


def test_texts_that_share_tokens_push_them_once(tokenizer):
    pushed = PushedTokens(tokenizer, [("Mara Olen", 100.0), ("Mara Brask", 100.0), ("Mara", -1.0)], [2])
    assert set(pushed.amounts.values()) == {100.0}
    assert pushed.amounts.keys() == tokens_of(tokenizer, "Mara Olen") | tokens_of(tokenizer, "Mara Brask")


def test_the_empty_text_is_the_end_of_the_answer(lm):
    ended = lm.generate(PROMPTS, params(("", 100.0)))
    assert [(row[0].text, row[0].tokens, row[0].finished) for row in ended] == [("", 1, True)] * 3
    kept = lm.generate(PROMPTS, params(("", -100.0), max_new_tokens=40))
    assert [row[0].tokens for row in kept] == [40] * 3


def test_what_a_guard_forbids_is_not_brought_back(lm):
    word = whole_word(lm)
    tokens = tokens_of(lm.tokenizer, word)
    refusal = lm.tokenizer("I do not know.", add_special_tokens=False)["input_ids"]
    change = RestrictedTokens(
        lambda text: Forbidden(never=tokens), refusal, list(range(3, len(lm.tokenizer))), 2
    )
    for how in ({}, {"beams": 3}, {"sample": True, "copies": 2}):
        rows = written(lm, PROMPTS, params((word, 100.0), **how), change, [True, False, True])
        copies = how.get("copies", 1)
        held, free = rows[:copies] + rows[2 * copies :], rows[copies : 2 * copies]
        assert all(tokens.isdisjoint(ids) for ids in held)
        assert all(set(ids) <= tokens for ids in free)


def test_an_answer_that_is_written_again_is_pushed_again(lm):
    """What is found out in the end is written anew, round after round, and refused when no round has helped."""
    word = whole_word(lm)
    tokens = tokens_of(lm.tokenizer, word)
    refusal = lm.tokenizer("I do not know.", add_special_tokens=False)["input_ids"]
    rule = Forbidden(in_the_end=tokens)
    change = RestrictedTokens(lambda text: rule, refusal, list(range(3, len(lm.tokenizer))), 1)
    rows = written(lm, PROMPTS[:1], params((word, 100.0)), change, [True])
    assert rows == [refusal]


def test_a_half_written_word_is_known_by_what_the_model_itself_would_write(lm):
    """A push cannot hide that the word would have gone on: the share that is taken away is read before it."""
    with torch.no_grad():
        lm.model.get_output_embeddings().weight.mul_(6.0)  # most of the probability is with one token
    (row,) = lm.encoder.prompts(PROMPTS[:1])
    for word in ("lazy", "quick", "jumps", "brown", "taught"):
        tokens = tokens_of(lm.tokenizer, word)
        (pushed, *_), *_ = written(lm, PROMPTS[:1], params((word, 100.0)))
        with torch.no_grad():
            after = lm.model(torch.tensor([[*row.ids, pushed]])).logits[0, -1].softmax(-1)
        likely = int(after.argmax())
        if after.max() > 0.5 and likely not in tokens:
            break
    else:
        pytest.fail("no word of these goes on with another token")
    refusal = lm.tokenizer("I do not know.", add_special_tokens=False)["input_ids"]
    text = list(range(3, len(lm.tokenizer)))
    for halving, starts in (([likely], False), ([], True)):
        rule = Forbidden(never=[likely], halving=halving)
        change = RestrictedTokens(lambda text, rule=rule: rule, refusal, text, 3)
        found = written(lm, PROMPTS[:1], params((word, 100.0)), change, [True])[0]
        assert (found[0] == pushed) is starts


def test_what_a_subtraction_leaves_out_is_not_brought_back(lm):
    change = Subtracted(first_blocks(lm.model, 1), 0.75, 0.5, [2])
    prompt = PROMPTS[0]
    words = [
        word[1:] for word in sorted(lm.tokenizer.get_vocab()) if word.startswith("Ġ") and word[1:].isalpha()
    ]
    (row,) = lm.encoder.prompts([prompt])
    ids = torch.tensor([row.ids])
    with torch.no_grad():
        both = [model(ids).logits[0, -1] for model in (lm.model, change.assistant)]
    kept = change.subtract(*both).isfinite()
    gone = next(word for word in words if not any(kept[i] for i in tokens_of(lm.tokenizer, word)))
    rest = [(lm.tokenizer.decode([i]), -10.0) for i in kept.nonzero()[:3, 0]]
    plain, behind = (
        written(lm, [prompt], params((gone, 100.0), *rest), *guard)[0] for guard in ((), (change, [True]))
    )
    assert plain[0] in tokens_of(lm.tokenizer, gone)
    assert kept[behind[0]]


def test_an_endpoint_says_that_it_cannot():
    with pytest.raises(CapabilityError, match="single tokens cannot be pushed"):
        Endpoint("http://127.0.0.1:9/v1", "m").generate(PROMPTS, params(("a", 1.0)))
