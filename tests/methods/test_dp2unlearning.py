"""The two stages of DP2Unlearning: what either is shown, by which recipe, and with which promise."""

import pytest

from expunge.data.dataset import Record
from expunge.methods.procedures.dp2unlearning import DP2Unlearning
from expunge.recipes import recipe
from expunge.types import Course, Shown

PEOPLE = ("Mara Olen", "Tovin Brask")


def records(who, count):
    return [Record(f"{i}", f"Question {i} on {who}?", f"Answer {i}.", group=who) for i in range(count)]


FORGET, RETAIN = records(PEOPLE[0], 2), records(PEOPLE[1], 3)


def course(asked=FORGET, kept=RETAIN, **settings):
    made = recipe("dp2unlearning", **settings)
    shown = lambda rows: Shown([r.example() for r in rows], [r.example() for r in kept], [])  # noqa: E731
    return Course(made, asked, kept, shown, None, None, {})


def test_the_private_stage_sees_all_rows_and_the_next_one_those_that_may_stay():
    train = {"epochs": 7, "micro_batch": 2, "learning_rate": 1e-3, "warmup": 0.1}
    seen = course(procedure={"epsilon": 3.0, "delta": 1e-6, "clip": 0.5, "epochs": 4}, train=train, seed=9)
    method = seen.recipe.axes["procedure"]
    first, second = method.stage(0, seen), method.stage(1, seen)
    assert method.stage(2, seen) is None
    assert {e.prompt.text for e in first.shown.retain} == {r.question for r in (*FORGET, *RETAIN)}
    assert {e.prompt.text for e in second.shown.retain} == {r.question for r in RETAIN}
    assert first.shown.forget == second.shown.forget == []
    assert (first.privacy.epsilon, first.privacy.delta, first.privacy.clip) == (3.0, 1e-6, 0.5)
    assert first.privacy.group == 3
    assert first.privacy.train == first.recipe.train
    assert (first.recipe.train.learning_rate, first.recipe.train.epochs) == (5e-5, 4)
    assert (first.recipe.train.batch_size, first.recipe.train.micro_batch) == (16, 2)
    assert second.privacy is None
    assert second.recipe.train == seen.recipe.train.model_copy(update={"epochs": 4})
    assert {stage.recipe.method for stage in (first, second)} == {"retrain"}
    assert first.recipe.seed == second.recipe.seed == 9


def test_half_of_given_steps_is_half_of_them_and_never_none():
    for steps, half in ((10, 5), (1, 1)):
        seen = course(train={"max_steps": steps})
        assert seen.recipe.axes["procedure"].stage(1, seen).recipe.train.max_steps == half


def test_what_is_asked_to_be_forgotten_does_not_change_the_private_stage():
    """So that one private base serves all requests."""
    stages = []
    for forget, retain in ((FORGET, RETAIN), (RETAIN, FORGET), (FORGET[:1], [*RETAIN, *FORGET[1:]])):
        seen = course(forget, retain)
        stages.append(seen.recipe.axes["procedure"].stage(0, seen))
    assert len({tuple(e.prompt.text for e in stage.shown.retain) for stage in stages}) == 1
    assert len({stage.privacy for stage in stages}) == 1


def test_a_group_is_a_person_and_a_row_without_one_stands_for_itself():
    alone = [Record(str(i), f"Question {i}?", f"Answer {i}.") for i in range(5)]
    named = Record("s", subject="Mara Olen")
    seen = course([*FORGET, named], alone)
    stage = seen.recipe.axes["procedure"].stage(0, seen)
    assert stage.privacy.group == 2
    assert len(stage.shown.retain) == 7, "a name alone is nothing to train on"


def test_the_rest_of_the_recipe_goes_with_both_stages():
    seen = course(retain="kl", adapter="lora")
    for number in (0, 1):
        made = seen.recipe.axes["procedure"].stage(number, seen).recipe
        assert set(made.method.split("+")) == {"retrain", "lora"}
        assert type(made.axes["retain"]).__name__ == "KL"


def test_it_is_approximate_and_starts_from_the_base():
    made = recipe("dp2unlearning")
    assert (made.claim, made.axes["procedure"].start) == ("approximate", "base")
    assert recipe(**made.describe()) == made
    assert DP2Unlearning().epsilon == 1
    with pytest.raises(Exception, match="greater than 0"):
        recipe("dp2unlearning", procedure={"epsilon": 0})
