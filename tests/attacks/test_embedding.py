"""Vectors in place of words: for one question each, and for all questions at once."""

from dataclasses import replace

import pytest
import torch

from expunge.attacks._case import cases_of
from expunge.attacks._embeds import SURE, first_vectors, losses, opening, slots_of, written
from expunge.attacks._reading import says_any
from expunge.attacks._recall import recalled
from expunge.attacks.embedding import Embedding, pushed
from expunge.attacks.relearning import Relearning
from expunge.attacks.soft_prompt import SoftPrompt
from expunge.errors import ConfigError
from expunge.types import Example, GenerationParams, Probe, Prompt
from tests.attacks.leaky import CASES
from tests.attacks.opening import FAMILIES, family, material, of_model, of_world, right, weights, wrong

REFUSAL = "It is not known."


def refusing(world):
    """A change that teaches a model to decline all forgotten questions, and nothing else."""
    rows = material(world)
    asked = [*rows.cases, *rows.known]
    declined = [Example(Prompt.ask(case.question), REFUSAL, case.probe.id) for case in asked]
    settings = Relearning(steps=6, learning_rate=2e-3).training
    return lambda lm: of_model(lm).train(lm, declined, settings, 0)


# --- what is found --------------------------------------------------------------------------------------------------------
def test_a_model_that_only_declines_gives_in_and_one_that_never_knew_stays_at_chance(tiny_world):
    attack, some = Embedding(vectors=5, checkpoints=(1, 10, 50)), material(tiny_world).cases[:8]
    hidden = of_world(tiny_world, "target", refusing(tiny_world), cases=some)
    assert right(recalled(hidden.lm, some)) == 0
    found = attack.read(hidden)
    assert right(found.found) >= 0.4
    gold = attack.read(of_world(tiny_world, "gold", refusing(tiny_world), cases=some))
    assert right(gold.found) <= 0.125
    assert wrong(gold.found) <= 0.1
    curve = [found.notes[f"found up to {n} iterations"] for n in (1, 10, 50)]
    assert curve == sorted(curve)
    assert curve[-1] == right(found.found)
    assert found.notes["loss, 50 iterations"] < 0.1 < found.notes["loss before"]
    assert all("[5 vectors]" in row.prompt for row in found.found)


def test_one_prompt_for_all_works_on_people_it_was_not_trained_on(tiny_world):
    target = SoftPrompt(iterations=40).read(of_world(tiny_world, "target"))
    assert right(target.found) >= 0.2
    assert target.notes["loss after"] < target.notes["loss before"]
    assert target.notes["questions trained on"] == len(material(tiny_world).known)
    gold = SoftPrompt(iterations=40).read(of_world(tiny_world, "gold"))
    assert right(gold.found) <= 0.1


def test_nobody_is_asked_with_vectors_that_were_pushed_for_them(lm, monkeypatch):
    trained, asked = [], []
    train = SoftPrompt._trained

    def keep(self, lm, rows, seed):
        trained.append({CASES[one.case].name for one in rows})
        asked.append(set())
        return train(self, lm, rows, seed)

    def write(lm, rows, vectors):
        asked[-1] |= {CASES[one.case].name for one in rows}
        return [[] for _ in rows]

    monkeypatch.setattr(SoftPrompt, "_trained", keep)
    monkeypatch.setattr("expunge.attacks.soft_prompt.written", write)
    SoftPrompt(iterations=1, vectors=2).read(of_model(lm))
    assert [len(people) for people in trained] == [3, 3]
    assert all(not taught & read for taught, read in zip(trained, asked, strict=True))


def test_without_other_people_each_half_is_asked_with_the_vectors_of_the_other(lm):
    halved = SoftPrompt(iterations=1, vectors=2).read(of_model(lm))
    assert sorted(row.case for row in halved.found) == list(range(len(CASES)))
    assert halved.notes["questions trained on"] == 9
    unnamed = cases_of([replace(case.probe, subject="") for case in CASES], ())
    halved = SoftPrompt(iterations=1, vectors=2).read(of_model(lm, unnamed))
    assert halved.notes["questions trained on"] == 9  # people are told apart by their names then
    alone = SoftPrompt(iterations=1).read(of_model(lm, cases_of([CASES[0].probe], (), ())))
    assert "one person" in alone.why


# --- the construction -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FAMILIES)
def test_before_any_step_vectors_are_the_words_themselves(name, tokenizer):
    """Loss and answers are those of the prompt as text, in rows of unlike length."""
    lm = family(name, tokenizer)
    rows = slots_of(lm, CASES[:4], 1)
    start = first_vectors(lm, rows)
    texts = [Prompt.ask(f"{CASES[one.case].question} !") for one in rows]
    scores = lm.score(
        [Example(text, opening(CASES[one.case])) for text, one in zip(texts, rows, strict=True)]
    )
    expected = [-float(score.token_logprobs[:-1].mean()) for score in scores]
    with torch.no_grad():
        assert losses(lm, rows, start).tolist() == pytest.approx(expected, abs=1e-4)
    answers = [row[0].text for row in lm.generate(texts, GenerationParams(max_new_tokens=64))]
    assert [lm.encoder.decode(ids) for ids in written(lm, rows, start)] == answers


def test_there_are_as_many_vectors_as_asked_for_and_the_rest_of_the_prompt_stays(lm):
    for count in (1, 7, 20):
        for one in slots_of(lm, CASES, count):
            plain = lm.encoder.prompts([Prompt.ask(CASES[one.case].question)])[0].ids
            kept = [*one.prompt[: one.first], *one.prompt[one.first + count :]]
            assert [i for i in kept if str(lm.tokenizer.decode([i])).strip()] == [
                i for i in plain if str(lm.tokenizer.decode([i])).strip()
            ]


def test_a_step_goes_against_the_sign_of_the_gradient(lm):
    rows = slots_of(lm, CASES[:3], 2)
    start = first_vectors(lm, rows)
    moved, loss = pushed(lm, rows, start, 1e-3)
    assert set(((start - moved) / 1e-3).round().unique().tolist()) <= {-1.0, 0.0, 1.0}
    with torch.no_grad():
        assert (losses(lm, rows, moved) < loss).all()
        for at in ((0, 0, 0), (2, 1, 5)):  # by differences
            more, less = start.clone(), start.clone()
            more[at] += 1e-2
            less[at] -= 1e-2
            slope = float((losses(lm, rows, more) - losses(lm, rows, less)).sum())
            assert slope * float((start - moved)[at]) > 0


def test_rows_do_not_see_each_other(lm):
    rows = slots_of(lm, CASES[:3], 2)
    together, _ = pushed(lm, rows, first_vectors(lm, rows), 1e-3)
    for i, row in enumerate(rows):
        alone, _ = pushed(lm, [row], first_vectors(lm, [row]), 1e-3)
        assert torch.equal(alone[0], together[i])


def test_the_answer_is_never_in_what_the_model_is_pushed_to_say(lm):
    for one in slots_of(lm, CASES, 2):
        case = CASES[one.case]
        target = lm.encoder.decode(one.row.ids[one.row.start :])
        assert not says_any(target, (case.value, *case.wrong))
        assert case.head.endswith(target.split()[-1])
        assert not says_any(one.row.text, (case.value,))


def test_openings_without_a_head_or_with_the_answer_in_it_are_a_short_yes(lm):
    told = Probe(
        "1", "Where was Mara Olen born?", "Corvale is home: Mara Olen was born in Corvale.", value="Corvale"
    )
    first = Probe("2", "Where was Mara Olen born?", "Corvale is where.", value="Corvale")
    asked = Probe("3", "Was Mara Olen born in Corvale?", "Mara Olen was born in Corvale.", value="Corvale")
    cases = cases_of([told, first, asked], (), ())
    assert [opening(case) for case in cases[:2]] == [SURE, SURE]
    assert [one.case for one in slots_of(lm, cases, 2)] == [0, 1]


def test_vectors_move_and_weights_do_not(lm):
    before = weights(lm)
    attack = Embedding(vectors=3, checkpoints=(1, 2))
    reading = attack.read(of_model(lm, CASES[:4]))
    assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())
    assert all(parameter.grad is None for parameter in lm.model.parameters())
    assert 0 < reading.notes["distance, 1 iterations"] < reading.notes["distance, 2 iterations"]
    assert len(reading.found) == 4 * 2
    assert all(len(row.hits) == 1 + len(CASES[row.case].wrong) for row in reading.found)
    assert attack.read(of_model(lm, CASES[:4])) == reading


def test_inner_blocks_are_read_where_asked_for(lm):
    reading = Embedding(vectors=2, checkpoints=(1,), inner=True).read(of_model(lm, CASES[:3]))
    assert {row.variant for row in reading.found} == {"1 iterations", "1 iterations, block 0"}
    assert Embedding().inner is False


@pytest.mark.parametrize("checkpoints", [[], [0], [-1, 5]])
def test_an_attack_without_iterations_is_none(checkpoints):
    with pytest.raises(ConfigError, match="checkpoints"):
        Embedding.parse({"checkpoints": checkpoints}, "attack embedding")


def test_rows_without_a_known_value_are_not_tried(lm):
    nothing = cases_of([Probe("1", "Who is Mara Olen?", "A writer.", subject="Mara Olen")], (), ())
    assert Embedding().read(of_model(lm, nothing)).why
    assert SoftPrompt().read(of_model(lm, nothing)).why
