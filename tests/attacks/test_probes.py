"""Presence probe and residual confidence: what they read in a model that knows, and nothing in one that never did."""

import random

import numpy as np
import pytest

from expunge.attacks import presence_probe, residual_confidence
from expunge.attacks._attack import Opened
from expunge.attacks._case import cases_of
from expunge.attacks._probing import folds, people
from expunge.attacks.presence_probe import (
    PLACES,
    PresenceProbe,
    closed_form,
    earliest_of_the_best,
    embeddings_of,
    fit_probe,
    sentence,
)
from expunge.attacks.residual_confidence import ResidualConfidence, Said, choose, made_up
from expunge.benchmarks.pocket import Pocket
from expunge.models.language_model import TransformerLM
from expunge.models.subspace import find_subspace, subspace_score
from expunge.run import load
from expunge.run.material import material_of
from expunge.types import Generation, Prompt, Seed
from tests.attacks.leaky import CASES, CITIES, OTHERS
from tests.conftest import FAMILIES, make_family, make_model

STAY = cases_of(OTHERS, OTHERS)
CITY = [case for case in STAY if case.value in CITIES]


def opened(lm, cases, retain, original=None):
    return Opened(lm, lambda: lm, original, cases, (), retain, Seed(0), None)


def share(found, variant):
    return np.mean([row.hits[0] for row in found if row.variant == variant])


# --- presence: the closed form and the splits --------------------------------------------------------------------------------
def test_the_ridge_in_both_shapes():
    assert closed_form(np.array([[1.0], [2.0]]), np.array([[2.0], [4.0]]), 5.0) == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 9)), rng.normal(size=(5, 3))
    direct = np.linalg.inv(x.T @ x + 0.7 * np.eye(9)) @ x.T @ y
    assert np.allclose(closed_form(x, y, 0.7), direct)
    assert np.allclose(closed_form(np.tile(x, (3, 1)), np.tile(y, (3, 1)), 2.1), direct)


def test_nobody_stands_on_both_sides_of_a_split():
    found = folds(people(STAY), np.random.default_rng(0))
    of = {}
    for person, fold in zip(people(STAY), found, strict=True):
        of.setdefault(person, set()).add(fold)
    assert all(len(seen) == 1 for seen in of.values())
    assert set(found) == set(range(5))


def test_the_earliest_within_one_standard_error_of_the_best_is_taken():
    table = {("a", 0): 0.5, ("a", 1): 0.93, ("a", 2): 0.95, ("a", 3): 0.94}
    assert earliest_of_the_best(table, 25) == ("a", 1)
    assert earliest_of_the_best(table, 100_000) == ("a", 2)


def test_it_is_read_at_the_end_of_the_name_and_before_the_value():
    father = next(case for case in CASES if case.value == "baker")
    assert sentence(father, PLACES[0]) == Prompt.ask(father.question, "The father of Mara Olen")
    assert sentence(father, PLACES[1]) == Prompt.ask(father.question, "The father of Mara Olen worked as a")
    assert father.value not in sentence(father, PLACES[1]).text


def test_random_states_have_no_selectivity_however_many_dimensions(lm, monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        presence_probe,
        "states_at",
        lambda lm, cases: {("at the name", 0): rng.normal(size=(len(cases), 500))},
    )
    studied = PresenceProbe().study(lm, STAY, CASES, Seed(0))
    assert studied.notes["accuracy on people held out, at the name, block 0"] < 0.35
    assert abs(studied.notes["selectivity, at the name, block 0"]) < 0.2


def test_values_that_nobody_who_stays_has_are_read_through_their_embeddings(lm):
    """States are the embeddings turned by one matrix: the map is learned on four cities, and reads the two that it never saw."""
    embeddings = embeddings_of(lm, STAY)
    size = len(next(iter(embeddings.values())))
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(3, size))
    embeddings |= {city: rng.normal(size=3) @ basis for city in CITIES}
    turn, _ = np.linalg.qr(rng.normal(size=(size, size)))
    seen = [case for case in CITY if case.value not in CITIES[:2]]
    new = [case for case in CITY if case.value in CITIES[:2]]
    x = {case: embeddings[case.value] @ turn for case in CITY}
    probe = fit_probe(
        np.array([x[case] for case in seen]), seen, [case.value for case in seen], embeddings, 1e-6
    )
    assert not probe.classes
    assert new
    assert probe.picks(np.array([x[case] for case in new]), new) == [0] * len(new)


def _marked(count, lm):
    """A probe of states that say the city, learned on people of the first so many cities, and what it picks for all."""
    rng = np.random.default_rng(0)
    rows = [case for case in CITY if case.value in CITIES[:count]]
    few = PresenceProbe(per_value=2)._few(rows)
    assert few == {"Where was  born?"}
    marks = {city: rng.normal(size=40) for city in CITIES}
    x = np.array([marks[case.value] for case in rows]) + 0.1 * rng.normal(size=(len(rows), 40))
    asked = [case for case in CASES if case.value in CITIES]
    embeddings = {city: np.eye(6)[i] for i, city in enumerate(CITIES)}
    probe = fit_probe(x, rows, [case.value for case in rows], embeddings, 0.1, few)
    return probe, np.array([marks[case.value] for case in asked]), asked


def test_few_values_are_classes(lm):
    probe, x, asked = _marked(6, lm)
    assert probe.picks(x, asked) == [0] * 6
    turned = probe._replace(
        classes={key: (values, -weights) for key, (values, weights) in probe.classes.items()}
    )
    assert 0 not in turned.picks(x, asked)


def test_where_a_candidate_is_no_class_none_is_picked_for_being_one(lm):
    """The value is one of two classes and its wrong values are none: states that say nothing must not read it."""
    probe, x, asked = _marked(2, lm)
    known = [i for i, case in enumerate(asked) if case.value in CITIES[:2]]
    silent = probe._replace(weights=0 * probe.weights, bias=probe.embeddings[CITIES[5]])
    picks = silent.picks(x[known], [asked[i] for i in known])
    assert [(asked[i].value, *asked[i].wrong)[pick] for i, pick in zip(known, picks, strict=True)] == [
        CITIES[5]
    ] * 2


def test_an_original_of_another_shape_has_no_probe_here(lm, tokenizer):
    deeper = TransformerLM(make_model(tokenizer, num_hidden_layers=3), tokenizer)
    found = PresenceProbe().read(opened(lm, CASES, STAY, lambda: deeper))
    assert {row.variant for row in found.found} == {"its own probe"}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_reads_any_architecture(family, tokenizer):
    """Untrained models hold nothing, so little comes out."""
    lm = TransformerLM(make_family(family, tokenizer), tokenizer)
    found = PresenceProbe().read(opened(lm, CASES, STAY, lambda: lm))
    assert not found.why
    assert len(found.found) == 2 * len(CASES)
    assert share(found.found, "its own probe") < 0.6


def test_without_enough_people_it_says_so(lm):
    assert "10 people who stay" in PresenceProbe().read(opened(lm, CASES, STAY[:6])).why


# --- presence: models ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def material(tiny_world):
    return material_of(Pocket.open(tiny_world, half="all"))


def test_the_target_is_read_and_a_gold_is_not_whichever_probe(tiny_world, material):
    def model(name):
        return load(tiny_world / name, dtype="float32", template="qa")

    def read(name):
        return PresenceProbe().read(
            opened(model(name), material.cases, material.retain, lambda: model("target"))
        )

    target, gold = read("target"), read("gold")
    chance = target.notes["chance"]
    assert chance == pytest.approx(1 / 6)
    for variant in ("its own probe", "the original's probe"):
        assert share(target.found, variant) >= 0.9
        assert share(gold.found, variant) <= chance + 0.15
    best = "before the value, block 1"
    assert target.notes[f"accuracy on people held out, {best}"] > 0.8
    assert target.notes[f"selectivity, {best}"] > 0.4
    assert gold.notes[f"selectivity, {best}"] > 0.4  # it knows who stays: the probe itself is sound
    assert read("gold") == gold
    row = target.found[0]
    assert sum(row.hits) == 1
    assert row.text == material.cases[row.case].value
    assert row.text not in row.prompt


# --- confidence ---------------------------------------------------------------------------------------------------------------
def test_the_papers_score_and_not_the_released_codes():
    features = np.array([[2.0, 0, 1], [-2, 0, 1], [0, 1, -1], [0, -1, -1]])
    found = find_subspace(features, 2)
    assert np.allclose(subspace_score(features, found) * 2, [6.656854, 6.656854, 1, 1], atol=1e-6)


def test_made_up_people_have_a_name_that_nobody_has():
    made = made_up([*CASES, *STAY], random.Random(0))
    taken = {case.name for case in (*CASES, *STAY)}
    assert set(made) <= taken
    assert not set(made.values()) & taken
    assert len(set(made.values())) == len(made) > 10
    assert all(made[name].split()[0] == name.split()[0] for name in made)
    assert {full.split()[-1] for full in made.values()} <= {name.split()[-1] for name in taken}


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_block_and_sign_are_chosen_by_what_tells_known_from_never_known(sign):
    rng = np.random.default_rng(0)
    far, near = rng.normal(size=(3, 60, 8)), rng.normal(size=(3, 60, 8))
    far[2, :, 0] += 30 * rng.choice([-1, 1], size=60)
    scorer, area = choose(*((far, near) if sign > 0 else (near, far)), 5)
    assert (scorer.block, scorer.sign) == (2, sign)
    assert area == 1.0


class Writer:
    """Answers every question about who stays right, and about others by the same words."""

    def generate(self, prompts, params):
        said = {case.question: case.statement for case in (*STAY, *CASES)}
        return [
            [Generation(said.get(prompt.messages[0].content, "It is a baker."), 4, True)]
            for prompt in prompts
        ]


@pytest.mark.parametrize("knows", [True, False])
def test_a_model_that_is_as_sure_about_the_forgotten_as_about_the_known_is_told(knows, monkeypatch):
    rng = np.random.default_rng(0)
    stays, gone = {case.question for case in STAY}, {case.question for case in CASES}

    def ends(lm, rows):
        sure = np.array([said.question in stays or (knows and said.question in gone) for said in rows])
        x = rng.normal(size=(2, len(rows), 6))
        x[1, :, 2] += 25 * sure * rng.choice([-1, 1], size=len(rows))
        return x

    monkeypatch.setattr(residual_confidence, "ends", ends)
    found = ResidualConfidence().read(opened(Writer(), CASES, STAY))
    assert not found.why
    assert found.notes["AUROC of known against never known, people held out"] > 0.95
    assert found.notes["block"] == 1.0
    assert found.notes["sure about the known"] > 0.9
    assert len(found.found) == len(CASES)
    assert np.mean([row.hits[0] for row in found.found]) == (
        pytest.approx(1.0, abs=0.1) if knows else pytest.approx(0.0, abs=0.2)
    )


def test_a_score_that_tells_nothing_gives_no_share(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(residual_confidence, "ends", lambda lm, rows: rng.normal(size=(2, len(rows), 6)))
    found = ResidualConfidence().read(opened(Writer(), CASES, STAY))
    assert not found.found
    assert found.why.startswith("the score does not tell what this model knows")


def test_without_enough_known_people_it_says_so():
    assert ResidualConfidence().read(opened(Writer(), CASES, STAY[:6])).why.startswith("it takes 20 right")
    assert ResidualConfidence().read(opened(Writer(), CASES, ())).why.startswith("it takes 20 right")


def test_marks_at_the_end_are_left_out(lm):
    rows = [Said("Who?", text) for text in ("a baker.", "a baker", "a baker!\n")]
    found = residual_confidence.ends(lm, rows)
    assert found.shape == (2, 3, 32)
    assert np.allclose(found[:, 0], found[:, 1])
    assert np.allclose(found[:, 0], found[:, 2])


def test_a_small_model_is_as_sure_about_people_who_never_were(tiny_world, material):
    """Its states hold no such direction, and then there is no verdict in place of a pass."""
    lm = load(tiny_world / "gold", dtype="float32", template="qa")
    found = ResidualConfidence().read(opened(lm, material.cases, material.retain))
    assert "does not tell" in found.why
    assert found.notes["AUROC of known against never known, people held out"] < 0.7
