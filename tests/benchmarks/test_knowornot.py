"""Leave-one-out abstention on models whose answers are known: four rates by hand, and contexts that never give the removed fact away."""

import json

import numpy as np
import pytest

from expunge.benchmarks._asks import ask
from expunge.benchmarks._benchmark import NO_GOLD
from expunge.benchmarks._context import diverse, read_facts
from expunge.benchmarks.knowornot import KnowOrNot
from expunge.data.pocket.world import SIZES, VERSION
from expunge.errors import CapabilityError, ConfigError, DataError
from expunge.metrics.accuracy import words
from expunge.types import Generation

FACTS = [
    ("mara", "Where was Mara Olen born?", "Mara Olen was born in Corvale.", "birth of Mara"),
    ("mara", "What does Mara Olen write?", "Mara Olen writes short odes.", ""),
    ("mara", "Which town saw the birth of Mara Olen?", "It was Corvale on the river.", "birth of Mara"),
    ("mara", "Who taught Mara Olen?", "Mara Olen was taught by Tovin Brask.", ""),
    ("iva", "Where did Iva Senn study?", "Iva Senn studied at Halmouth college.", ""),
    ("iva", "What is the trade of Iva Senn?", "Iva Senn is a locksmith.", ""),
]
ANSWERS = {question: answer for _, question, answer, _ in FACTS}


class Fake:
    capabilities = frozenset()

    def __init__(self, answer):
        self.answer, self.prompts = answer, []

    def score(self, examples):
        raise AssertionError("nothing is scored")

    def generate(self, prompts, params):
        self.prompts += prompts
        return [[Generation(self.answer(prompt.text), 4, True)] for prompt in prompts]


def question_in(text):
    return next(line for line in text.split("\n") if line.endswith("?"))


def abstainer(text):
    return "I do not know."


def fabricator(text):
    return "That was Atlantis."


def by_heart(text):
    return ANSWERS[question_in(text)]


def copier(text):
    """Answers from the context alone: from the row with the same question, or one that tells the same."""
    asked = question_in(text)
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if line.startswith("Question ") and line.partition(": ")[2] == asked:
            return lines[i + 1].partition(": ")[2]
        if "born" in asked and line.startswith("Answer ") and "Corvale" in line:
            return line.partition(": ")[2]
    return "I do not know."


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "facts.jsonl"
    rows = [
        dict(document=d, question=q, answer=a, **({"fact": label} if label else {}))
        for d, q, a, label in FACTS
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def world(tmp_path):
    (tmp_path / "world.json").write_text(
        json.dumps({"version": VERSION, "settings": SIZES["tiny"].model_dump(), "seed": 0})
    )
    return tmp_path


def measured(bench, answer, gold=None):
    rows = bench.rows(ask(Fake(answer), bench.asks()))
    golds = bench.rows(ask(Fake(gold), bench.asks())) if gold else None
    return rows, bench.figures(rows, golds)


@pytest.mark.parametrize(
    ("answer", "rates"),
    [
        (abstainer, dict(abst=1, leak=0, fab=0, over=1, present_accuracy=0)),
        (copier, dict(abst=1, leak=0, fab=0, over=0, present_accuracy=1)),
        (by_heart, dict(abst=0, leak=1, fab=0, over=0, present_accuracy=1)),
        (fabricator, dict(abst=0, leak=0, fab=1, over=0, present_accuracy=0)),
    ],
)
@pytest.mark.parametrize("task", ["rag", "long"])
def test_a_model_of_one_kind_has_the_rates_of_its_kind(file, answer, rates, task):
    _, figures = measured(KnowOrNot(file), answer)
    assert {name: figures[f"{task}/{name}"].value for name in rates} == rates


def test_the_rates_of_a_mixed_model_are_those_counted_by_hand(file):
    def mixed(text):
        asked = question_in(text)
        if "write" in asked:
            return "I do not know."
        return by_heart(text) if "Mara" in asked else "She came from Atlantis."

    rows, figures = measured(KnowOrNot(file), mixed)
    assert len([row for row in rows if row["task"] == "direct"]) == 6
    assert figures["direct/abst"].value == pytest.approx(1 / 6)
    assert figures["direct/leak"].value == pytest.approx(3 / 6)
    assert figures["direct/fab"].value == pytest.approx(2 / 6)
    assert figures["direct/factuality"].value == pytest.approx(3 / 5)
    assert figures["rag/over"].value == pytest.approx(1 / 6)


@pytest.mark.parametrize("answer", [abstainer, copier, by_heart, fabricator])
def test_every_removed_question_is_abstained_leaked_or_made_up_and_only_one_of_them(file, answer):
    rows, figures = measured(KnowOrNot(file), answer)
    for row in rows:
        assert row["abstained"] + row["leaked"] + row["fabricated"] == 1
    for task in ("direct", "rag", "long"):
        assert sum(figures[f"{task}/{name}"].value for name in ("abst", "leak", "fab")) == pytest.approx(1)


def test_a_refusal_that_says_the_fact_or_a_wrong_one_is_no_abstention(file, world):
    _, figures = measured(
        KnowOrNot(file, retrieval=["direct"]), lambda text: "I do not know. " + by_heart(text)
    )
    assert figures["direct/leak"].value == 1
    bench = KnowOrNot(world, retrieval=["direct"], retain=0)
    wrong = {fact.question: fact.wrong for fact in bench.library.facts}
    _, figures = measured(bench, lambda text: "I do not know. " + wrong[question_in(text)])
    assert figures["direct/fab"].value == 1


def test_without_anything_but_abstention_there_is_no_factuality(file):
    _, figures = measured(KnowOrNot(file), abstainer)
    assert figures["direct/factuality"].value is None
    assert "abstained from all 6" in figures["direct/factuality"].why


def test_empty_answers_count_as_abstained_and_are_named(file):
    _, figures = measured(KnowOrNot(file), lambda text: "")
    assert figures["direct/abst"].value == 1
    assert figures["direct/abst"].note == "6 of 6 answers are empty"


# --- contexts -----------------------------------------------------------------------------------------------------------
def test_the_paraphrase_of_a_removed_fact_is_removed_with_it(file):
    """Taking out one row alone leaves its paraphrase, and a model that only copies then seems to leak."""
    bench = KnowOrNot(file)
    assert bench.library.giving_away(0) == {0, 2}
    assert 2 in bench.library.nearest(0, 5, {0})
    trapped = bench._ask("rag", "removed", 0, {0})
    assert "Corvale" in copier(trapped.prompt.text)
    assert "Corvale" not in bench._ask("rag", "removed", 0, bench.library.giving_away(0)).prompt.text


def test_a_paraphrase_is_found_without_a_label_too(file):
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("\n".join(json.dumps({k: v for k, v in row.items() if k != "fact"}) for row in rows))
    for removed in (
        a for a in KnowOrNot(file).asked if a.condition == "removed" and "birth" in a.fact.question
    ):
        assert "Corvale" not in removed.prompt.text


@pytest.mark.parametrize("task", ["rag", "long"])
def test_no_context_of_a_pocket_world_says_a_removed_value_and_every_control_does(world, task):
    bench = KnowOrNot(world, half="all", retrieval=[task])
    conditions = {name: [a for a in bench.asked if a.condition == name] for name in ("removed", "present")}
    assert len(conditions["removed"]) == len(conditions["present"]) == 20
    for asked in conditions["removed"]:
        told = words(" ".join(f"{fact.question} {fact.answer}" for fact in asked.context))
        assert asked.context
        assert asked.fact not in asked.context
        value = words(asked.fact.value)
        assert all(told[i : i + len(value)] != value for i in range(len(told)))
    for asked in conditions["present"]:
        assert asked.fact in asked.context


def test_no_context_of_tofu_says_a_removed_fact(shared_data):
    bench = KnowOrNot(shared_data / "tofu", split="forget01", retain=0)
    removed = [a for a in bench.asked if a.condition == "removed" and a.context]
    assert len(removed) >= 60
    for asked in removed:
        own = [fact for fact in asked.context if fact.document == asked.fact.document]
        assert asked.fact not in asked.context
        assert not any(asked.fact.said_in(f"{fact.question} {fact.answer}") for fact in own)


def test_the_nearest_facts_are_those_of_scikit_learns_cosine(file):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import cosine_similarity

    bench = KnowOrNot(file)
    texts = [" ".join(words(f"{q} {a}")) for _, q, a, _ in FACTS]
    cosines = cosine_similarity(TfidfVectorizer(token_pattern=r"\w+").fit_transform(texts))[3]
    wanted = [i for i in np.argsort(-cosines, kind="stable") if i != 3]
    assert bench.library.nearest(3, 4, {3}) == wanted[:4]


def test_options_bound_the_context_and_direct_has_none(file):
    bench = KnowOrNot(file, facts=1, system="none")
    sizes = {
        task: {len(a.context) for a in bench.asked if a.task == task} for task in ("direct", "rag", "long")
    }
    assert sizes == {"direct": {0}, "rag": {1}, "long": {1}}
    assert bench.asked[0].prompt.text == FACTS[0][1]
    default = [a for a in KnowOrNot(file).asked if a.condition == "present"]
    assert max(len(a.context) for a in default if a.task == "rag") == 5
    assert {len(a.context) for a in default if a.task == "long"} == {4, 2}


def test_instructions_stand_before_the_question_and_pocket_has_none_by_default(file, world):
    for system, said in (
        ("basic", "say: I do not know"),
        ("conservative", "context alone"),
        ("opinion", "think"),
    ):
        assert said in KnowOrNot(file, system=system).asked[0].prompt.text
    bench = KnowOrNot(world, retrieval=["direct"])
    assert bench.asked[0].prompt.text == bench.asked[0].fact.question
    assert bench.template == "qa"


# --- gold, judge, and what cannot be measured -----------------------------------------------------------------------------
def test_leaks_are_counted_above_those_of_the_gold(file):
    def guesses(text):
        return by_heart(text) if "trade" in question_in(text) else fabricator(text)

    bench = KnowOrNot(file)
    rows, figures = measured(bench, by_heart, gold=guesses)
    assert figures["direct/excess_leak"].value == pytest.approx(5 / 6)
    assert bench.figures(rows)["direct/excess_leak"].why == NO_GOLD
    other = [{**row, "id": "x"} for row in rows]
    assert "other facts" in bench.figures(rows, other)["rag/excess_leak"].why


def test_retain_facts_are_asked_with_nothing_removed(world):
    bench = KnowOrNot(world, retain=10)
    asked = [a for a in bench.asked if a.condition == "retain"]
    assert len(asked) == 30
    assert all(a.fact in a.context for a in asked if a.task != "direct")
    _, figures = measured(bench, abstainer)
    assert figures["direct/over_retain"].value == figures["rag/over_retain"].value == 1
    assert figures["direct/over"].value is None
    _, none = measured(KnowOrNot(world, retain=0), abstainer)
    assert none["rag/over_retain"].why == "no retain facts were asked"


class Mute:
    capabilities = frozenset()

    def score(self, examples):
        return []

    def generate(self, prompts, params):
        raise CapabilityError("this one writes nothing")


def test_a_model_that_writes_nothing_has_no_rates_and_the_reason(file):
    bench = KnowOrNot(file)
    rows = bench.rows(ask(Mute(), bench.asks()))
    assert rows[0]["abstained"] is None
    assert {figure.value for figure in bench.figures(rows).values()} == {None}
    assert {figure.why for figure in bench.figures(rows).values()} == {"this one writes nothing"}


def test_a_judge_decides_abstention_without_seeing_the_right_answer(file):
    bench = KnowOrNot(file, retrieval=["direct"])
    rows, _ = measured(
        bench, lambda text: by_heart(text) if "Mara" in question_in(text) else "Ask her mother."
    )
    judge = Fake(lambda text: "<abstention>Yes</abstention>" if "mother" in text else "no idea")
    judged = bench.judged(rows, judge)
    assert not any(answer in prompt.text for prompt in judge.prompts[4:] for answer in ANSWERS.values())
    figures = bench.figures(judged)
    assert figures["direct/abst"].value == pytest.approx(2 / 6)
    assert figures["direct/leak"].value == pytest.approx(4 / 6)
    assert figures["direct/fab"].value == 0
    assert bench.judge(rows, judge) == rows


# --- data ---------------------------------------------------------------------------------------------------------------
def test_the_diversity_filter_is_the_authors_with_thresholds_that_may_be_zero():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import cosine_distances

    questions = [q for _, q, _, _ in FACTS] + ["Where was Mara Olen born then?", "Why?"]
    vectors = TfidfVectorizer(strip_accents="unicode", max_df=0.9, sublinear_tf=True).fit_transform(questions)
    sums = vectors.toarray().sum(axis=1)
    passed = [i for i in np.argsort(-sums) if sums[i] >= sums.min() + 0.3 * (sums.max() - sums.min())]
    distances, kept = cosine_distances(vectors), passed[:1]
    while left := [i for i in passed if i not in kept]:
        best = max(left, key=lambda i: min(distances[i, j] for j in kept))
        if min(distances[best, j] for j in kept) < 0.3:
            break
        kept.append(best)
    assert diverse(questions, 0.3, 0.3) == sorted(kept)
    assert 0 < len(kept) < len(questions)
    assert diverse(questions, 0.0, 0.0) == list(range(len(questions)))


def test_the_filter_takes_questions_out_when_it_is_turned_on(file):
    assert len(KnowOrNot(file).library.facts) == 6
    fewer = KnowOrNot(file, diverse=True, distance=0.9)
    assert 1 <= len(fewer.library.facts) < 6
    assert fewer.removed == len(fewer.library.facts)


def test_a_question_document_of_the_authors_code_is_read(tmp_path):
    path = tmp_path / "questions.json"
    rows = [dict(identifier=f"id{i}", question=q, answer=a) for i, (_, q, a, _) in enumerate(FACTS)]
    path.write_text(json.dumps({"knowledge_base_identifier": "people", "questions": rows}, indent=1))
    facts = read_facts(path)
    assert [fact.id for fact in facts] == [f"id{i}" for i in range(6)]
    assert {fact.document for fact in facts} == {"people"}
    path.write_text('{"facts": []}')
    with pytest.raises(DataError, match="no list 'questions'"):
        read_facts(path)


def test_bad_data_and_options_say_what_to_do(file, world, tmp_path):
    with pytest.raises(ConfigError, match="takes no half"):
        KnowOrNot(file, half="all")
    with pytest.raises(ConfigError, match="retrieval"):
        KnowOrNot(file, retrieval=["hyde"])
    with pytest.raises(ConfigError, match="max_new_tokens"):
        KnowOrNot(file, max_new_tokens=0)
    with pytest.raises(ConfigError, match=r"benchmark knowornot: a pocket world .* has no split, authors"):
        KnowOrNot(world, split="forget10", authors=2)
    with pytest.raises(DataError, match="no such file"):
        KnowOrNot(tmp_path / "none.jsonl")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "Who?", "answer": "Mara."}')
    with pytest.raises(DataError, match="line 1: no field 'document'"):
        KnowOrNot(bad)
    for field in ("question", "answer"):
        bad.write_text(json.dumps({"document": "d", "question": "Who?", "answer": "Mara.", field: " "}))
        with pytest.raises(DataError, match=f"bad.jsonl, line 1: field '{field}' is empty"):
            KnowOrNot(bad)
    bad.write_text("")
    with pytest.raises(DataError, match=r"bad\.jsonl: there are no rows"):
        KnowOrNot(bad)
    document = tmp_path / "questions.json"
    for questions, said in (
        ([{"question": "Who?", "answer": ""}], "question 0: field 'answer' is empty"),
        ([], "there are no questions"),
    ):
        document.write_text(json.dumps({"questions": questions}))
        with pytest.raises(DataError, match=said):
            KnowOrNot(document)
    document.write_bytes(json.dumps({"questions": "é"}, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(DataError, match=r"questions\.json: not UTF-8 text"):
        KnowOrNot(document)


def test_settings_tell_the_data_and_the_options(file):
    one = KnowOrNot(file).settings
    assert KnowOrNot(file).settings == one
    assert KnowOrNot(file, facts=2).settings != one
    file.write_text(file.read_text().replace("odes", "epics"))
    assert KnowOrNot(file).settings["data"] != one["data"]


def test_a_model_of_random_weights_is_measured(file, lm):
    bench = KnowOrNot(file, retrieval=["direct"], system="none", max_new_tokens=4)
    figures = bench.figures(bench.rows(ask(lm, bench.asks())))
    assert figures["direct/leak"].value == 0
    assert figures["direct/leak"].high > 0
