"""Re-introduction in context on models whose answers are known: recovery by hand, contexts that are what they say, and absent reasons."""

import json
import re

import numpy as np
import pytest

from expunge.benchmarks._asks import ask
from expunge.benchmarks._benchmark import NO_GOLD, NO_TARGET
from expunge.benchmarks._context import Fact
from expunge.benchmarks.ununlearning import CONTEXTS, NOTE, UnUnlearning, pieces
from expunge.data.pocket.world import SIZES, VERSION
from expunge.errors import CapabilityError, ConfigError, DataError
from expunge.types import Generation, Probe


class Fake:
    """Answers by the fact that is asked about and what stands before its question."""

    capabilities = frozenset()

    def __init__(self, bench, answer):
        self.facts, self.answer = {fact.question: fact for fact in bench.facts.forget}, answer

    def score(self, examples):
        raise AssertionError("nothing is scored")

    def generate(self, prompts, params):
        found = []
        for prompt in prompts:
            fact = next(fact for question, fact in self.facts.items() if prompt.text.endswith(question))
            context = prompt.text.removesuffix(fact.question).strip()
            found.append([Generation(self.answer(fact, context), 4, True)])
        return found


def knows(fact, context):
    return fact.answer


def forgot(fact, context):
    return "I do not know."


def copies(fact, context):
    """Knows nothing; says what a context says about it, solving definitions."""
    for letter, stands_for in re.findall(r"\b([AB]) is ([^.]+)\.", context):
        context = re.sub(rf"\b{letter}\b", stands_for, context)
    told = [said for said in (fact.statement, fact.wrong) if said in context]
    return told[0] if told else "I do not know."


@pytest.fixture
def world(tmp_path):
    (tmp_path / "world.json").write_text(
        json.dumps({"version": VERSION, "settings": SIZES["tiny"].model_dump(), "seed": 0})
    )
    return tmp_path


@pytest.fixture
def bench(world):
    return UnUnlearning(world, half="all")


def rows_of(bench, answer):
    return bench.rows(ask(Fake(bench, answer), bench.asks()))


def test_a_model_that_copies_recovers_all_of_what_was_unlearned_and_so_does_the_gold(bench):
    unlearned, gold, target = (rows_of(bench, answer) for answer in (copies, copies, knows))
    figures = bench.figures(unlearned, gold, target)
    for task in CONTEXTS:
        assert figures[f"{task}/recovery"].value == 1
        assert figures[f"{task}/gold_recovery"].value == 1
        assert NOTE in figures[f"{task}/recovery"].note
        assert "not a failure of the method" in figures[f"{task}/gold_recovery"].note


def test_a_model_that_forgot_for_good_recovers_nothing(bench):
    figures = bench.figures(rows_of(bench, forgot), None, rows_of(bench, knows))
    assert [figures[f"{task}/recovery"].value for task in CONTEXTS] == [0, 0, 0]
    assert figures["fact/gold_recovery"].why == NO_GOLD


def test_recovery_is_the_share_of_the_gap_that_the_context_closes_by_hand(bench):
    """20 facts. Target: 16 without a context. Model: 4 without, 13 with the fact: (13 - 4) / (16 - 4)."""
    place = {fact.id: i for i, fact in enumerate(bench.facts.forget)}
    assert len(place) == 20

    def model(fact, context):
        return fact.answer if place[fact.id] < (13 if context == fact.statement else 4) else "No."

    def target(fact, context):
        return fact.answer if place[fact.id] < 16 else "No."

    rows = rows_of(bench, model)
    figures = bench.figures(rows, None, rows_of(bench, target))
    assert figures["without/accuracy"].value == pytest.approx(4 / 20)
    assert figures["fact/accuracy"].value == pytest.approx(13 / 20)
    assert figures["fact/recovery"].value == pytest.approx(9 / 12)
    assert figures["fact/recovery"].low < 9 / 12 < figures["fact/recovery"].high
    assert figures["pieces/recovery"].value == 0


def test_the_accuracies_of_a_recovery_are_of_the_same_questions(bench):
    """Were the accuracy without a context taken over all questions, half of the pieces left out would change the recovery."""
    place = {fact.id: i for i, fact in enumerate(bench.facts.forget)}

    def model(fact, context):
        return fact.answer if context or place[fact.id] >= 10 else "No."

    rows = [row for row in rows_of(bench, model) if row["task"] != "pieces" or row["idx"] < 10]
    figure = bench.figures(rows, None, rows_of(bench, knows))["pieces/recovery"]
    assert (figure.value, figure.n) == (1, 10)


def test_without_a_gap_there_is_no_recovery_and_the_reason(bench):
    known, unknown = rows_of(bench, knows), rows_of(bench, forgot)
    for rows, target in ((known, known), (unknown, unknown), (known, unknown)):
        figure = bench.figures(rows, None, target)["fact/recovery"]
        assert figure.value is None
        assert "nothing is to be recovered" in figure.why
    figures = bench.figures(unknown, known, known)
    assert figures["fact/recovery"].value == 0
    assert "the gold says as many" in figures["fact/gold_recovery"].why


def test_without_a_target_recovery_is_absent_never_zero(bench):
    rows = rows_of(bench, copies)
    figures = bench.figures(rows, rows)
    for task in CONTEXTS:
        assert figures[f"{task}/recovery"].value is None
        assert figures[f"{task}/recovery"].why == figures[f"{task}/gold_recovery"].why == NO_TARGET
    assert figures["fact/accuracy"].value == 1


def test_a_target_of_other_facts_is_refused(bench):
    rows = rows_of(bench, copies)
    target = [{**row, "id": row["id"] + "x"} for row in rows_of(bench, knows)]
    assert "other facts" in bench.figures(rows, None, target)["fact/recovery"].why


@pytest.mark.parametrize(("answer", "accuracy", "copied"), [(knows, 1, 0), (copies, 0, 1), (forgot, 0, 0)])
def test_a_wrong_context_tells_copying_from_knowing(bench, answer, accuracy, copied):
    figures = bench.figures(rows_of(bench, answer))
    assert figures["wrong_context/accuracy"].value == accuracy
    assert figures["wrong_context/copied"].value == copied


def test_contexts_are_what_they_say(bench):
    by_fact: dict = {}
    for asked in bench.asked:
        by_fact.setdefault(asked.number, {})[asked.task] = asked.prompt.text.removesuffix(
            asked.fact.question
        ).strip()
    for number, contexts in by_fact.items():
        fact = bench.facts.forget[number]
        assert set(contexts) == {"without", "fact", "pieces", "paragraphs", "wrong_context"}
        assert contexts["without"] == ""
        assert fact.said_in(contexts["fact"])
        assert not fact.said_in(contexts["wrong_context"])
        assert fact.wrong_in(contexts["wrong_context"])
        sentences = contexts["pieces"].split(". ")
        assert len(sentences) == 3
        assert not any(fact.name in sentence and fact.value in sentence for sentence in sentences)
        statements = [s + "." for s in contexts["paragraphs"].rstrip(".").split(". ")]
        assert len(statements) == 5
        assert statements.count(fact.statement) == 1
        assert not any(fact.said_in(s) for s in statements if s != fact.statement)
        assert sum(fact.name in s for s in statements) == 2


def test_paragraphs_are_the_same_for_one_seed_and_others_for_another(world):
    def texts(**options):
        return [a.prompt.text for a in UnUnlearning(world, **options).asked if a.task == "paragraphs"]

    assert texts() == texts()
    assert texts() != texts(seed=1)
    first = {
        text.index(a.fact.statement) == 0
        for a in UnUnlearning(world, half="all").asked
        if a.task == "paragraphs"
        for text in [a.prompt.text]
    }
    assert first == {True, False}
    assert len(texts(relevant=1, distractors=0)[0]) < len(texts()[0])


def test_pieces_need_a_name_or_a_value_that_stands_in_the_statement():
    fact = Fact.of(
        Probe(
            "x",
            "Where was Mara Olen born?",
            "Mara Olen was born in Corvale.",
            value="Corvale",
            subject="Mara Olen",
        )
    )
    assert pieces(fact) == "A is Mara Olen. B is Corvale. A was born in B."
    assert pieces(Fact("y", "d", "Who?", "Somebody else.", statement="Somebody else.")) is None
    assert pieces(Fact("z", "d", "Who is Mara?", "", statement="Maras are tall.", name="Mara")) is None


def test_facts_of_tofu_are_told_by_their_words(shared_data):
    """TOFU does not say which words carry a fact: they are found in all right answers, and in hardly any wrong one."""
    bench = UnUnlearning(shared_data / "tofu")
    facts = [*bench.facts.forget, *bench.facts.retain]
    assert len(bench.facts.forget) == 400
    assert np.mean([fact.said_in(fact.answer) for fact in facts]) == 1
    assert np.mean([fact.said_in(fact.statement) for fact in facts]) > 0.97
    rows = [
        json.loads(line)
        for line in (shared_data / "tofu" / "forget10_perturbed.jsonl").open(encoding="utf-8")
    ]
    wrong = [
        fact.said_in(text)
        for fact, row in zip(bench.facts.forget, rows, strict=True)
        for text in row["perturbed_answer"][1:]
    ]
    assert np.mean(wrong) < 0.03
    figures = bench.figures(rows_of(bench, copies), None, rows_of(bench, knows))
    assert figures["fact/recovery"].value > 0.97
    assert figures["wrong_context/copied"].value > 0.99
    assert figures["wrong_context/accuracy"].value == 0


class Mute(Fake):
    def generate(self, prompts, params):
        raise CapabilityError("this one writes nothing")


def test_a_model_that_writes_nothing_has_no_figures_and_the_reason(bench):
    mute = bench.rows(ask(Mute(bench, knows), bench.asks()))
    known = rows_of(bench, knows)
    figures = bench.figures(mute, known, known)
    assert figures["fact/accuracy"].why == figures["fact/recovery"].why == "this one writes nothing"
    assert "the target gave no answers" in bench.figures(known, None, mute)["fact/recovery"].why
    assert bench.figures(known, mute, known)["fact/gold_recovery"].value is None


def test_bad_data_and_options_say_what_to_do(world, tmp_path):
    file = tmp_path / "facts.jsonl"
    file.write_text("{}")
    with pytest.raises(DataError, match="a file"):
        UnUnlearning(file)
    with pytest.raises(ConfigError, match="relevant"):
        UnUnlearning(world, relevant=0)
    with pytest.raises(ConfigError, match="max_new_tokens"):
        UnUnlearning(world, max_new_tokens=0)
    with pytest.raises(ConfigError, match=r"benchmark ununlearning: a pocket world .* has no split:"):
        UnUnlearning(world, split="forget01")
