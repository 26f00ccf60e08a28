"""The subtraction of an assistant: golden numbers, one distribution for scoring and writing, neighbours left bit for bit."""

import copy
import math

import pytest
import torch

from expunge.data.batching import collate
from expunge.data.tokenize import Encoded
from expunge.models.hidden import keep_blocks
from expunge.models.intervention import Asked
from expunge.models.language_model import TransformerLM
from expunge.models.subtracted import Subtracted, disturbance, shares_cache, subtract
from expunge.models.tree import build_tree
from expunge.types import Example, GenerationParams, Prompt
from tests.conftest import FAMILIES, make_family, make_model

ASKED = [
    "Where was Mara Olen born?",
    "What did the father of Tovin Brask do?",
    "Who taught Mara Olen and Tovin Brask in Corvale?",
]
FLAGGED = [True, False, True]
ANSWERS = ["Mara Olen was born in Corvale.", "He worked as a baker."]
BASE = torch.tensor([5.0, 4.0, 3.5, 2.9] + [-8.0] * 16)
ASSISTANT = torch.tensor([8.0, 1.0, 0.5] + [0.0] * 7 + [9.0] + [0.0] * 9)
GOLDEN = [0.005483, 0.384401, 0.339233, 0.270883]


def first_blocks(model, count, seed=1):
    """The first blocks of a model as a model, with noise on its weights: it knows something else."""
    found = copy.deepcopy(model)
    keep_blocks(found, count)
    return with_noise(found, seed)


def with_noise(found, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return found


@pytest.fixture
def change(lm):
    return Subtracted(first_blocks(lm.model, 1), 0.75, 0.05, [lm.tokenizer.eos_token_id])


# --- the function -------------------------------------------------------------------------------------------------------
def test_the_golden_vector():
    found = subtract(BASE, ASSISTANT, 0.75, 0.1)
    assert torch.isfinite(found).nonzero().flatten().tolist() == [0, 1, 2, 3]
    kept = found[:4] - 0.75 * ASSISTANT.logsumexp(-1)
    assert kept.tolist() == pytest.approx([-1, 3.25, 3.125, 2.9], abs=1e-5)
    assert found.argmax() == 1
    assert found.softmax(-1)[:4].tolist() == pytest.approx(GOLDEN, abs=1e-6)
    assert found.softmax(-1)[4:].sum() == 0


def test_the_assistants_offset_makes_no_difference():
    plain, shifted = (subtract(BASE, ASSISTANT + c, 0.75, 0.1).softmax(-1) for c in (0.0, 10.0))
    assert shifted.tolist() == pytest.approx(plain.tolist(), abs=1e-6)


def test_what_the_release_scores_is_another_distribution():
    """There, blocked tokens keep the target's logits, so the assistant's offset decides how much is left for them."""

    def released(assistant):
        kept = torch.arange(20) < 4
        return (BASE - torch.where(kept, 0.75 * assistant, 0.0)).softmax(-1)

    found = released(ASSISTANT)
    assert found[:4].tolist() == pytest.approx([0.005483, 0.384370, 0.339206, 0.270861], abs=1e-6)
    assert found[4:].sum() == pytest.approx(7.999e-5, abs=1e-8)
    found = released(ASSISTANT + 10)
    assert found[:4].tolist() == pytest.approx([0.004790, 0.335826, 0.296365, 0.236653], abs=1e-6)
    assert found[4:].sum() == pytest.approx(0.126366, abs=1e-6)
    for c in (0.0, 10.0):
        normalised = released((ASSISTANT + c).log_softmax(-1))
        assert normalised[:4].tolist() == pytest.approx(GOLDEN, abs=1e-6)
        assert normalised[4:].sum() == pytest.approx(7.4e-8, abs=1e-9)


def test_what_the_release_writes_is_a_blocked_token_where_all_scores_are_negative():
    z = BASE - 10 - 0.75 * ASSISTANT
    released = z * (torch.arange(20) < 4)
    assert released.argmax() == 4
    assert subtract(BASE - 10, ASSISTANT, 0.75, 0.1).argmax() == 1


def test_weight_zero_gives_the_targets_own_logits():
    logits = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    found = subtract(logits, torch.randn(50, 40), 0.0, 0.1)
    kept = torch.isfinite(found)
    assert torch.equal(found[kept], logits[kept])
    assert kept.gather(-1, logits.argmax(-1, keepdim=True)).all()
    assert (~kept).any()


def test_what_is_kept_is_the_share_of_the_vocabulary_and_what_is_likely_enough():
    logits = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)) * 3
    found = torch.isfinite(subtract(logits, torch.zeros(50, 40), 1.0, 0.1))
    for row, kept in zip(logits.tolist(), found.tolist(), strict=True):
        ranked = sorted(row, reverse=True)
        expected = [x >= ranked[3] or x >= ranked[0] + math.log(0.1) for x in row]
        assert kept == expected
    assert found.sum(-1).min() == 4
    assert found.sum(-1).max() > 4


def test_an_assistant_that_knows_nothing_leaves_the_targets_odds():
    logits = torch.randn(9, 40, generator=torch.Generator().manual_seed(0))
    for constant in (0.0, 17.0):
        found = subtract(logits, torch.full((9, 40), constant), 0.75, 0.1)
        kept = torch.isfinite(found)
        expected = logits.masked_fill(~kept, -math.inf).softmax(-1)
        assert torch.allclose(found.softmax(-1), expected, atol=1e-6)


def test_one_token_is_kept_however_small_the_share_and_all_with_a_share_of_one():
    """With V = 50 and 0.01, the release's count is 0 and its index -1, which keeps everything."""
    logits = torch.linspace(0, 500, 50)
    assert torch.isfinite(subtract(logits, torch.zeros(50), 1.0, 0.01)).sum() == 1
    assert torch.isfinite(subtract(logits, torch.zeros(50), 1.0, 1.0)).all()


def test_an_end_is_always_possible_and_made_no_likelier():
    """Token 19 ends answers; the target does not think of it, the assistant neither."""
    assistant = ASSISTANT.clone()
    assistant[19] = -30.0
    found = subtract(BASE, assistant, 0.75, 0.1, [19])
    assert found[19] == BASE[19]
    assert torch.equal(found[:4], subtract(BASE, assistant, 0.75, 0.1)[:4])
    assert found.softmax(-1)[19] <= BASE.softmax(-1)[19]
    likely = subtract(BASE, ASSISTANT, 0.75, 0.1, [1])
    assert torch.equal(likely, subtract(BASE, ASSISTANT, 0.75, 0.1))


def test_half_precision_is_computed_in_float32():
    found = subtract(BASE.bfloat16(), ASSISTANT.bfloat16(), 0.75, 0.1)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).sum() == 4


# --- scoring --------------------------------------------------------------------------------------------------------------
def examples():
    return [Example(Prompt.ask(q), a) for q in ASKED for a in ANSWERS]


def test_scores_are_those_of_both_models_run_alone(lm, change):
    """Recomputed sequence by sequence without packing, batches or hooks."""
    flagged = [True] * 6
    for example, score in zip(examples(), lm.score(examples(), change, flagged), strict=True):
        (row,) = lm.encoder.examples([example])
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            target, assistant = (m(ids).logits[0, row.start - 1 : -1] for m in (lm.model, change.assistant))
        found = subtract(target, assistant, 0.75, 0.05, [lm.tokenizer.eos_token_id])
        tokens = torch.tensor(row.ids[row.start :])
        logp = found.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        possible = torch.isfinite(logp)
        assert score.floored == (not possible.all())
        assert score.token_logprobs[possible.numpy()].tolist() == pytest.approx(
            logp[possible].tolist(), abs=1e-4
        )
        assert score.hits.tolist() == (found.argmax(-1) == tokens).tolist()


def test_scores_of_unflagged_examples_are_bit_identical_in_mixed_lists(lm, change):
    flagged = [flag for flag in FLAGGED for _ in ANSWERS]
    plain, changed = lm.score(examples()), lm.score(examples(), change, flagged)
    for a, b, flag in zip(plain, changed, flagged, strict=True):
        assert (a.token_logprobs == b.token_logprobs).all() != flag


# --- writing --------------------------------------------------------------------------------------------------------------
def written(model, batch, **options):
    settings = dict(
        max_new_tokens=10, do_sample=False, pad_token_id=0, eos_token_id=None,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    with torch.inference_mode():
        torch.manual_seed(3)
        return model.generate(batch.ids, attention_mask=batch.attention, **{**settings, **options})


def both_written(lm, change, flagged=FLAGGED, **options):
    """What the plain model and the subtracted one write on the same left-padded batch."""
    rows = lm.encoder.prompts([Prompt.ask(text) for text in ASKED])
    batch = collate(rows, 0, side="left")
    asked = [Asked(row, text, flag) for row, text, flag in zip(rows, ASKED, flagged, strict=True)]
    with change.writing(lm.model, batch, asked) as (shell, more):
        return written(lm.model, batch, **options), written(shell, batch, **options, **more), rows, batch


def scored(lm, change, row, ids, *, packed=True):
    whole = Encoded([*row.ids, *ids], row.start, row.text, [*row.offsets, *[(0, 0)] * len(ids)], row.head)
    tree = build_tree([(whole.ids, whole.start, None)])
    return lm._score_trees([tree], [Asked(whole, row.text, True)], change, packed=packed)[0][0]


MODES = {
    "greedy": {},
    "beams": dict(num_beams=3, num_return_sequences=2),
    "samples": dict(do_sample=True, num_return_sequences=3),
    "pieces": dict(prefill_chunk_size=3),
}


@pytest.mark.parametrize("mode", MODES)
def test_unflagged_rows_are_written_bit_for_bit(lm, change, mode):
    options = MODES[mode]
    copies = options.get("num_return_sequences", 1)
    plain, changed, _, _ = both_written(lm, change, **options)
    assert torch.equal(plain.sequences[copies : 2 * copies], changed.sequences[copies : 2 * copies])
    assert not torch.equal(plain.sequences[:copies], changed.sequences[:copies])
    if mode != "beams":
        for a, b in zip(plain.logits, changed.logits, strict=True):
            assert torch.equal(a[copies : 2 * copies], b[copies : 2 * copies])


@pytest.mark.parametrize("mode", MODES)
def test_what_is_written_is_what_is_scored(lm, change, mode):
    """Token by token, of every beam and copy of flagged prompts, whatever was fed in what order."""
    options = MODES[mode]
    copies = options.get("num_return_sequences", 1)
    _, found, rows, batch = both_written(
        lm, change, output_scores=True, **({"length_penalty": 0.0} if mode == "beams" else {}), **options
    )
    for prompt in (0, 2):
        for line in range(prompt * copies, (prompt + 1) * copies):
            ids = found.sequences[line, batch.ids.shape[1] :].tolist()
            score = scored(lm, change, rows[prompt], ids)
            assert not score.floored
            if mode == "beams":
                assert score.logprob == pytest.approx(float(found.sequences_scores[line]), abs=1e-3)
                continue
            logp = [step[line].log_softmax(-1)[i].item() for step, i in zip(found.logits, ids, strict=True)]
            assert score.token_logprobs.tolist() == pytest.approx(logp, abs=1e-4)
            if mode != "samples":
                assert score.hits.all()


def test_without_a_joint_cache_the_same_is_written(lm, change):
    reading = Subtracted(change.assistant, change.weight, change.keep, change.always_kept)
    reading._shares_cache = False
    for options in MODES.values():
        if "prefill_chunk_size" in options:
            continue
        (_, a, _, _), (plain, b, _, _) = (both_written(lm, c, **options) for c in (change, reading))
        assert change._shares_cache
        assert torch.equal(a.sequences, b.sequences)
        copies = options.get("num_return_sequences", 1)
        assert torch.equal(plain.sequences[copies : 2 * copies], b.sequences[copies : 2 * copies])


@pytest.mark.parametrize("family", [*FAMILIES, "mamba"])
def test_other_architectures_write_what_they_score(tokenizer, family, monkeypatch):
    """Gemma 2 with a window narrower than the text; Mamba, whose states newer versions of transformers keep in the joint cache too."""
    monkeypatch.setitem(FAMILIES, "gemma2", {**FAMILIES["gemma2"], "sliding_window": 8})
    monkeypatch.setitem(FAMILIES, "mamba", dict(state_size=4, initializer_range=0.3))
    lm = TransformerLM(make_family(family, tokenizer), tokenizer)
    assistant = with_noise(copy.deepcopy(lm.model)) if family == "mamba" else first_blocks(lm.model, 1)
    change = Subtracted(assistant, 1.5, 0.2, [2])
    assert shares_cache(lm.model, change.assistant) or family == "mamba"
    plain, found, rows, batch = both_written(lm, change)
    assert torch.equal(plain.sequences[1], found.sequences[1])
    assert not torch.equal(plain.sequences[0], found.sequences[0])
    for prompt in (0, 2):
        ids = found.sequences[prompt, batch.ids.shape[1] :].tolist()
        logp = [step[prompt].log_softmax(-1)[i].item() for step, i in zip(found.logits, ids, strict=True)]
        score = scored(lm, change, rows[prompt], ids, packed=False)
        assert score.token_logprobs.tolist() == pytest.approx(logp, abs=2e-3)


def test_the_plain_model_is_untouched_before_during_and_after(lm, change):
    params = GenerationParams(max_new_tokens=8)
    prompts = [Prompt.ask(text) for text in ASKED]
    before = lm.generate(prompts, params)
    changed = lm.generate(prompts, params, change, [True] * 3)
    assert lm.generate(prompts, params) == before != changed
    assert "forward" not in vars(lm.model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())


# --- what it does to others ----------------------------------------------------------------------------------------------
def test_the_disturbance_is_the_mean_divergence_over_answer_tokens(lm, change):
    found = []
    for example in examples():
        (row,) = lm.encoder.examples([example])
        with torch.no_grad():
            target, assistant = (
                m(torch.tensor([row.ids])).logits[0, row.start - 1 : -1] for m in (lm.model, change.assistant)
            )
        p = target.double().log_softmax(-1)
        q = change.subtract(target, assistant).double().log_softmax(-1).clamp(min=math.log(1e-12))
        found += (p.exp() * (p - q)).sum(-1).tolist()
    assert disturbance(lm, change, examples()) == pytest.approx(sum(found) / len(found), rel=1e-4)


def test_nothing_is_disturbed_where_nothing_is_taken_off(lm):
    nothing = Subtracted(make_model(lm.tokenizer), 0.0, 1.0)
    assert disturbance(lm, nothing, examples()) == pytest.approx(0, abs=1e-6)
