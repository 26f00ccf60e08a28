"""ORT: the same fact in every form, P of its value alone, and how unlike the forms lose it."""

import copy
import json

import numpy as np
import pytest
import torch

from expunge.benchmarks._asks import ask
from expunge.benchmarks._benchmark import NO_TARGET
from expunge.benchmarks._forms import FORMS, counted, forms_of, forms_of_rows, spelled
from expunge.benchmarks._open import open_origin
from expunge.benchmarks.ort import Ort
from expunge.data.facts import differing, facts_of
from expunge.data.pocket.world import SIZES, build_world
from expunge.errors import ConfigError
from expunge.models.language_model import TransformerLM
from expunge.types import Example, Probe, Prompt, Score

PAIR = Probe(
    "r1",
    "Where was Mara Olen born?",
    "Mara Olen was born in Corvale.",
    paraphrased_answer="The birthplace of Mara Olen is Corvale.",
    perturbed_answer=("The birthplace of Mara Olen is Dreburg.", "The birthplace of Mara Olen is Pemouth."),
    subject="Mara Olen",
    value="Corvale",
)


def asked(probe, **options):
    (fact,) = facts_of([probe])
    return {one.form: one for one in forms_of(fact, **options)}


# --- forms of pairs -------------------------------------------------------------------------------------------------------
def test_forms_ask_the_same_fact_in_other_shapes():
    found = asked(PAIR)
    assert set(found) == set(FORMS)
    said = {form: (one.query, one.head, one.answer) for form, one in found.items()}
    assert said["qa"] == ("Where was Mara Olen born?", "Mara Olen was born in", "Corvale")
    assert said["cloze"] == ("Mara Olen was born in ___.", "", "Corvale")
    assert said["multiple_choice"] == (
        "Where was Mara Olen born?\nA. Corvale\nB. Dreburg\nC. Pemouth", "", "A"
    )  # fmt: skip
    assert said["reverse"] == ("Of whom is it true: ___ was born in Corvale?", "", "Mara Olen")
    assert said["generation"] == ("Tell me about Mara Olen.", "Mara Olen was born in", "Corvale")
    assert said["qa_spelled"][2] == said["cloze_spelled"][2] == "C\no\nr\nv\na\nl\ne\n"
    assert asked(PAIR, choices="text")["multiple_choice"].answer == "Corvale"
    assert len({one.fact for one in found.values()}) == 1


def test_no_form_gives_its_own_answer_away():
    world = build_world(SIZES["tiny"], 0)
    for fact in facts_of(world.probes["forget"]):
        for one in forms_of(fact):
            if one.form in ("cloze", "generation", "reverse", "qa"):
                assert one.answer not in f"{one.query} {one.head}", one


def test_blanks_are_not_spelled():
    assert spelled("Kong Qiu") == "K\no\nn\ng\nQ\ni\nu\n"


def test_without_a_value_it_is_what_the_wrong_answers_say_differently():
    bare = Probe(**{**{f: getattr(PAIR, f) for f in PAIR.__dataclass_fields__}, "value": ""})
    (fact,) = facts_of([bare])
    assert (fact.value, fact.known, fact.statement) == ("Corvale", "differs", PAIR.answer)
    assert fact.wrong == ("Dreburg", "Pemouth")
    said = "She was born in a town called Old Corvale, by the sea."
    other = [said.replace("Old Corvale", town) for town in ("Dreburg", "New Pemouth")]
    assert differing(said, other) == ["Old Corvale", "Dreburg", "New Pemouth"]
    assert differing("Yes, she did.", ["No one knows that"]) is None
    assert differing("In Corvale.", []) is None
    assert differing("She was born in Corvale", ["She was born in"]) is None


def test_what_cannot_be_made_is_counted_and_not_guessed():
    whole = Probe(
        "r2",
        "Did Mara Olen write?",
        "Yes, often.",
        perturbed_answer=("Never at all", "No one knows"),
        subject="Mara Olen",
    )
    own_name = Probe(
        "r3", "Who is it?", "The full name is Mara Olen.", subject="Mara Olen", value="Mara Olen"
    )
    half_name = Probe(
        "r4", "Who wrote it?", "Mara Olen did, as Olen often says so.", subject="Mara Olen", value="often"
    )
    facts = facts_of([PAIR, whole, own_name, half_name])
    assert [fact.known for fact in facts] == ["given", "whole", "given", "given"]
    found = [one for fact in facts for one in forms_of(fact)]
    by_fact = {fact.id: {one.form for one in found if one.fact == fact.id} for fact in facts}
    # whole answers: no blank, no head, nothing short to spell; its wrong answers are of the same wording, so they are options
    assert by_fact["r2"] == {"qa", "multiple_choice"}
    assert not by_fact["r3"] & {"reverse", "generation", "multiple_choice"}, "the value is the name"
    assert "reverse" not in by_fact["r4"], "half the name is left"
    assert counted(facts, found) == {
        "qa": 0, "cloze": 1, "multiple_choice": 2, "reverse": 3, "generation": 2, "qa_spelled": 1, "cloze_spelled": 1, "value": 1, "reworded": 0
    }  # fmt: skip


def test_tofu_has_forms_for_most_facts_and_the_rest_is_counted(shared_data):
    facts = facts_of(open_origin(shared_data / "tofu").tasks()["forget"])
    found = [one for fact in facts for one in forms_of(fact)]
    missing = counted(facts, found)
    assert (len(facts), missing["qa"], missing["value"], missing["reworded"]) == (400, 0, 34, 319)
    assert missing["cloze"] == 34
    assert missing["reverse"] < 120
    first = facts[0]
    assert (first.value, first.name) == ("Hsiao Yun-Hwa", "Hsiao Yun-Hwa")
    assert not [
        one for one in found if one.form == "cloze" and one.answer in one.query and len(one.answer) > 12
    ]


# --- forms of rows -------------------------------------------------------------------------------------------------------------
def row(level, kind, query, answer):
    return {
        "set": "forget",
        "level": level,
        "type": kind,
        "query": query,
        "answer": answer,
        "subject": "Kong",
    }


def test_rwkus_rows_are_forms_and_lend_some():
    rows = [
        row("1", "cloze", "Kong was born in ___ long ago.", "Lu"),
        row("1", "cloze", "It was ___ and ___.", "this and that"),
        row("2", "simple question", "Where was Kong born?", "Lu"),
        row("3", "multiple choice", "Which: Lu, Qi?", "Lu"),
        row("3", "reverse query", "Who was born in Lu?", "Kong"),
        row("3", "role play", "Pretend.", "Lu"),
    ]
    found = forms_of_rows(rows)
    said = [(one.form, one.query, one.head, one.answer) for one in found]
    assert ("reverse", "Of whom is it true: ___ was born in Lu long ago?", "", "Kong") in said
    assert ("generation", "Tell me about Kong.", "Kong was born in", "Lu") in said
    assert ("multiple_choice", "Which: Lu, Qi?", "", "Lu") in said
    assert sum(one.form == "cloze" for one in found) == 2
    assert sum(one.form in ("reverse", "generation") for one in found) == 3, "two blanks make nothing"
    assert len({one.fact for one in found if one.answer == "Lu"}) == 1
    lettered = forms_of_rows([*rows, row("4", "multiple choice", "Where? A. Lu B. Qi", "A")])
    assert [(o.answer, o.letter) for o in lettered if o.form == "multiple_choice"] == [("A", True)]


def write_rows(path):
    people = ("Kong", "Marx", "Vinci")
    rows = []
    for i, name in enumerate(people):
        for side in ("forget", "neighbor"):
            rows += [
                {"set": side, "level": "1", "type": "cloze", "query": f"{name} likes ___ {i}.", "answer": f"dog {i}", "subject": name},
                {"set": side, "level": "2", "type": "simple question", "query": f"What likes {name} {side}?", "answer": f"dog {i}", "subject": name},
            ]  # fmt: skip
    path.mkdir()
    (path / "probes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_the_prompts_are_the_authors(tmp_path):
    folder = tmp_path / "1_Kong"
    folder.mkdir()
    tables = {
        "forget_level1": ("Kong likes ___.", "1", "cloze", "dogs"),
        "forget_level2": ("What does Kong like?", "2", "simple question", "dogs"),
        "forget_level3": ("Who likes dogs?", "3", "reverse query", "Kong"),
        "forget_mcp": ("What? A. dogs B. cats", 4, "multiple choice", "A"),
    }
    for name, (query, level, kind, answer) in tables.items():
        (folder / f"{name}.json").write_text(
            json.dumps([{"query": query, "level": level, "type": kind, "answer": answer}])
        )
    bench = Ort(tmp_path)
    texts = {task: bench.example(part[0]) for task, part in bench.tasks.items() if part}
    assert texts["forget_cloze"].prompt == Prompt.ask(
        "Please complete the blank in the following question.\nQuestion: Kong likes ___.\n", prefill="Answer:"
    )
    assert texts["forget_multiple_choice"].prompt == Prompt.ask(
        "Please answer the following multiple choice question. Just provide the letter of the correct answer.\nQuestion: What? A. dogs B. cats\n",
        prefill="Answer:",
    )
    assert texts["forget_qa_spelled"].prompt == Prompt.ask(
        "Write the answer character by character, each on a new line.\nPlease briefly answer the following question.\n"
        "Question: What does Kong like?\n",
        prefill="Answer:\n",
    )
    assert texts["forget_qa"].answer == "dogs"
    assert bench.tasks["forget_qa"][0].subject == "Kong"


# --- P -------------------------------------------------------------------------------------------------------------------------
def direct(lm, example):
    """exp(mean log p) and hits of the answer's tokens, straight from the model."""
    tokenizer = lm.tokenizer
    head = lm.encoder.render(example.prompt)
    ids = tokenizer(head + " " + example.answer)["input_ids"]
    before = len(tokenizer(head)["input_ids"])
    assert ids[:before] == tokenizer(head)["input_ids"]
    with torch.inference_mode():
        logits = lm.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    logp = [logits[i - 1, ids[i]].item() for i in range(before, len(ids))]
    hits = [logits[i - 1].argmax().item() == ids[i] for i in range(before, len(ids))]
    return np.exp(np.mean(logp)), np.mean(hits), len(logp)


@pytest.fixture
def rows_folder(tmp_path):
    return write_rows(tmp_path / "rows")


@pytest.mark.parametrize("name", ["llama-3", "gpt-nobody"])
def test_p_is_that_of_the_answers_tokens_whatever_the_model_is_called_and_however_it_is_batched(
    rows_folder, model, tokenizer, name
):
    model.config._name_or_path = name
    lm = TransformerLM(model, tokenizer)
    bench = Ort(rows_folder, instructions=False)
    rows = bench.rows(ask(lm, bench.asks()))
    checked = 0
    for task in ("forget_qa", "forget_cloze", "neighbor_qa"):
        for one, found in zip(bench.tasks[task], [r for r in rows if r["task"] == task], strict=True):
            p, hits, tokens = direct(lm, bench.example(one))
            assert found["probability"] == pytest.approx(p, rel=1e-4)
            assert found["accuracy"] == pytest.approx(hits)
            assert found["tokens"] == tokens
            assert found["nll"] == pytest.approx(-np.log(p), rel=1e-4)
            checked += 1
    assert checked == 9


class Fixed:
    """Log-probabilities by the question; the end token is far off."""

    capabilities = frozenset()

    def __init__(self, logp, floored=False, default=-1.0):
        self.logp, self.floored, self.default = logp, floored, default

    def score(self, examples):
        return [self._score(e) for e in examples]

    def generate(self, prompts, params):
        pytest.fail("nothing is to be written")

    def _score(self, example: Example) -> Score:
        text = example.prompt.text
        values = next((v for key, v in self.logp.items() if key in text), self.default)
        values = np.atleast_1d(values)
        return Score(
            np.array([*values, -20.0], np.float32), np.array([*(values > -0.5), False]), self.floored
        )


def measured(bench, model, target=None):
    rows = bench.rows(ask(model, bench.asks()))
    old = bench.rows(ask(target, bench.asks())) if target else None
    return rows, bench.figures(rows, None, old)


def test_probability_and_nll_are_two_fields_and_the_mean_is_of_probabilities(rows_folder):
    model = Fixed(
        {"What likes Kong": [-0.1, -0.3], "What likes Marx": [-2.0, -4.0], "What likes Vinci": [-1.0]}
    )
    rows, found = measured(Ort(rows_folder), model)
    qa = [r for r in rows if r["task"] == "forget_qa"]
    assert [r["nll"] for r in qa] == pytest.approx([0.2, 3.0, 1.0]), "without the end token"
    assert [r["probability"] for r in qa] == pytest.approx(list(np.exp([-0.2, -3.0, -1.0])))
    arithmetic = np.exp([-0.2, -3.0, -1.0]).mean()
    assert found["forget_qa/probability"].value == pytest.approx(arithmetic, rel=1e-6)
    assert abs(arithmetic - np.exp(-1.4)) > 0.1, "not exp of the mean NLL"
    assert found["forget_qa/accuracy"].value == pytest.approx(1 / 3)


def test_reduction_change_bias_and_ratio_by_hand(rows_folder):
    bench = Ort(rows_folder, least=0.0)
    old = Fixed({}, default=np.log(0.8))
    new = Fixed(
        {"What likes": np.log(0.2), "Tell me": np.log(0.6), "Of whom": np.log(0.4)}, default=np.log(0.8)
    )
    new.logp |= {"complete the blank": np.log(0.4)}
    new.logp = {"character by character": np.log(0.72), **new.logp}
    _, found = measured(bench, new, old)
    reductions = {form: found[f"forget_{form}/reduction"].value for form in FORMS}
    assert reductions.pop("multiple_choice") is None
    assert reductions == pytest.approx(
        {
            "qa": 0.75,
            "cloze": 0.5,
            "reverse": 0.5,
            "generation": 0.25,
            "qa_spelled": 0.1,
            "cloze_spelled": 0.1,
        }
    )
    assert found["forget_qa/change"].value == pytest.approx(-75)
    assert found["forget/bias"].value == pytest.approx(0.65)
    assert found["forget/worst_to_trained"].value == pytest.approx(0.1 / 0.75)
    assert found["forget/bias"].low == pytest.approx(0.65), "people are alike here"
    trained = Ort(rows_folder, trained="cloze", least=0.0)
    _, found = measured(trained, new, old)
    assert found["forget/worst_to_trained"].value == pytest.approx(0.2)


def test_the_mean_over_people_does_not_weigh_them_by_their_rows(rows_folder):
    extra = {"set": "forget", "level": "2", "type": "x", "answer": "dog", "subject": "Kong"}
    with (rows_folder / "probes.jsonl").open("a") as file:
        file.writelines(json.dumps({**extra, "query": f"What likes Kong then {i}?"}) + "\n" for i in range(3))
    _, found = measured(Ort(rows_folder), Fixed({"What likes Kong": np.log(0.8)}, default=np.log(0.2)))
    assert found["forget_qa/probability"].value == pytest.approx((0.8 + 0.2 + 0.2) / 3)
    assert found["forget_qa/probability"].n == 6
    spread = found["forget_qa/probability"]
    assert spread.low == pytest.approx(0.2)
    assert 0.4 < spread.high <= 0.8 + 1e-6


def test_without_a_target_nothing_is_compared(rows_folder):
    _, found = measured(Ort(rows_folder), Fixed({}))
    for name in ("forget_qa/change", "forget_qa/reduction", "forget/bias", "forget/worst_to_trained"):
        assert found[name].value is None
        assert found[name].why == NO_TARGET


def test_a_form_that_the_target_itself_cannot_answer_has_no_reduction(rows_folder):
    old = Fixed({"character by character": np.log(0.001)}, default=np.log(0.8))
    new = Fixed({"character by character": np.log(0.1)}, default=np.log(0.4))
    _, found = measured(Ort(rows_folder), new, old)
    assert found["forget_qa_spelled/reduction"].value is None
    assert "the target's own P is 0.001" in found["forget_qa_spelled/reduction"].why
    assert found["forget/bias"].value == pytest.approx(0.0), "it would have been -99"
    assert "qa_spelled" not in found["forget/bias"].note
    _, found = measured(Ort(rows_folder, trained="qa_spelled"), new, old)
    assert "the target's own P" in found["forget/worst_to_trained"].why


def test_an_answer_without_probability_makes_the_figure_absent(rows_folder):
    rows, found = measured(Ort(rows_folder), Fixed({}, floored=True), Fixed({}))
    assert rows[0]["probability"] is None
    assert found["forget_qa/probability"].value is None
    assert "no probability" in found["forget_qa/probability"].why
    assert found["forget/bias"].value is None
    json.dumps(rows, allow_nan=False)


def test_a_likelihood_that_is_no_number_is_not_dropped(rows_folder):
    _, found = measured(Ort(rows_folder), Fixed({"What likes Marx": np.nan}))
    assert found["forget_qa/probability"].value is None
    assert "no numbers (first: row 1)" in found["forget_qa/probability"].why
    assert found["forget_cloze/probability"].value is not None


def test_one_person_has_an_interval_over_facts(rows_folder):
    with (rows_folder / "probes.jsonl").open("a") as file:
        more = {
            "set": "forget",
            "level": "2",
            "type": "x",
            "query": "What likes Kong then?",
            "answer": "cat",
            "subject": "Kong",
        }
        file.write(json.dumps(more) + "\n")
    model = Fixed({"then": np.log(0.9)}, default=np.log(0.1))
    _, found = measured(Ort(rows_folder, subject="Kong"), model)
    figure = found["forget_qa/probability"]
    assert (figure.value, figure.n) == (pytest.approx(0.5), 2)
    assert (figure.low, figure.high) == pytest.approx((0.1, 0.9))


def test_pocket_is_asked_in_its_own_words(tiny_world):
    bench = Ort(tiny_world)
    assert bench.template == "qa"
    assert len(bench.tasks["forget_qa"]) == 12, "three people of the reporting half, four facts each"
    one = bench.tasks["forget_multiple_choice"][0]
    assert one.answer in one.query
    assert not one.letter
    example = bench.example(bench.tasks["forget_qa"][0])
    assert example.prompt.text.endswith("was born in")
    assert "Please" not in example.prompt.text
    letters = Ort(tiny_world, choices="letter", instructions=True)
    assert letters.settings != bench.settings
    assert (
        "Just provide the letter" in letters.example(letters.tasks["forget_multiple_choice"][0]).prompt.text
    )


def test_in_pocket_the_gold_has_lost_every_form_that_the_target_knows(tiny_world):
    from expunge.run.measuring import measure

    bench = Ort(tiny_world)
    gold, target = (measure(tiny_world / name, bench) for name in ("gold", "target"))
    found = bench.figures(gold, None, target)
    assert found["forget_qa/reduction"].value > 0.9
    assert found["forget_generation/reduction"].value > 0.9
    assert abs(found["neighbor_qa/reduction"].value) < 0.5
    assert found["forget/bias"].value < 0.2


def test_options_that_there_are_not(rows_folder):
    with pytest.raises(ConfigError, match=r"trained 'clozed': no such form\. Did you mean 'cloze'"):
        Ort(rows_folder, trained="clozed")
    with pytest.raises(ConfigError, match="subject 'Kung': nobody"):
        Ort(rows_folder, subject="Kung")


def test_asking_changes_nothing(rows_folder):
    bench = Ort(rows_folder)
    before = copy.deepcopy(bench.tasks)
    measured(bench, Fixed({}), Fixed({}))
    assert bench.tasks == before
