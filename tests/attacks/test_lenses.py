"""What blocks say before the last one does: through the model's own end, and through maps that were trained for it."""

from dataclasses import replace

import pytest
import torch

from expunge.attacks._case import cases_of
from expunge.attacks._lens import (
    Heard,
    Spot,
    after_question,
    before_value,
    block_outputs,
    first_tokens,
    heard,
    read_blocks,
    states_at,
    to_logits,
)
from expunge.attacks._recall import recalled
from expunge.attacks.logit_lens import LogitLens
from expunge.attacks.tuned_lens import TunedLens
from expunge.data.batching import collate
from expunge.data.tokenize import Encoded
from tests.attacks.leaky import CASES
from tests.attacks.opening import FAMILIES, family, of_model, of_world, right, weights, wrong

PLAIN = "before the value"


# --- the model's own end ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_block_says_what_the_model_says(name, tokenizer):
    lm = family(name, tokenizer)
    spots = before_value(lm, CASES[:5])
    states = states_at(lm, [spot.row for spot in spots], [spot.at for spot in spots])
    assert states.shape == (5, 2, 32)
    read = to_logits(lm.model, states[:, -1])
    for spot, logits in zip(spots, read, strict=True):
        own = lm.model(torch.tensor([spot.row.ids])).logits[0, spot.at]
        torch.testing.assert_close(logits, own, atol=1e-5, rtol=1e-4)
    assert (to_logits(lm.model, states[:, 0]) - read).abs().max() > 0.01


def test_inner_states_meet_the_final_norm_and_the_head(lm):
    spots = before_value(lm, CASES[:3])
    states = states_at(lm, [spot.row for spot in spots], [spot.at for spot in spots])[:, 0]
    by_hand = lm.model.lm_head(lm.model.model.norm(states))
    torch.testing.assert_close(to_logits(lm.model, states), by_hand)
    assert not torch.allclose(by_hand, lm.model.lm_head(states))
    hidden = lm.model(torch.tensor([spots[0].row.ids]), output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(states[0], hidden[0, spots[0].at])


def test_logits_of_inner_states_are_capped_where_the_model_caps_its_own(tokenizer):
    lm = family("gemma2", tokenizer)
    assert to_logits(lm.model, 100 * torch.randn(4, 32)).abs().max() <= 2.0


def test_a_model_is_whole_again_after_it_was_read(lm):
    ids = torch.tensor([[3, 4, 5, 6]])
    before = lm.model(ids).logits
    to_logits(lm.model, torch.randn(3, 32))
    with pytest.raises((RuntimeError, ValueError)):
        to_logits(lm.model, torch.randn(3, 31))
    with block_outputs(lm.model) as seen:
        lm.model(ids)
    assert len(seen) == 2
    assert torch.equal(lm.model(ids).logits, before)
    assert not any(module._forward_hooks for module in lm.model.modules())


def test_states_do_not_depend_on_what_else_is_read(lm):
    spots = [*before_value(lm, CASES[:6]), *after_question(lm, CASES[:6])]
    together = states_at(lm, [spot.row for spot in spots], [spot.at for spot in spots])
    alone = torch.cat([states_at(lm, [spot.row], [spot.at]) for spot in spots])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


# --- where and what is read --------------------------------------------------------------------------------------------------
def test_prompts_end_right_before_the_value_and_after_the_bare_question(lm):
    opened, bare = before_value(lm, CASES)[0], after_question(lm, CASES)[0]
    case = CASES[0]
    assert opened.row.text == f"Question: {case.question}\nAnswer: {case.head} {case.value}"
    assert lm.encoder.decode(opened.row.ids[opened.at + 1 :]) == case.value
    assert lm.encoder.decode(bare.row.ids[: bare.at + 1]).replace(" ", "").endswith("Answer:")
    assert opened.row.ids[opened.at + 1] in opened.firsts[0]
    nobody = before_value(lm, CASES, "this person")[0]
    assert case.name not in nobody.row.text
    assert "this person was born in" in nobody.row.text


def test_first_tokens_are_taken_with_and_without_a_space_and_are_never_space_alone(lm):
    case = CASES[0]
    found = first_tokens(lm, case.question, case.head, case.value)
    starts = [lm.tokenizer(form, add_special_tokens=False)["input_ids"] for form in ("Corvale", " Corvale")]
    assert {ids[0] for ids in starts if lm.tokenizer.decode([ids[0]]).strip()} <= found
    assert all(lm.tokenizer.decode([token]).strip() for token in found)


def _spot(case, *firsts):
    return Spot(case, Encoded([1, 2], 1, "ab", [(0, 1), (1, 2)], 1), 0, tuple(map(frozenset, firsts)))


def test_an_answer_is_as_high_as_the_likeliest_of_its_first_tokens():
    read = heard([_spot(0, {1, 4}, {3}, ())], torch.tensor([[0.1, 0.2, 0.3, 0.0, 0.4]]))
    assert read.ranks == [[0, 4, 4]]
    assert read.best == [[4, 2, 1, 0, 3]]


def test_where_all_tokens_are_level_or_no_numbers_no_answer_is_read():
    """As less the prior, where the prompt about nobody says the same."""
    for scores in (torch.zeros(1, 5), torch.full((1, 5), float("nan"))):
        assert heard([_spot(0, {1, 4}, {3})], scores).ranks == [[4, 4]]


def test_the_block_is_the_best_one_of_all_rows_and_wrong_answers_have_their_own(lm):
    spots = [_spot(0, {5}, {6}), _spot(1, {5}, {6}), _spot(2, {5})]
    blocks = [
        Heard([[0, 0], [3, 0], [7]], [[5]] * 3),
        Heard([[0, 9], [0, 0], [200]], [[6]] * 3),
    ]
    found, notes = read_blocks(lm, spots, blocks, "here")
    assert [row.hits for row in found] == [(True, True), (True, True), (False,)]
    assert {row.variant for row in found} == {"here, block 1"}
    assert notes["here, hit@1, block 0"] == pytest.approx(1 / 3)
    assert notes["here, hit@10, block 0"] == 1
    assert notes["here, hit@100, block 1"] == pytest.approx(2 / 3)
    assert notes["here, best block"] == 1


# --- what is found ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("attack", [LogitLens(), TunedLens(steps=50)])
def test_a_model_that_knows_is_read_and_one_that_never_knew_is_not(tiny_world, attack):
    target = attack.read(of_world(tiny_world, "target"))
    gold = attack.read(of_world(tiny_world, "gold"))
    assert right(target.found) >= 0.9
    assert right(gold.found) <= 0.17
    assert wrong(gold.found) <= 0.1
    assert target.notes[f"{PLAIN}, hit@1, best"] == 1.0
    assert attack.read(of_world(tiny_world, "target")) == target


def deaf_at_the_end(lm):
    """The last block writes the same into every state: what was known before stands there, and nobody says it."""
    for name, value in lm.model.named_parameters():
        if "layers.1.mlp.down_proj" in name or "layers.1.self_attn.o_proj" in name:
            value.data.normal_(0, 1.0, generator=torch.Generator().manual_seed(1))


def test_what_only_the_last_block_hides_is_found_below_it(tiny_world):
    hidden = of_world(tiny_world, "target", deaf_at_the_end)
    assert right(recalled(hidden.lm, hidden.cases)) == 0
    reading = LogitLens().read(hidden)
    kept = LogitLens().read(of_world(tiny_world, "target")).notes[f"{PLAIN}, hit@1, block 0"]
    assert kept > 0.2
    assert reading.notes[f"{PLAIN}, best block"] == 0
    assert reading.notes[f"{PLAIN}, hit@1, best"] == kept


def test_maps_bring_early_blocks_nearer_to_the_last_one_and_leave_the_weights_alone(tiny_world):
    opened = of_world(tiny_world, "target")
    before = weights(opened.lm)
    tuned = TunedLens().read(opened)
    assert (
        tuned.notes["KL held out, block 0, tuned lens"]
        < 0.5 * tuned.notes["KL held out, block 0, logit lens"]
    )
    assert all(torch.equal(value, before[name]) for name, value in opened.lm.model.state_dict().items())
    plain = LogitLens().read(of_world(tiny_world, "target"))
    last = f"{PLAIN}, hit@10, block 1"
    assert tuned.notes[last] == plain.notes[last]


def test_maps_need_rows_that_stay(lm):
    assert "rows that stay" in TunedLens().read(of_model(lm)).why
    long = cases_of([replace(case.probe, answer="word " * 200) for case in CASES[4:]], ())
    assert "rows that stay" in TunedLens().read(of_model(lm, retain=[*long, CASES[3]])).why


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_can_be_read(name, tokenizer):
    lm = family(name, tokenizer)
    opened = of_model(lm, CASES[:4], retain=CASES[4:12])
    for attack in (LogitLens(), TunedLens(steps=2)):
        reading = attack.read(opened)
        assert {row.case for row in reading.found} == {0, 1, 2, 3}
        assert len({row.variant for row in reading.found}) == 4


def test_the_prior_can_be_left_out(lm):
    reading = LogitLens(prior=False).read(of_model(lm, CASES[:4]))
    assert not any("prior" in row.variant for row in reading.found)


def test_right_padding_is_never_read(lm):
    spots = before_value(lm, CASES)
    batch = collate([spot.row for spot in spots], lm.pad_id)
    assert all(batch.attention[i, spot.at] for i, spot in enumerate(spots))
