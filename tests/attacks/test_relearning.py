"""Relearning: what was only hidden comes back, what was never known does not, and nothing that is read was trained on."""

import random
from dataclasses import replace

import pytest
import torch

from expunge.attacks._attack import Found
from expunge.attacks._case import Case
from expunge.attacks.relearning import Relearning, area, first_at, lessons_of, whose
from expunge.attacks.relearning_sweep import RelearningSweep
from expunge.errors import TrainingError
from expunge.models.merged import merge_adapters
from expunge.recipes import recipe
from expunge.run import load, unlearn
from expunge.run.relearn import fine_tune
from expunge.types import Example, Probe, Prompt
from tests.attacks.opening import hide, material, opened, plain, share
from tests.run.test_unlearn import DATA, EXAMPLES, TRAIN


@pytest.fixture(scope="module")
def rows(tiny_world):
    return material(tiny_world)


@pytest.fixture(scope="module")
def hidden(tiny_world, rows, tmp_path_factory):
    return hide(tiny_world / "target", rows, tmp_path_factory.mktemp("hidden") / "model")


@pytest.fixture(scope="module")
def readings(tiny_world, rows, hidden):
    folders = {"hidden": hidden, "gold": tiny_world / "gold"}
    return {name: Relearning().read(opened(folder, rows)) for name, folder in folders.items()}


KINDS = ("other people", "same people", "retain rows")


def test_what_was_only_hidden_comes_back_by_every_kind_of_rows_and_a_gold_stays_at_the_guess_rate(
    readings, rows, hidden
):
    assert plain(hidden, rows) <= 0.1
    for kind in KINDS:
        assert share(readings["hidden"], kind) >= 0.35, kind
        assert share(readings["gold"], kind) <= 0.2, kind


def test_every_case_is_read_once_by_every_kind(readings, rows):
    for kind in KINDS:
        asked = [row.case for row in readings["gold"].found if row.variant == f"{kind}, 20 steps"]
        assert sorted(asked) == list(range(len(rows.cases)))


def test_the_curve_begins_with_the_model_as_it_is_and_ends_with_what_is_reported(readings, rows, hidden):
    notes = readings["hidden"].notes
    curve = [notes[f"recalled after {steps} steps"] for steps in (0, 5, 10, 20)]
    assert curve[0] == plain(hidden, rows)
    assert curve[-1] == share(readings["hidden"], "other people")
    assert notes["area under the curve"] == pytest.approx(
        (curve[0] + curve[1]) / 8 + (curve[1] + curve[2]) / 8 + (curve[2] + curve[3]) / 4
    )
    assert 0 < notes["steps until half is recalled"] <= 5


def test_the_gold_learns_what_it_is_taught_and_the_rest_that_is_left_is_told(readings):
    for reading in readings.values():
        assert reading.notes["trained rows answered after"] >= 0.9
        assert reading.notes["retain rows answered before"] >= 0.9
        assert 0 < reading.notes["retain rows answered after"] < 1
    assert readings["gold"].notes["steps until half is recalled"] is None


def test_the_same_seed_finds_the_same(readings, rows, hidden):
    again = Relearning(data=("same people",)).read(opened(hidden, rows))
    assert list(again.found) == [
        row for row in readings["hidden"].found if row.variant.startswith("same people")
    ]


def test_a_shorter_run_is_the_beginning_of_a_longer_one(tiny_world, rows):
    given = opened(tiny_world / "gold", rows)
    lessons = lessons_of("other people", given)
    seen = []
    attack = Relearning(steps=6, batch_size=4)
    for steps in (3, 6):
        lm = given.again()
        examples = [Example(Prompt.ask(case.question), case.probe.answer) for case in lessons[0].rows]
        seen.append(
            [entry["retain_loss"] for entry in fine_tune(lm, examples, attack.training_for(steps), 0)]
        )
    assert seen[1][:3] == seen[0]


# --- what is trained on ------------------------------------------------------------------------------------------------------
def test_nobody_who_is_read_was_trained_on_where_others_are_known(tiny_world, rows):
    (lesson,) = lessons_of("other people", opened(tiny_world / "gold", rows))
    assert not {whose(case) for case in lesson.rows} & {whose(rows.cases[i]) for i in lesson.asked}


def test_where_nobody_else_is_known_half_of_the_people_are_trained_on_and_the_others_read(tiny_world, rows):
    given = opened(tiny_world / "gold", rows, known=())
    lessons = lessons_of("other people", given)
    for lesson in lessons:
        assert not {whose(case) for case in lesson.rows} & {whose(rows.cases[i]) for i in lesson.asked}
    assert sorted(i for lesson in lessons for i in lesson.asked) == list(range(len(rows.cases)))


def test_rows_of_the_same_person_are_halved_and_a_row_that_tells_the_answer_keeps_it_from_being_read(
    tiny_world, rows
):
    given = opened(tiny_world / "gold", rows)
    for lesson in lessons_of("same people", given):
        taught, asked = (
            {case.probe.id for case in lesson.rows},
            {rows.cases[i].probe.id for i in lesson.asked},
        )
        assert not taught & asked
        assert {whose(case) for case in lesson.rows} == {whose(rows.cases[i]) for i in lesson.asked}
    first, second = rows.cases[:2]
    assert whose(first) == whose(second)
    telling = replace(second.probe, answer=f"{second.probe.answer} {first.value}")
    given.cases = [first, replace(second, probe=telling)]
    assert [list(lesson.asked) for lesson in lessons_of("same people", given)] == [[1]]


def test_what_a_retain_row_or_a_known_row_tells_is_not_read_and_texts_are_trained_on_as_texts(
    tiny_world, rows
):
    given = opened(tiny_world / "gold", rows)
    first, second = rows.cases[:2]
    given.cases = [first, second]
    telling = Case(Probe("t", f"{first.name} was a friend of the {first.value} people.", ""))
    given.retain = given.known = [telling]
    for kind in ("retain rows", "other people"):
        (lesson,) = lessons_of(kind, given)
        assert list(lesson.asked) == [1]
    seen = []
    given.train = lambda lm, examples, settings, seed: seen.extend(examples)
    Relearning(data=("retain rows",)).read(given)
    assert seen == [Example(None, telling.question, "t")]
    given.cases = [first]
    assert RelearningSweep().read(given).why
    assert Relearning(data=("retain rows",)).read(given).why


def test_one_row_of_one_person_leaves_only_the_retain_rows_and_without_those_there_is_a_reason(
    tiny_world, rows
):
    given = opened(tiny_world / "gold", rows, known=())
    given.cases = rows.cases[:1]
    assert {row.variant for row in Relearning(steps=1).read(given).found} == {"retain rows, 1 steps"}
    given.retain = ()
    reading = Relearning(steps=1).read(given)
    assert not reading.found
    assert "no other to train on" in reading.why
    assert "no retain rows" in reading.why


def test_training_that_explodes_is_a_reason_and_no_crash(tiny_world, rows):
    given = opened(tiny_world / "gold", rows)

    def explode(*given):
        raise TrainingError("step 1: loss is nan\nmore")

    given.train = explode
    reading = Relearning(steps=1).read(given)
    assert (list(reading.found), reading.why) == ([], "step 1: loss is nan")


def test_the_area_and_the_step_of_a_level_by_hand():
    assert area([(0, 0.0), (5, 0.5), (20, 1.0)]) == pytest.approx((1.25 + 11.25) / 20)
    assert first_at([(0, 0.0), (5, 0.4), (10, 0.6)], 0.5) == pytest.approx(7.5)
    assert first_at([(0, 0.6), (5, 0.4)], 0.5) == 0.0
    assert first_at([(0, 0.0), (5, 0.4)], 0.5) is None
    assert area([(0, 0.3)]) is None


# --- the attacker's choice -----------------------------------------------------------------------------------------------
def test_the_sweep_reads_each_person_under_what_was_best_for_the_others(tiny_world, rows, hidden):
    attack = RelearningSweep(learning_rates=(1e-6, 3e-4), steps=(10,))
    folders = {"hidden": hidden, "gold": tiny_world / "gold"}
    found = {name: attack.read(opened(folder, rows)) for name, folder in folders.items()}
    assert share(found["hidden"]) >= 0.4
    assert share(found["gold"]) <= 0.2
    assert found["hidden"].notes["half 1: rate"] == found["hidden"].notes["half 2: rate"] == 3e-4
    assert sorted(row.case for row in found["hidden"].found) == list(range(len(rows.cases)))
    assert attack.read(opened(hidden, rows, known=())).why


def test_the_choice_is_made_on_people_that_do_not_count(tiny_world, rows, monkeypatch):
    """One rate brings back half of the people alone, the other one the rest: chosen on themselves, all would be back."""
    people = sorted({whose(case) for case in rows.cases})
    half = {}

    def tried(self, opened, lesson):
        random.Random(opened.seed.child("halves").number).shuffle(people)
        half.update({person: i < len(people) // 2 for i, person in enumerate(people)})
        return {
            (rate, 10): [Found(i, (half[whose(case)] is good,)) for i, case in enumerate(opened.cases)]
            for rate, good in ((1e-4, True), (1e-3, False))
        }

    monkeypatch.setattr(RelearningSweep, "_tried", tried)
    found = RelearningSweep().read(opened(tiny_world / "gold", rows)).found
    assert sorted(row.case for row in found) == list(range(len(rows.cases)))
    assert not any(row.hits[0] for row in found)


# --- adapters ------------------------------------------------------------------------------------------------------------
def test_an_adapter_is_merged_and_all_weights_are_trained(model_folder, tmp_path):
    out = unlearn(
        model_folder,
        DATA,
        recipe("ga+lora", train=TRAIN, adapter={"rank": 4}),
        tmp_path / "run",
        device="cpu",
    )
    before = [score.logprob for score in load(out).score(EXAMPLES)]
    lm = load(out)
    names = set(load(model_folder).model.state_dict())
    merge_adapters(lm.model)
    assert set(lm.model.state_dict()) == names
    assert [score.logprob for score in lm.score(EXAMPLES)] == pytest.approx(before, abs=1e-4)
    start = {name: value.clone() for name, value in lm.model.state_dict().items()}
    rows = [record.example() for record in DATA.forget[:4]]
    fine_tune(lm, rows, Relearning(steps=1, batch_size=4).training, 0)
    moved = [name for name, value in lm.model.state_dict().items() if not torch.equal(value, start[name])]
    assert any("embed" in name for name in moved)
    assert any("q_proj" in name for name in moved)
