"""States put from one model into another: what the model before unlearning still reads from the artifact's."""

import pytest
import torch

from expunge.attacks._case import cases_of
from expunge.attacks._lens import before_value
from expunge.attacks._recall import recalled
from expunge.attacks.activation_patching import ActivationPatching, answered, name_ends, states_of
from expunge.models.language_model import TransformerLM
from tests.attacks.leaky import CASES, rows
from tests.attacks.opening import FAMILIES, family, of_model, of_world, right, weights, wrong
from tests.attacks.test_lenses import deaf_at_the_end
from tests.conftest import make_model


def _rows(lm):
    spots = before_value(lm, CASES[:6])
    return [spot.row for spot in spots], [name_ends(spot.row, CASES[spot.case].name) for spot in spots]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_models_own_states_change_nothing(name, tokenizer):
    lm = family(name, tokenizer)
    prompts, ends = _rows(lm)
    plain = answered(lm, prompts)
    for block, states in enumerate(states_of(lm, prompts, ends)):
        put = answered(lm, prompts, block, ends, states)
        torch.testing.assert_close(put.logp, plain.logp, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(put.first, plain.first, atol=1e-5, rtol=1e-4)


def test_other_states_change_the_answer_and_only_where_they_are_put(lm):
    prompts, ends = _rows(lm)
    plain = answered(lm, prompts)
    states = states_of(lm, prompts, ends)[0]
    other = [states[0] + 1.0, *states[1:]]
    put = answered(lm, prompts, 0, ends, other)
    assert not torch.allclose(put.first[0], plain.first[0])
    torch.testing.assert_close(put.first[1:], plain.first[1:], atol=1e-5, rtol=1e-4)
    # behind the last block the name's states reach no later token
    last = [state + 1.0 for state in states_of(lm, prompts, ends)[1]]
    torch.testing.assert_close(answered(lm, prompts, 1, ends, last).first, plain.first, atol=1e-5, rtol=1e-4)


def test_patching_everything_is_running_the_other_models_lower_blocks(lm, tokenizer):
    """By hand: all states behind block 0, put in at every token."""
    torch.manual_seed(5)
    other = TransformerLM(make_model(tokenizer), tokenizer)
    for parameter in other.model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    prompts, _ = _rows(lm)
    everywhere = [list(range(len(row.ids))) for row in prompts]
    put = answered(lm, prompts, 0, everywhere, states_of(other, prompts, everywhere)[0])
    other.model.model.layers[1] = lm.model.model.layers[1]
    other.model.model.norm, other.model.lm_head = lm.model.model.norm, lm.model.lm_head
    torch.testing.assert_close(put.logp, answered(other, prompts).logp, atol=1e-5, rtol=1e-4)


def test_the_likelihood_is_the_values_own(lm):
    from expunge.types import Example, Prompt

    prompts, _ = _rows(lm)
    scores = lm.score([Example(Prompt.ask(c.question, c.head), c.value) for c in CASES[:6]])
    expected = [float(score.token_logprobs[:-1].mean()) for score in scores]
    assert answered(lm, prompts).logp.tolist() == pytest.approx(expected, abs=1e-4)


def test_every_mention_of_a_name_is_found_at_its_last_token(lm):
    prompts, ends = _rows(lm)
    for row, found, case in zip(prompts, ends, CASES, strict=False):
        assert len(found) == row.text[: row.head].count(case.name) == 2
        for at in found:
            assert row.text[: row.offsets[at][1]].endswith(case.name)


def test_a_name_that_ends_in_a_letter_of_several_tokens_ends_at_the_last_of_them(lm):
    case = cases_of(rows(("Mara Olé",)), (), ("Mara Olé",))[0]
    (spot,) = before_value(lm, [case])
    ends = name_ends(spot.row, case.name)
    assert len(ends) == 2
    for at in ends:
        assert spot.row.text[: spot.row.offsets[at][1]].endswith("Olé")
        assert spot.row.offsets[at + 1] != spot.row.offsets[at]


# --- what is found -----------------------------------------------------------------------------------------------------------
def test_the_original_reads_its_own_states_and_not_those_of_a_model_that_never_knew(tiny_world):
    target = ActivationPatching().read(of_world(tiny_world, "target"))
    gold = ActivationPatching().read(of_world(tiny_world, "gold"))
    assert right(target.found) >= 0.9
    assert right(gold.found) <= 0.17
    assert wrong(gold.found) <= 0.1
    assert target.notes["before the value, kept, block 0"] == pytest.approx(1, abs=1e-3)
    assert gold.notes["before the value, kept, block 1"] < 0.6
    assert gold.notes["log p, this model"] < gold.notes["log p, original"] - 3
    assert ActivationPatching().read(of_world(tiny_world, "gold")) == gold


def test_what_was_only_hidden_behind_the_last_block_is_read_from_the_one_below(tiny_world):
    hidden = of_world(tiny_world, "target", deaf_at_the_end)
    assert right(recalled(hidden.lm, hidden.cases)) == 0
    before = weights(hidden.lm)
    reading = ActivationPatching().read(hidden)
    assert right(reading.found) >= 0.9
    assert reading.notes["before the value, best block"] == 0
    assert reading.notes["before the value, kept, block 0"] == pytest.approx(1, abs=1e-3)
    # the other way: its last block is what was changed, so the original's states help only behind it
    assert reading.notes["before the value, came back, block 1"] == pytest.approx(1, abs=1e-3)
    assert reading.notes["before the value, came back, block 0"] < 0.1
    assert all(torch.equal(value, before[name]) for name, value in hidden.lm.model.state_dict().items())


def test_states_that_carry_nothing_are_no_hit(lm):
    """The original answers right whatever the name's states are: nothing was read from them."""
    reading = ActivationPatching().read(of_model(lm, original=lambda: lm))
    behind_the_last = [row for row in reading.found if row.variant == "name, block 1"]
    assert not any(row.hits[0] for row in behind_the_last)
    assert reading.notes["name, hit@1, block 1"] == 0


# --- where it cannot be tried ----------------------------------------------------------------------------------------------
def test_it_says_what_is_missing(lm, tokenizer):
    attack = ActivationPatching()
    assert "is not known" in attack.read(of_model(lm)).why
    deeper = TransformerLM(make_model(tokenizer, num_hidden_layers=3), tokenizer)
    assert "another shape" in attack.read(of_model(lm, original=lambda: deeper)).why
    alone = cases_of(rows(("Mara Olen",)), (), ("Mara Olen",))
    assert "another person" in attack.read(of_model(lm, alone, original=lambda: lm)).why


def test_with_one_forgotten_person_somebody_who_stays_is_the_comparison(lm):
    alone = cases_of(rows(("Mara Olen",)), (), ("Mara Olen",))
    reading = ActivationPatching().read(of_model(lm, alone, retain=CASES[6:], original=lambda: lm))
    assert {row.case for row in reading.found} == {0, 1, 2}
