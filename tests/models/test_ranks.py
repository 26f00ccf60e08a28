"""How many tokens are likelier than the given one: counted beside its likelihood, for every architecture and under every intervention."""

import numpy as np
import pytest
import torch

from expunge.guards.fixed import fixed
from expunge.models.edited import EditedStates
from expunge.models.language_model import TransformerLM
from expunge.models.logprobs import read_logits
from expunge.models.restricted import RestrictedTokens
from expunge.models.subtracted import Subtracted
from expunge.types import Example, GenerationParams, Prompt
from tests.conftest import FAMILIES, make_family, make_model
from tests.models.test_restricted import Forbidden
from tests.models.test_scoring import EXAMPLES
from tests.models.test_subtracted import first_blocks

PROMPT = Prompt.ask("Where was Mara Olen born?")


def by_hand(lm, example):
    """Ranks the plain way: one forward on one sequence, every position sorted."""
    row = lm.encoder.examples([example])[0]
    with torch.no_grad():
        order = lm.model(torch.tensor([row.ids])).logits[0].argsort(-1, descending=True)
    return [order[i - 1].tolist().index(row.ids[i]) for i in range(row.start, len(row.ids))]


@pytest.mark.parametrize("family", ["llama", *FAMILIES])
def test_ranks_are_places_in_the_sorted_vocabulary(tokenizer, family):
    lm = TransformerLM(make_model(tokenizer) if family == "llama" else make_family(family, tokenizer), tokenizer)  # fmt: skip
    for example, score in zip(EXAMPLES, lm.score(EXAMPLES), strict=True):
        assert score.ranks.tolist() == by_hand(lm, example)
        assert np.array_equal(score.ranks == 0, score.hits)


def test_ranks_are_counted_where_answers_part_and_where_they_do_not():
    torch.manual_seed(0)
    logits = torch.randn(7, 50_000)
    rows = torch.tensor([0, 0, 0, 3, 2, 2, 6])
    targets = torch.tensor([5, 5, 9, 1, 7, 8, 4])
    ranks = read_logits(logits, rows, targets)[3]
    assert ranks.tolist() == [
        int((logits[r] > logits[r, t]).sum()) for r, t in zip(rows, targets, strict=True)
    ]


def test_level_tokens_are_not_likelier_and_what_is_no_number_is_last():
    logits = torch.tensor([[1.0, 1.0, 0.0], [-torch.inf, 2.0, -torch.inf], [torch.nan, 1.0, 2.0]])
    rows, targets = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([1, 2, 1, 2, 0])
    assert read_logits(logits, rows, targets)[3].tolist() == [0, 2, 0, 1, 3]


def changes(lm):
    refusal = lm.tokenizer("I do not know.", add_special_tokens=False)["input_ids"]
    rule = Forbidden(costs=dict.fromkeys(range(100, 200), 3.0))
    return {
        "restricted": RestrictedTokens(lambda text: rule, refusal, list(range(3, len(lm.tokenizer))), 2),
        "subtracted": Subtracted(first_blocks(lm.model, 1), 0.75, 0.9, [2]),
        "edited": EditedStates({0: lambda hidden: -hidden}),
    }


@pytest.mark.parametrize("name", ["restricted", "subtracted", "edited"])
def test_under_an_intervention_ranks_are_those_of_what_it_writes(lm, name):
    change = changes(lm)[name]
    words = [
        word
        for word in sorted(lm.tokenizer.get_vocab())
        if word.strip("Ġ").isalpha() and word.startswith("Ġ")
    ]
    answers = [word[1:] for word in words]
    scores = lm.score([Example(PROMPT, answer) for answer in answers], change, [True] * len(answers))
    plain = lm.score([Example(PROMPT, answer) for answer in answers])
    kept = [score for score in scores if not score.floored]
    assert len(kept) > 20
    first = sorted(kept, key=lambda score: -score.token_logprobs[0])
    ranks = [int(score.ranks[0]) for score in first]
    assert ranks == sorted(ranks)
    assert ranks != [int(score.ranks[0]) for score in sorted(plain, key=lambda s: -s.token_logprobs[0])]
    said = lm.generate([PROMPT], GenerationParams(max_new_tokens=1), change, [True])[0][0].text
    for answer, score in zip(answers, scores, strict=True):
        assert bool(score.ranks[0] == 0 and not score.floored) == (answer == said)


def test_a_fixed_text_has_no_ranks(lm):
    (plain,) = lm.score([Example(PROMPT, "I do not know.")])
    assert plain.ranks is not None
    assert fixed(Example(PROMPT, "I do not know."), plain, "I do not know.").ranks is None
