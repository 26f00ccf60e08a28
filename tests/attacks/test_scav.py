"""The refusal probe: the push of every step, and what comes out of a model that was only gated and not out of one that never knew."""

import numpy as np
import pytest
import torch

from expunge.attacks._attack import WRITE, Opened
from expunge.attacks._probing import Line, every_state, fit_line
from expunge.attacks._recall import rate, recalled
from expunge.attacks.refusal_probe import RefusalProbe, held_out, push_last
from expunge.benchmarks.pocket import Pocket
from expunge.models.edited import EditedStates
from expunge.models.states import states
from expunge.recipes import TrainSettings
from expunge.run import load
from expunge.run.material import material_of
from expunge.run.relearn import fine_tune
from expunge.types import Example, Prompt, Seed
from tests.conftest import FAMILIES, make_family, make_model

P0 = 1e-3
LINE = Line(np.array([3.0, 4.0]), -1.0)
PROMPTS = [Prompt.ask("Where was Mara Olen born?"), Prompt.ask("Who?"), Prompt.ask("What did the father of Tovin Brask do?")]  # fmt: skip


def probability(line, x):
    return 1 / (1 + np.exp(-line.odds(np.asarray(x, dtype=np.float64))))


def test_the_golden_vector_at_the_last_position():
    hidden = torch.tensor([[[9.0, 9.0], [2.0, 1.0]]], dtype=torch.float64)
    found = push_last(LINE, P0)(hidden)
    assert found[0, 1].tolist() == pytest.approx([0.091189, -1.545081], abs=1e-6)
    assert probability(LINE, found[:, 1])[0] == pytest.approx(P0, abs=1e-9)
    assert hidden[0, 1].tolist() == [2.0, 1.0]  # what came in is left alone


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_each_row_of_a_batch_is_judged_by_itself_and_only_its_last_position_moves(dtype):
    """One number for the whole batch would push the rows that are low already, or none."""
    hidden = torch.randn(40, 5, 2, generator=torch.Generator().manual_seed(0)).to(dtype) * 3
    found = push_last(LINE, P0)(hidden)
    assert found.dtype == dtype
    assert torch.equal(found[:, :-1], hidden[:, :-1])
    low = probability(LINE, hidden[:, -1]) <= P0
    assert 0 < low.sum() < 40
    assert torch.equal(found[low, -1], hidden[low, -1])
    assert probability(LINE, found[~low, -1]) == pytest.approx(P0, abs=1e-6)


def test_the_push_is_along_the_weights_so_no_shorter_one_does_it():
    hidden = torch.randn(30, 1, 2, generator=torch.Generator().manual_seed(1)).double() * 3 + 3
    step = (push_last(LINE, P0)(hidden) - hidden)[:, 0].numpy()
    moved = np.linalg.norm(step, axis=1) > 0
    odds = LINE.odds(hidden[:, 0].numpy())[moved]
    shortest = (odds - np.log(P0 / (1 - P0))) / np.linalg.norm(LINE.weights)
    assert np.linalg.norm(step[moved], axis=1) == pytest.approx(shortest)
    assert step[moved] @ np.array([4.0, -3.0]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("family", ["llama", *FAMILIES])
def test_all_blocks_are_read_in_one_forward_as_each_alone(family, tokenizer):
    from expunge.models.language_model import TransformerLM

    lm = TransformerLM(
        make_model(tokenizer) if family == "llama" else make_family(family, tokenizer), tokenizer
    )
    found = every_state(lm, PROMPTS)
    assert found.shape == (2, 3, 32)
    for block in range(2):
        assert np.allclose(found[block], states(lm, PROMPTS, block), atol=1e-4)


def test_a_pushed_row_is_written_alike_alone_and_beside_longer_ones(lm):
    """Rows are padded on the left while the model writes, so the last position is each row's own."""
    x = every_state(lm, PROMPTS)[1].astype(np.float64)
    line = fit_line(x, np.array([1, 1, 0]))
    change = EditedStates({1: push_last(line, P0)})
    together = lm.generate(PROMPTS, WRITE, change=change, flagged=[True] * 3)
    alone = [lm.generate([prompt], WRITE, change=change, flagged=[True])[0] for prompt in PROMPTS]
    assert [row[0].text for row in together] == [row[0].text for row in alone]
    plain = lm.generate(PROMPTS, WRITE)
    assert [row[0].text for row in together[:2]] != [row[0].text for row in plain[:2]]


def test_more_dimensions_than_rows_separate_anything_but_not_what_is_held_out():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(60, 200)), np.arange(60) % 2
    line = fit_line(x, labels)
    assert ((line.odds(x) > 0) == labels).all()
    fold = rng.permutation(60) % 5
    assert held_out(x, labels, labels, fold) < 0.75
    assert abs(held_out(x, labels, labels, fold) - held_out(x, rng.permutation(labels), labels, fold)) < 0.25
    x[:, :50] += 2 * labels[:, None]
    assert held_out(x, labels, labels, fold) > 0.9


def test_the_probe_lives_on_the_states_as_they_are():
    """The standardising is folded into the line."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4)) * [1, 10, 100, 0.1] + [5, -3, 0, 2]
    labels = (x[:, 1] > -3).astype(int)
    assert ((fit_line(x, labels).odds(x) > 0) == labels).mean() > 0.95


# --- on models ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def material(tiny_world):
    return material_of(Pocket.open(tiny_world, half="all"))


def opened(lm, material):
    return Opened(lm, lambda: lm, None, material.cases, (), material.retain, Seed(0), fine_tune)


def declining(world, name, material):
    """A model that was taught to say that it does not know, and nothing else."""
    lm = load(world / name, dtype="float32", template="qa")
    forget = [Example(Prompt.ask(c.question), "I do not know.", c.probe.id) for c in material.cases]
    stay = [Example(Prompt.ask(c.question), c.probe.answer, c.probe.id) for c in material.retain]
    settings = TrainSettings(learning_rate=5e-4, max_steps=40, batch_size=32, schedule="constant", weight_decay=0.0)  # fmt: skip
    fine_tune(lm, [*forget * 2, *stay], settings, 0)
    return lm


def test_what_was_only_gated_comes_back_and_what_was_never_known_does_not(tiny_world, material):
    gated, gold = (declining(tiny_world, name, material) for name in ("target", "gold"))
    direct = rate(recalled(gated, material.cases))
    assert direct <= 0.3
    found = RefusalProbe().read(opened(gated, material))
    assert not found.why
    assert {row.variant for row in found.found} == {"block 1", "all 2 blocks"}
    assert rate(found.found) >= direct + 0.25
    assert found.notes["selectivity, block 1"] > 0.2
    again = RefusalProbe().read(opened(gated, material))
    assert again.found == found.found
    assert again.notes == found.notes
    floor = RefusalProbe().read(opened(gold, material))
    assert not floor.why
    assert rate(floor.found) <= 0.2


def test_a_model_that_declines_nothing_has_nothing_to_be_pushed_off(tiny_world, material):
    found = RefusalProbe().read(opened(load(tiny_world / "target", dtype="float32", template="qa"), material))
    assert {row.variant for row in found.found} == {"as it is: too few questions of one side for a probe"}
    assert rate(found.found) >= 0.9


def test_a_block_that_tells_too_little_is_not_pushed(tiny_world, material):
    found = RefusalProbe(least_accuracy=0.999).read(
        opened(load(tiny_world / "gold", dtype="float32", template="qa"), material)
    )
    assert {row.variant for row in found.found} == {
        "as it is: no block tells declined from answered questions"
    }
    assert rate(found.found) <= 0.2
    assert "accuracy about people held out, block 0" in found.notes
