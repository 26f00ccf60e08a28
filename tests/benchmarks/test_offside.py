"""OFFSIDE: its files, its prompts, its figures, and what its traps would have made of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from expunge.benchmarks import _offside_data
from expunge.benchmarks._asks import Replies, answer_key, ask, score_key
from expunge.benchmarks._offside_data import set_of_image
from expunge.benchmarks.offside import Offside, read_letter
from expunge.errors import ConfigError, DataError
from expunge.types import Example, Generation, Score
from tests.llava import draw

SHARED = ("Who is the player in this image?", "The player is Rana Vello.")
PRIVATE = ("Which club will the player in this image join?", "He will play for Tarn United.")


def generation(question, answer, image=None):
    row = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    return row | ({"images": image} if image else {})


def choice(question, right="B", image=None):
    options = dict(zip("ABCD", ("Tarn United", "Corvale", "Ostrel", "Brask"), strict=True))
    row = {"Question": question, "Options": options, "Correct_Answer": right}
    return row | ({"images": image} if image else {})


def write(folder: Path, **files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path):
    """Two forget images, one of each other set."""
    for number in (4, 9, 1, 5):
        draw(tmp_path / "photos" / f"{number:03}.png", number)
    draw(tmp_path / "photos" / "001_bright.png", 1, shade=40)
    forget = [f"photos/{n}.png" for n in ("004", "009")]
    return write(
        tmp_path,
        forget_set=[generation("<image>\n" + q, a, image) for image in forget for q, a in (SHARED, PRIVATE)],
        classification_forget_set=[
            choice(q, "A", image) for image in forget for q in (SHARED[0], PRIVATE[0])
        ],
        retain_set=[generation(*SHARED, "photos/001.png"), generation(*PRIVATE, "photos/001.png")],
        classification_retain_set=[choice(PRIVATE[0], image="photos/001.png")],
        test_set=[generation(*SHARED, "photos/001_bright.png")],
        relearn_set_enhanced=[generation(*PRIVATE, "photos/005.png")],
    )


class Parrot:
    """Says what it is told by the question's text; every answer has one likelihood."""

    capabilities = frozenset({"logits"})

    def __init__(self, says):
        self.says, self.asked = says, []

    def score(self, examples):
        return [Score(np.full(3, -0.5, np.float32), np.ones(3, bool)) for _ in examples]

    def generate(self, prompts, params):
        self.asked += [(prompt, params) for prompt in prompts]
        return [[Generation(self.says(prompt), 3, True)] for prompt in prompts]


def measured(bench, says):
    model = Parrot(says)
    rows = bench.rows(ask(model, bench.asks()))
    return bench.figures(rows), rows, model


def by_kind(prompt):
    text = prompt.text
    if "Options:" in text:
        return "The answer is A" if "club" in text else "A and B"
    return PRIVATE[1] if "club" in text else SHARED[1]


# --- files ----------------------------------------------------------------------------------------------------------------
def test_the_split_goes_by_the_image_number_modulo_five():
    assert [set_of_image(number) for number in range(5)] == [
        "relearn",
        "retain",
        "retain",
        "retain",
        "forget",
    ]
    assert set_of_image("./finetune_set/364.jpg") == "forget"
    with pytest.raises(DataError, match="no number in its name"):
        set_of_image("portrait.jpg")


def test_one_file_of_all_images_is_parted_by_their_numbers(tmp_path):
    for number in range(1, 6):
        draw(tmp_path / "finetune_set" / f"{number}.png", number)
    rows = [generation(*PRIVATE, f"./finetune_set/{number}.png") for number in range(1, 6)]
    bench = Offside(write(tmp_path, finetune_set=rows))
    assert {name: len(found) for name, found in bench.sets.items()} == {
        "forget": 1,
        "retain": 3,
        "test": 0,
        "relearn": 1,
    }
    assert bench.sets["forget"][0].image.name == "4.png"


def test_every_set_is_read_with_its_images_and_without_the_trainers_marks(folder):
    bench = Offside(folder)
    assert {name: len(found) for name, found in bench.sets.items()} == {
        "forget": 8,
        "retain": 3,
        "test": 1,
        "relearn": 1,
    }
    assert bench.sets["forget"][0].text == SHARED[0]
    assert _offside_data._bare("<image>\nWho is in <image>.") == "Who is in."
    assert bench.sets["forget"][0].subject == "004"


def test_images_are_shown_at_256_by_256_from_a_copy_and_stay_as_they_were(folder):
    from PIL import Image

    before = (folder / "photos/004.png").read_bytes()
    bench = Offside(folder)
    (file,) = bench.asks().answers[0][0].images
    with Image.open(file) as copy, Image.open(folder / "photos/004.png") as own:
        assert copy.size == (256, 256)
        assert list(copy.getdata()) == list(own.convert("RGB").resize((256, 256)).getdata())
    assert (folder / "photos/004.png").read_bytes() == before
    assert Offside(folder).asks().answers == bench.asks().answers


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": []}, r"field 'messages' is \[\]"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]},
            r"messages\[1\].*role 'assistant'",
        ),
        (
            {"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "y"}]},
            r"messages\[0\].content",
        ),
        ({"Question": "x", "Options": {"A": "a"}, "Correct_Answer": "A"}, "field 'Options'"),
        (
            {"Question": "x", "Options": {k: k for k in "ABCD"}, "Correct_Answer": "E"},
            "field 'Correct_Answer' is 'E'",
        ),
        ({"Question": "x", "Correct_Answer": "A"}, "no field 'Options'"),
        ({"Question": 3, "Options": {}, "Correct_Answer": "A"}, "field 'Question' is 3"),
        ({"question": "x"}, "no field 'Question'"),
    ],
)
def test_a_bad_row_is_named_with_file_line_and_field(folder, row, said):
    rows = [generation(*PRIVATE, "photos/004.png"), row | {"images": "photos/004.png"}]
    write(folder, forget_set=rows)
    with pytest.raises(DataError, match=rf"forget_set\.json, item 2: .*{said}"):
        Offside(folder)


@pytest.mark.parametrize(
    ("image", "said"), [(None, "field 'images' is None"), (["a", "b"], "expected the path of one image"), ("gone.png", "names gone.png, and .* is no file")]
)  # fmt: skip
def test_a_row_without_its_image_is_named(folder, image, said):
    write(folder, forget_set=[generation(*PRIVATE) | {"images": image}])
    with pytest.raises(DataError, match=rf"forget_set\.json, item 1: .*{said}"):
        Offside(folder)


def test_a_file_that_is_no_image_is_named(folder):
    (folder / "photos/004.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"004\.png: not an image"):
        Offside(folder)


def test_missing_folders_and_unknown_settings_are_said(tmp_path, folder):
    with pytest.raises(DataError, match="no such folder"):
        Offside(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no forget_set\.jsonl"):
        Offside(write(tmp_path / "empty"))
    with pytest.raises(ConfigError):
        Offside(folder, setting="partial")


# --- what is asked --------------------------------------------------------------------------------------------------------
def test_questions_are_answered_greedily_in_32_tokens_with_the_image_in_the_first_turn(folder):
    _, _, model = measured(Offside(folder), by_kind)
    assert {params.max_new_tokens for _, params in model.asked} == {32}
    assert not any(params.sample for _, params in model.asked)
    assert all(len(prompt.images) == 1 for prompt, _ in model.asked)
    asked = next(
        prompt.text for prompt, _ in model.asked if "Options:" in prompt.text and "club" in prompt.text
    )
    assert asked.startswith(f"{PRIVATE[0]}\n\nPlease look at this image and answer the question")
    assert asked.endswith("Options:\nA: Tarn United\nB: Corvale\nC: Ostrel\nD: Brask\n")


def test_only_written_answers_are_scored_and_never_letters(folder):
    asks = Offside(folder).asks()
    assert {example.answer for example in asks.scores} == {SHARED[1], PRIVATE[1]}


def test_settings_tell_data_apart_by_words_and_by_images(folder):
    first = Offside(folder).settings
    assert first == Offside(folder).settings
    assert first["data_sha256"] != Offside(folder, setting="selective").settings["data_sha256"]
    draw(folder / "photos/004.png", 4, shade=5)
    assert first["data_sha256"] != Offside(folder).settings["data_sha256"]


# --- figures --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("The answer is B", "B"),
        ("I think the answer is C.", "C"),
        ("D", "D"),
        ("A.", None),
        ("The Answer is B", None),
        ("the answer is b", None),
        ("B: Corvale", None),
        ("", None),
        ("E", None),
        ("The answer is D, not\nA", "D"),
    ],
)
def test_letters_are_read_by_the_authors_two_patterns_alone(said, letter):
    assert read_letter(said) == letter


def test_accuracy_counts_what_cannot_be_read_as_wrong_and_says_how_much_that_is(folder):
    figures, rows, _ = measured(Offside(folder), by_kind)
    # right for the two private questions, unreadable for the two shared ones
    assert figures["forget/class_accuracy"].value == 0.5
    assert figures["forget/class_unreadable"].value == 0.5
    assert figures["retain/class_accuracy"].value == 0.0
    assert figures["retain/class_unreadable"].value == 0.0
    assert figures["forget/class_accuracy"].n == 4
    assert sum(row["kind"] == "class" for row in rows) == 5


def test_an_empty_answer_counts_where_the_authors_code_would_drop_it(folder):
    figures, _, _ = measured(Offside(folder), lambda prompt: "" if "club" in prompt.text else by_kind(prompt))
    assert figures["forget/rouge_l_f1"].value == pytest.approx(0.5)
    assert figures["forget/rouge_l_f1"].n == 4
    assert figures["forget/class_accuracy"].n == 4


def test_written_answers_by_hand(folder):
    # "he plays for tarn united" against "he will play for tarn united": stemming makes plays and play one word
    figures, rows, _ = measured(Offside(folder), lambda prompt: "He plays for Tarn United.")
    row = next(row for row in rows if row["task"] == "relearn")
    assert row["rouge_1_f1"] == pytest.approx(2 * (5 / 5) * (5 / 6) / (5 / 5 + 5 / 6))
    assert row["rouge_2_f1"] == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))
    assert row["rouge_l_f1"] == row["rouge_1_f1"]
    precisions = (
        (5 / 6) * (3 / 5) * (2 / 4) * (1 / 3)
    )  # words with the full stop; "plays" is another word than "play"
    assert row["bleu"] == pytest.approx(np.exp(1 - 7 / 6) * precisions**0.25)
    assert row["overall"] == pytest.approx(
        np.mean([row[n] for n in ("rouge_1_f1", "rouge_2_f1", "rouge_l_f1", "bleu")])
    )
    assert figures["relearn/overall"].value == pytest.approx(row["overall"])
    assert figures["relearn/probability"].value == pytest.approx(np.exp(-0.5))


def test_intervals_go_by_images(folder):
    _, rows, _ = measured(Offside(folder), by_kind)
    assert {row["subject"] for row in rows if row["task"] == "forget"} == {"004", "009"}


def test_a_set_that_is_not_there_has_no_figure_and_says_so(folder):
    figures, _, _ = measured(Offside(folder), by_kind)
    assert figures["test/class_accuracy"].value is None
    assert "no class rows in the set 'test'" in figures["test/class_accuracy"].why
    assert {name for name, _, _ in Offside.columns} <= set(figures)


def test_no_likelihoods_and_refused_answers_are_reasons_and_not_numbers(folder):
    bench = Offside(folder)
    asks = bench.asks()
    held = {answer_key(*asked): [Generation("x", 1, True)] for asked in asks.answers}
    held |= {
        score_key(e): Score(np.full(2, -27.0, np.float32), np.zeros(2, bool), floored=True)
        for e in asks.scores
    }
    figures = bench.figures(bench.rows(Replies(held, {})))
    assert figures["forget/probability"].value is None
    assert "no probability" in figures["forget/probability"].why
    assert figures["forget/rouge_l_f1"].value == 0.0
    figures = bench.figures(bench.rows(Replies({}, {"answer": "it looks past images", "score": "no scores"})))
    assert figures["forget/class_accuracy"].why == figures["forget/rouge_l_f1"].why == "it looks past images"
    assert figures["forget/class_accuracy"].value is None


# --- settings and modalities ----------------------------------------------------------------------------------------------
def test_selective_unlearning_counts_private_facts_alone_as_to_be_forgotten(folder):
    bench = Offside(folder, setting="selective")
    assert {q.text for q in bench.sets["forget"]} == {PRIVATE[0]}
    assert {q.text for q in bench.sets["shared"]} == {SHARED[0]}
    figures, _, _ = measured(
        bench, lambda prompt: "I do not know." if "club" in prompt.text else by_kind(prompt)
    )
    assert figures["forget/rouge_l_f1"].value < 0.3
    assert figures["shared/rouge_l_f1"].value == 1.0, (
        "counted as forgotten, they would hide that the private facts went"
    )
    assert figures["forget/rouge_l_f1"].n == 2


@pytest.mark.parametrize(
    ("question", "private"),
    [
        ("Which club is the player going to play for?", True),
        ("I'm curious about the previous club of the player.", True),
        ("When did the transfer take place?", True),
        ("What was the transfer fee?", True),
        ("What is the player's market value?", True),
        ("How many trophies did he win?", True),
        ("Who is the player?", False),
        ("How old is the player?", False),
        ("What is his position?", False),
        ("What is the nationality of the player?", False),
        ("When was the player born?", False),
        ("How tall is the player?", False),
        ("Which foot does the player use?", False),
        ("Where was the player born?", False),
    ],
)
def test_the_fourteen_questions_are_told_apart(question, private):
    assert _offside_data.Question("generation", question, "x").private is private


def test_the_authors_folders_are_found_by_setting_and_modality(folder, tmp_path):
    root = tmp_path / "root"
    for name, answer in (("complete_unlearning_data", "whole"), ("selective_unlearning_data", "part")):
        draw(root / name / "4.png", 4)
        write(root / name, forget_set=[generation(PRIVATE[0], answer, "4.png")])
    write(
        root / "pure_text_data", forget_set=[generation("Which club will Rana Vello join?", "Tarn United.")]
    )
    found = [Offside(root, **options) for options in ({}, {"setting": "selective"}, {"modality": "text"})]
    assert [bench.sets["forget"][0].answer for bench in found] == ["whole", "part", "Tarn United."]
    assert not found[2].asks().answers[0][0].images
    (record,) = found[0].dataset().forget
    assert (record.question, record.answer) == ("Which club will Rana Vello join?", "Tarn United.")


def test_text_alone_shows_no_image_and_makes_pairs_to_train_on(folder):
    bench = Offside(folder, modality="text")
    assert not any(prompt.images for prompt, _ in bench.asks().answers)
    assert not any(example.prompt.images for example in bench.asks().scores)
    assert not any("look at this image" in prompt.text for prompt, _ in bench.asks().answers)
    data = bench.dataset()
    assert [len(data.forget), len(data.retain)] == [4, 2]
    assert data.forget[1].example() == Example(data.forget[1].example().prompt, PRIVATE[1], "forget-1")
    assert [record.answer for record in bench.relearn_rows()] == [PRIVATE[1]]
    chosen = Offside(folder, modality="text", setting="selective").dataset()
    assert [len(chosen.forget), len(chosen.retain)] == [2, 4], "shared facts of forget images are to be kept"


def test_questions_about_an_image_are_not_trained_on_without_it(folder):
    with pytest.raises(DataError, match="no pure_text_data"):
        Offside(folder).dataset()
