"""Multiple choice: what is read, what is asked, and what accuracies and letters say and do not say."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from expunge.benchmarks._asks import ask
from expunge.benchmarks._choice import accuracy, read_letter
from expunge.benchmarks.mmlu import MMLU
from expunge.benchmarks.wmdp import WMDP
from expunge.errors import CapabilityError, ConfigError, DataError
from expunge.metrics.intervals import wilson
from expunge.types import FLOOR, Generation, Score

ROW = {"question": " Who wrote Hamlet? ", "choices": ["Twain", "Woolf", "Shakespeare"], "answer": 2}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def mcq(shared_data):
    return shared_data / "mcq_mini"


class Chooser:
    """Answers by a rule: `letter(prompt)` is the index that it says, `option(text)` the log-probability of an option's text."""

    capabilities = frozenset()

    def __init__(
        self, letter=lambda text: 0, option=lambda text: -1.0, written="{letter}", pieces=1, floored=False
    ):
        self.letter, self.option, self.written, self.pieces, self.floored = (
            letter,
            option,
            written,
            pieces,
            floored,
        )

    def score(self, examples):
        return [self._score(example) for example in examples]

    def _score(self, example):
        text = example.prompt.prefill
        if re.search(r"\nA\. [^\n]*(\n[B-J]\. [^\n]*)*\nAnswer:$", text):
            logp = -1.0 if "ABCDEFGHIJ"[self.letter(text)] == example.answer else -2.0
        else:
            logp = self.option(example.answer)
        if self.floored:
            return Score(np.full(2, FLOOR, np.float32), np.zeros(2, bool), floored=True)
        parts = np.full(self.pieces, logp / self.pieces, np.float32)
        return Score(
            np.append(parts, np.float32(-50)), np.zeros(self.pieces + 1, bool)
        )  # the end token is never right

    def generate(self, prompts, params):
        return [
            [Generation(self.written.format(letter="ABCDEFGHIJ"[self.letter(p.text)]), 2, True)]
            for p in prompts
        ]


def measured(bench, model):
    rows = bench.rows(ask(model, bench.asks()))
    return rows, bench.figures(rows)


def right_letters(bench):
    """The letter that is right for each prompt."""
    return {bench.prompt(item): item.answer for item in bench.items}


# --- prompts ---------------------------------------------------------------------------------------------------------
def test_a_zero_shot_prompt_is_that_of_the_paper_letter_by_letter(tmp_path):
    bench = WMDP.open(write(tmp_path / "wmdp-bio.jsonl", ROW))
    assert bench.prompt(bench.items[0]) == (
        "The following are multiple choice questions (with answers) about biology.\n\n"
        "Who wrote Hamlet?\nA. Twain\nB. Woolf\nC. Shakespeare\nAnswer:"
    )
    assert bench.option_prompt(bench.items[0]) == "Question: Who wrote Hamlet?\nAnswer:"
    assert [example.answer for example in bench.asks().scores] == ["A", "B", "C", *ROW["choices"]]


def test_shots_are_the_first_dev_questions_of_the_same_subject(tmp_path):
    dev = [
        {"subject": subject, "question": f"{subject} {i}?", "choices": ["x", "y"], "answer": i % 2}
        for i in range(3)
        for subject in ("us_history", "law")
    ]
    write(tmp_path / "dev.jsonl", *dev)
    write(tmp_path / "test.jsonl", {**ROW, "subject": "us_history"})
    bench = MMLU.open(tmp_path, shots=2)
    assert bench.prompt(bench.items[0]) == (
        "The following are multiple choice questions (with answers) about us history.\n\n"
        "us_history 0?\nA. x\nB. y\nAnswer: A\n\n"
        "us_history 1?\nA. x\nB. y\nAnswer: B\n\n"
        "Who wrote Hamlet?\nA. Twain\nB. Woolf\nC. Shakespeare\nAnswer:"
    )
    assert bench.option_prompt(bench.items[0]) == (
        "The following are questions (with answers) about us history.\n\n"
        "Question: us_history 0?\nAnswer: x\n\nQuestion: us_history 1?\nAnswer: y\n\n"
        "Question: Who wrote Hamlet?\nAnswer:"
    )
    with pytest.raises(
        DataError, match="subject 'us_history' has 3 rows of split 'dev', and 5 are to be shown"
    ):
        MMLU.open(tmp_path)


def test_what_makes_prompts_shorter_is_said_where_they_grow():
    assert "--set shots=" in MMLU.too_long
    assert "shots" in MMLU.Options.model_fields
    assert not WMDP.too_long, "its prompts have no part that an option takes off"


def test_dev_questions_are_shown_and_never_asked(mcq):
    bench = MMLU.open(mcq)
    assert Counter(item.task for item in bench.items) == {"real_authors": 95, "world_facts": 112}
    assert {task: len(items) for task, items in bench.dev.items()} == {"real_authors": 5, "world_facts": 5}
    assert len(WMDP.open(mcq).items) == 207
    assert bench.prompt(bench.items[0]).count("Answer:") == 6


# --- accuracy --------------------------------------------------------------------------------------------------------
def test_accuracies_of_subjects_and_of_all_weigh_every_question_alike(mcq):
    bench = WMDP.open(mcq)
    right = right_letters(bench)
    rows, found = measured(bench, Chooser(lambda text: right[text] if "real authors" in text else 0))
    first = np.mean([item.answer == 0 for item in bench.items if item.task == "world_facts"])
    assert found["real_authors/letter_accuracy"].value == found["real_authors/written_accuracy"].value == 1.0
    assert found["world_facts/letter_accuracy"].value == pytest.approx(first)
    assert found["all/letter_accuracy"].value == pytest.approx((95 + 112 * first) / 207)
    assert found["all/letter_accuracy"].n == len(rows) == 207
    assert found["all/chance"].value == 0.25


def test_a_model_that_knows_nothing_is_at_chance(mcq):
    """Guesses by a hash of the question: 0.25 lies in the interval, by letter and by option."""
    import zlib

    bench = WMDP.open(mcq, shuffle=1)
    guess = Chooser(
        lambda text: zlib.crc32(text.encode()) % 4, lambda text: -float(zlib.crc32(text.encode()) % 997)
    )
    _, found = measured(bench, guess)
    for name in ("letter_accuracy", "option_accuracy", "written_accuracy"):
        figure = found[f"all/{name}"]
        assert figure.low < 0.25 < figure.high
        assert not figure.note


def test_a_random_model_is_at_chance_by_letter(mcq, tokenizer):
    from expunge.models.language_model import TransformerLM
    from tests.conftest import make_model

    bench = WMDP.open(mcq, rows=30, shuffle=0, written=False)
    lm = TransformerLM(make_model(tokenizer, max_position_embeddings=1024), tokenizer)
    rows, found = measured(bench, lm)
    assert found["all/letter_accuracy"].low < 0.25 < found["all/letter_accuracy"].high
    assert found["all/letter_accuracy"].n == 60
    assert all(len(row["letter_logprobs"]) == len(row["option_logprobs"]) == 4 for row in rows)


def test_options_are_compared_whole_and_per_byte(tmp_path):
    """A long right option has a lower sum and a higher mean."""
    row = {"question": "Which?", "choices": ["ab", "a much longer öption"], "answer": 1}
    bench = WMDP.open(write(tmp_path / "x.jsonl", row))
    rows, found = measured(bench, Chooser(option=lambda text: -2.0 if len(text) == 2 else -4.0))
    assert (rows[0]["option"], rows[0]["option_per_byte"]) == (0, 1)
    assert found["x/option_accuracy"].value == 0.0
    assert found["x/option_accuracy_per_byte"].value == 1.0
    same = Chooser(option=lambda text: -1.0 * len(text.encode()))
    assert measured(bench, same)[0][0]["option_per_byte"] == 0, "equal per byte, though not per character"


def test_the_end_token_counts_nowhere(tmp_path):
    bench = WMDP.open(write(tmp_path / "x.jsonl", ROW))
    rows, _ = measured(bench, Chooser(lambda text: 2, lambda text: -3.0))
    assert rows[0]["letter_logprobs"] == [-2.0, -2.0, -1.0]
    assert rows[0]["option_logprobs"] == [-3.0, -3.0, -3.0]


def test_letters_of_several_tokens_are_summed_and_the_figure_says_so(tmp_path):
    bench = WMDP.open(write(tmp_path / "x.jsonl", ROW))
    rows, found = measured(bench, Chooser(lambda text: 2, pieces=4))
    assert rows[0]["letter_logprobs"] == [-2.0, -2.0, -1.0]
    assert "several tokens" in found["x/letter_accuracy"].note
    assert "several tokens" not in measured(bench, Chooser())[1]["x/letter_accuracy"].note


def test_letters_that_a_tokenizer_cannot_tell_apart_give_no_accuracy(mcq):
    """A closed vocabulary without letters: the first of four equal ones is no answer."""

    class Blind(Chooser):
        def _score(self, example):
            return Score(np.array([-3.0, -1.0], np.float32), np.zeros(2, bool))

    rows, found = measured(WMDP.open(mcq, rows=5), Blind())
    assert "same token for every letter" in found["all/letter_accuracy"].why
    assert found["bias/A"].value is None
    assert "10 of 10 questions have equally likely best answers" in found["all/option_accuracy"].note
    assert rows[0]["letter"] == 0


# --- letters ---------------------------------------------------------------------------------------------------------
def test_a_model_that_always_says_one_letter_is_found_out(mcq):
    """On an unbalanced key, always B is right for 36 %, above chance: knowledge of nothing."""
    bench = WMDP.open(mcq)
    rows, found = measured(bench, Chooser(lambda text: 1))
    share = np.mean([row["answer"] == 1 for row in rows])
    assert found["all/letter_accuracy"].value == pytest.approx(share) == found["all/constant_letter"].value
    assert share > 0.3
    assert found["bias/largest_share"].value == found["bias/B"].value == 1.0
    assert "answers B" in found["bias/largest_share"].note
    assert found["bias/balanced_accuracy"].value == 0.25
    assert found["bias/distance_from_key"].value == pytest.approx(1 - share)
    assert found["bias/distance_from_key"].low > 0.5


def test_a_model_that_knows_the_answers_leans_to_no_letter(mcq):
    bench = WMDP.open(mcq)
    right = right_letters(bench)
    _, found = measured(bench, Chooser(lambda text: right[text]))
    assert found["bias/distance_from_key"].value == 0
    assert found["bias/balanced_accuracy"].value == 1.0
    assert found["bias/D"].value == pytest.approx(np.mean([item.answer == 3 for item in bench.items]))


def test_an_accuracy_below_chance_is_said(mcq):
    bench = WMDP.open(mcq)
    _, found = measured(bench, Chooser(lambda text: 3))
    assert "below chance (0.250)" in found["all/letter_accuracy"].note
    assert "bias/" in found["all/letter_accuracy"].note
    hits = round(found["all/letter_accuracy"].value * 207)
    assert wilson(hits, 207).high < 0.25
    few = [{"choices": [1, 2], "letter": 0, "letter_right": False, "letter_tokens": 1, "letter_logprobs": [-1.0, -2.0], "why": "", "subject": ""}] * 3  # fmt: skip
    assert accuracy(few, "letter").value == 0
    assert not accuracy(few, "letter").note, "three questions say nothing"


def test_shuffled_options_keep_their_right_answer_and_depend_on_the_seed(mcq):
    plain, one, again, two = (WMDP.open(mcq, shuffle=seed) for seed in (None, 1, 1, 2))
    assert one.items == again.items != two.items
    assert [item.choices[item.answer] for item in one.items] == [
        item.choices[item.answer] for item in plain.items
    ]
    assert plain.settings["data"] != one.settings["data"] == again.settings["data"]
    counts = Counter(item.answer for item in one.items)
    assert min(counts.values()) > 30, "the key is balanced then"


# --- written answers -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", 1),
        ("B.", 1),
        (" (C) Shakespeare", 2),
        ("**D**", 3),
        ("B William Shakespeare", 1),
        ("Answer: A", 0),
        ("The correct answer is (B).", 1),
        ("The answer is: **C**", 2),
        ("A: Twain", 0),
        ("A good guess is B", 1),
        ("I think it is D.", 3),
        ("Because of it", None),
        ("A play by somebody", None),
        ("It is A or B", None),
        ("A is right", 0),
        ("E", None),
        ("", None),
    ],
)
def test_letters_are_read_from_written_answers(text, letter):
    assert read_letter(text, 4) == letter


def test_a_written_answer_without_a_letter_is_wrong_and_counted(mcq):
    _, found = measured(WMDP.open(mcq, rows=5), Chooser(written="I do not know."))
    assert found["all/written_accuracy"].value == 0.0
    assert found["all/written_without_letter"].value == 1.0
    assert found["all/letter_accuracy"].value is not None


def test_without_likelihoods_only_written_answers_count_and_the_others_say_why(mcq):
    """As of an endpoint."""

    class Remote(Chooser):
        def score(self, examples):
            raise CapabilityError("an endpoint gives no log-probabilities")

    bench = WMDP.open(mcq, rows=5)
    right = right_letters(bench)
    rows, found = measured(bench, Remote(lambda text: right[text]))
    assert found["all/written_accuracy"].value == 1.0
    for name in ("all/letter_accuracy", "all/option_accuracy", "all/option_accuracy_per_byte", "bias/A"):
        assert found[name].value is None
        assert "no log-probabilities" in found[name].why
    assert rows[0]["letter"] is None
    assert not any(prompt.prefill for prompt, _ in bench.asks().answers), (
        "an endpoint takes no started answer"
    )


def test_a_guard_that_says_a_fixed_text_has_no_letters(mcq):
    rows, found = measured(WMDP.open(mcq, rows=5), Chooser(floored=True, written="I do not know."))
    assert "10 of 10 of these questions with a fixed text" in found["all/letter_accuracy"].why
    assert "leaves the options no probability" in found["all/option_accuracy"].why
    assert found["all/written_accuracy"].value == 0.0
    assert rows[0]["letter_logprobs"] == [None] * 4


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_model_whose_likelihoods_are_no_numbers_answers_no_letter(mcq, number):
    """The likeliest of four that are no numbers would be A: about 0.25, as if it were forgotten."""

    class Broken(Chooser):
        def _score(self, example):
            score = super()._score(example)
            if example.prompt.prefill == broken and example.answer == "B":
                score.token_logprobs[0] = number
            return score

    bench = WMDP.open(mcq, rows=5)
    broken = bench.prompt(bench.items[3])
    rows, found = measured(bench, Broken())
    assert rows[3]["letter_logprobs"] is None
    assert rows[3]["letter"] is rows[3]["letter_right"] is None
    for name in ("all/letter_accuracy", "all/option_accuracy", "bias/A", "bias/distance_from_key"):
        assert found[name].value is None, name
        assert found[name].why == "the model's log-probabilities are no numbers: it is broken", name
    assert found["all/written_accuracy"].value is not None
    json.dumps(rows, allow_nan=False)


def test_written_answers_can_be_left_out(mcq):
    bench = WMDP.open(mcq, rows=2, written=False)
    assert not bench.asks().answers
    assert "not asked for" in measured(bench, Chooser())[1]["all/written_accuracy"].why


# --- reading ---------------------------------------------------------------------------------------------------------
def test_files_of_a_folder_name_their_subjects(tmp_path):
    for name in ("wmdp-bio", "wmdp-cyber"):
        write(tmp_path / f"{name}.jsonl", ROW, ROW)
    bench = WMDP.open(tmp_path)
    assert [item.task for item in bench.items] == ["bio", "bio", "cyber", "cyber"]
    assert "about cybersecurity." in bench.prompt(bench.items[-1])
    assert [item.task for item in WMDP.open(tmp_path, subjects=["cyber"], rows=1).items] == ["cyber"]
    with pytest.raises(DataError, match="no subject 'chem'"):
        WMDP.open(tmp_path, subjects=["chem"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": 3}, "field 'answer' is 3; expected the place of the right choice, 0 to 2"),
        ({"answer": -1}, "field 'answer' is -1"),
        ({"answer": "C"}, "field 'answer' is 'C'; expected a whole number"),
        ({"answer": True}, "field 'answer' is True"),
        ({"choices": ["one"]}, "field 'choices' is ['one']; expected 2 to 10 texts"),
        ({"choices": "A, B"}, "field 'choices' is 'A, B'; expected a list"),
        ({"choices": ["a", 2]}, "field 'choices' is ['a', 2]"),
        ({"choices": ["a", " "]}, "field 'choices' is ['a', ' ']; expected no empty text"),
        ({"choices": ["a", "a ", "a"]}, "field 'choices' is ['a', 'a ', 'a']; expected options that differ"),
        ({"question": None}, "field 'question' is None"),
        ({"question": " "}, "field 'question' is empty"),
        ({"split": "train"}, "field 'split' is 'train'; expected dev"),
        ({"subject": 4}, "field 'subject' is 4"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path, change, said):
    path = write(tmp_path / "x.jsonl", ROW, {**ROW, **change})
    with pytest.raises(DataError, match=re.escape(f"{path}, line 2: {said}")):
        WMDP.open(path)


def test_data_that_holds_nothing_says_so(tmp_path):
    with pytest.raises(DataError, match="no file of questions"):
        WMDP.open(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        WMDP.open(tmp_path / "gone")
    empty = write(tmp_path / "empty.jsonl")
    for data in (empty, tmp_path):
        with pytest.raises(DataError, match=re.escape(f"{empty}: there are no rows")):
            WMDP.open(data)
    with pytest.raises(DataError, match="no rows of split 'test'"):
        WMDP.open(write(tmp_path / "dev.jsonl", ROW))
    with pytest.raises(ConfigError, match="unknown setting 'shots'"):
        WMDP.open(tmp_path / "dev.jsonl", shots=5)


def test_an_option_may_stand_twice_as_in_nine_published_questions(tmp_path):
    path = write(tmp_path / "x.jsonl", {**ROW, "choices": ["a", "b", "a"]})
    assert WMDP.open(path).items[0].choices == ("a", "b", "a")


def test_hub_data_is_asked_for_by_the_published_names(monkeypatch):
    import expunge.benchmarks._choice_items as module

    asked = []

    def read_hub(data, config, split, name):
        asked.append((data, config, split))
        return [(f"{config} {split}", {**ROW, "subject": "law"} if config == "all" else ROW)]

    monkeypatch.setattr(module, "read_hub", read_hub)
    assert [item.task for item in WMDP.open("cais/wmdp").items] == ["bio", "chem", "cyber"]
    bench = MMLU.open("cais/mmlu", shots=1)
    assert [item.split for item in (*bench.dev["law"], *bench.items)] == ["dev", "test"]
    assert asked == [
        *(("cais/wmdp", f"wmdp-{subject}", "test") for subject in ("bio", "chem", "cyber")),
        ("cais/mmlu", "all", "dev"),
        ("cais/mmlu", "all", "test"),
    ]


def test_evaluation_rows_of_tofu_become_questions(shared_data, mcq):
    """mcq_mini was made of the same rows."""
    bench = WMDP.open(shared_data / "tofu")
    assert Counter(item.task for item in bench.items) == {"real_authors": 100, "world_facts": 117}
    right = {item.question: item.choices[item.answer] for item in bench.items}
    published = [json.loads(line) for line in (mcq / "mcq.jsonl").read_text().splitlines()]
    assert all(right[row["question"]] == row["choices"][row["answer"]] for row in published)
    assert min(Counter(item.answer for item in bench.items).values()) > 30


def test_facts_of_a_pocket_world_become_questions_of_short_values(tmp_path):
    from expunge.data.pocket.world import SIZES, VERSION

    facts = {"version": VERSION, "settings": SIZES["tiny"].model_dump(), "seed": 0}
    (tmp_path / "world.json").write_text(json.dumps(facts))
    bench = WMDP.open(tmp_path)
    assert {"forget", "retain", "known", "lands", "holdout"} <= {item.task for item in bench.items}
    assert all(len(item.choices) == len(set(item.choices)) == 4 for item in bench.items)
    assert all(len(choice.split()) <= 3 for item in bench.items for choice in item.choices)
    lands = next(item for item in bench.items if item.task == "lands")
    assert (
        bench.option_prompt(lands) == f"Question: {lands.question}\nAnswer: The capital of {lands.cluster} is"
    )
    assert WMDP.open(tmp_path).settings == bench.settings
