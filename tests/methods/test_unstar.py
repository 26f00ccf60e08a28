"""The loop of UnStar on a model that flips when it is trained (check C33)."""

import json

import pytest

from expunge.data.dataset import Record
from expunge.data.writers import Borrow
from expunge.errors import ConfigError, DataError
from expunge.methods._words import matches
from expunge.methods.examples.anti_samples import AntiSamples
from expunge.methods.procedures.unstar import UnStar
from expunge.types import Course, Generation, Given, Seed
from tests.methods.test_examples import FORGET, RETAIN, ROWS


class Stub:
    """Knows all rows by heart; one that was trained on a question gives the trained answer from then on.

    `deep`: training on one wording changes all wordings of the question.
    """

    capabilities = frozenset()

    def __init__(self, deep=True):
        self.deep, self.trained, self.calls = deep, {}, 0

    def answer(self, question):
        row = next(row for row in ROWS if row.subject in question)
        return self.trained.get(row.subject if self.deep else question, row.answer)

    def generate(self, prompts, params):
        self.calls += 1
        return [[Generation(self.answer(prompt.text), 1, True)] for prompt in prompts]

    def train(self, stage):
        for example, (target,) in zip(stage.shown.forget, stage.shown.alternates, strict=True):
            row = next(row for row in ROWS if example.id.startswith(row.id))
            self.trained[row.subject if self.deep else example.prompt.text] = target.answer


def course_of(model, memory, writer=None, forget=FORGET):
    given = Given((), Seed(0), writer or Borrow(ROWS))
    return Course(
        recipe="the recipe",
        forget=forget,
        retain=RETAIN,
        show=lambda rows: AntiSamples().show(rows, RETAIN, given),
        model=model,
        writer=given.writer,
        memory=memory,
    )


def run(loop, model, memory):
    """Runs the loop as the driver does, with memory going through JSON between stages."""
    stages = []
    while stage := loop.stage(len(stages), course_of(model, memory)):
        memory.update(json.loads(json.dumps(memory)))
        stages.append(stage)
        model.train(stage)
    return stages


@pytest.mark.parametrize("deep", [True, False])
def test_the_loop_ends_with_nothing_told_and_retain_answers_as_before(deep):
    model, memory = Stub(deep), {}
    before = [model.answer(row.question) for row in RETAIN]
    stages = run(UnStar(rounds=6), model, memory)
    assert 1 <= len(stages) <= 6
    assert memory["rounds"][-1]["still_told"] == []
    assert not memory["rounds"][-1]["trained"]
    assert not any(matches(model.answer(row.question), row) for row in FORGET)
    assert [model.answer(row.question) for row in RETAIN] == before
    for stage in stages:
        assert stage.recipe == "the recipe"
        assert [e.answer for e in stage.shown.retain] == [row.answer for row in RETAIN]
        for example, (target,) in zip(stage.shown.forget, stage.shown.alternates, strict=True):
            row = next(row for row in FORGET if example.id.startswith(row.id))
            assert not matches(target.answer, row)
    assert (len(stages) > 1) is not deep, (
        "where only the trained wording flips, easier questions find the fact again"
    )


def test_only_what_is_still_told_is_trained_on():
    model = Stub()
    model.trained[FORGET[0].subject] = "In Zagrad."
    stage = UnStar().stage(0, course_of(model, {}))
    assert [e.id for e in stage.shown.forget] == [FORGET[1].id]
    assert stage.name == "round 1"


def test_easier_questions_come_from_the_second_round_on_and_only_for_facts_that_seem_lost():
    model, memory = Stub(deep=False), {}
    loop = UnStar(questions=2)
    model.train(loop.stage(0, course_of(model, memory)))
    assert memory["rounds"][0] == {
        "asked": 2,
        "still_told": [row.id for row in FORGET],
        "new_questions": {},
        "trained": True,
    }
    stage = loop.stage(1, course_of(model, memory))
    assert memory["rounds"][1]["asked"] == 6
    assert [len(texts) for texts in memory["rounds"][1]["new_questions"].values()] == [2, 2]
    assert all(" / " in e.id for e in stage.shown.forget)
    third = loop.stage(2, course_of(model, memory))
    assert third is not None
    assert memory["rounds"][2]["new_questions"] == {}, "nothing seems lost while a wording still tells it"


def test_rounds_are_bounded_and_what_is_left_is_counted():
    class Deaf(Stub):
        def train(self, stage): ...

    memory = {}
    assert len(run(UnStar(rounds=3), Deaf(), memory)) == 3
    assert len(memory["rounds"]) == 4
    assert memory["rounds"][-1]["still_told"] == [row.id for row in FORGET]
    assert not memory["rounds"][-1]["trained"]


def test_a_round_that_was_cut_off_is_asked_again():
    model, memory = Stub(deep=False), {}
    loop = UnStar()
    model.train(loop.stage(0, course_of(model, memory)))
    first = loop.stage(1, course_of(model, memory))
    kept = json.dumps(memory)
    again = loop.stage(1, course_of(model, memory))
    assert again.shown == first.shown
    assert json.dumps(memory) == kept


def test_asking_is_one_batch_a_round_and_one_for_new_questions():
    model, memory = Stub(), {}
    run(UnStar(), model, memory)
    assert model.calls == 3


def test_it_needs_questions_and_somebody_who_writes_new_ones():
    with pytest.raises(DataError, match="no forget row is a question-answer pair"):
        UnStar().stage(0, course_of(Stub(), {}, forget=[Record("t", text="A passage.")]))
    model, memory = Stub(), {}
    model.train(UnStar().stage(0, course_of(model, memory)))
    with pytest.raises(ConfigError, match=r"the writer is 'none'.*procedure.questions=0"):
        UnStar().stage(1, course_of(model, memory)._replace(writer=None))
    assert UnStar(questions=0).stage(1, course_of(model, memory)._replace(writer=None)) is None
