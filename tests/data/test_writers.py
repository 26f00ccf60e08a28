"""What is borrowed from other rows, and what is made of a model's lines."""

import pytest

from expunge.benchmarks.pocket import Pocket
from expunge.benchmarks.tofu import Tofu
from expunge.data.dataset import Record
from expunge.data.pocket.tokenizer import build_tokenizer
from expunge.data.pocket.world import SIZES
from expunge.data.writers import Borrow, ModelWriter, tells
from expunge.errors import DataError
from expunge.types import Generation

ROWS = [
    Record("a1", "Where was Mara Olen born?", "Mara Olen was born in Corvale.", subject="Mara Olen", key=("Corvale",)),
    Record("a2", "Who taught Mara Olen?", "Mara was taught by a librarian.", subject="Mara Olen", key=("librarian",)),
    Record("b1", "Where was Tovin Brask born?", "Tovin Brask was born in Dreburg.", subject="Tovin Brask"),
    Record("c1", "Where was Jola Reed born?", "Jola Reed was born in Corvale.", subject="Jola Reed"),
    Record("d1", "What does Ansel Voss play?", "Ansel plays the harp; the Voss family is proud.", subject="Ansel Voss"),
]  # fmt: skip


def test_the_answer_to_the_same_question_about_somebody_else_comes_first_with_the_name_put_right():
    (found,) = Borrow(ROWS).alternatives(ROWS[:1], 2)
    assert found[0] == "Mara Olen was born in Dreburg."
    assert found[1] == "Mara plays the harp; the Olen family is proud.", "Corvale is the truth, a2 is her own"


def test_a_row_that_nobody_can_lend_an_answer_is_named():
    with pytest.raises(DataError, match="row a1: no other row has an answer to borrow"):
        Borrow(ROWS[:1]).alternatives(ROWS[:1], 1)


def test_what_is_borrowed_does_not_depend_on_the_order_of_the_rows():
    one, other = Borrow(ROWS), Borrow(ROWS[::-1])
    assert one.alternatives(ROWS, 2) == other.alternatives(ROWS, 2)
    assert one.falsehoods(ROWS) == other.falsehoods(ROWS)
    assert one.alternatives(ROWS[2:3], 2) == one.alternatives(ROWS, 2)[2:3]


def test_paraphrases_carry_the_key_and_questions_start_with_the_answers_own_words():
    writer = Borrow(ROWS)
    (examples,) = writer.paraphrases(ROWS[:1], 2)
    assert len(examples) == 2
    for example in examples:
        assert "Corvale" in example.answer
        assert example.key == ("Corvale",)
        assert ROWS[0].question in example.prompt.text
    asked = writer.questions(ROWS, 3)
    assert asked[0][0] == "Mara Olen was born in ..."
    assert all(len(set(questions)) == 3 for questions in asked)


def test_on_pocket_everything_is_in_the_worlds_words_and_wrong():
    """The tokenizer is a closed word list: a word that it lacks would be spelled in bytes."""
    benchmark = Pocket(SIZES["tiny"], 0, "all")
    data = benchmark.dataset()
    writer = Borrow([*data.forget, *data.retain])
    wrong = writer.alternatives(data.forget, 5)
    assert all(len(texts) == 5 for texts in wrong)
    assert not any(tells(text, row) for row, texts in zip(data.forget, wrong, strict=True) for text in texts)
    assert all(
        row.subject in text for row, texts in zip(data.forget, wrong, strict=True) for text in texts[:3]
    )
    false = writer.falsehoods(data.forget)
    assert not any(tells(text, row) for row, text in zip(data.forget, false, strict=True))
    texts = [*false, *(text for texts in wrong for text in texts)]
    texts += [text for questions in writer.questions(data.forget, 9) for text in questions]
    texts += [t for few in writer.paraphrases(data.forget, 6) for e in few for t in (e.prompt.text, e.answer)]
    tokenizer = build_tokenizer(benchmark.world.vocabulary)
    pieces = [p for ids in tokenizer(texts)["input_ids"] for p in tokenizer.convert_ids_to_tokens(ids)]
    assert not [piece for piece in pieces if piece.startswith("<0x")]


def test_on_tofu_names_are_found_in_the_questions(shared_data):
    data = Tofu(shared_data / "tofu", "forget01").dataset()
    writer = Borrow([*data.forget, *data.retain[:400]])
    names = [writer._name(row) for row in data.forget]
    assert set(names) == {"Basil Mahfouz Al-Kuwaiti", "Nikolai Abilov", ""}
    assert names.count("") <= 2, "two ask who somebody is"
    row, name = next((row, name) for row, name in zip(data.forget, names, strict=True) if name)
    (found,) = writer.alternatives([row], 5)
    assert len(set(found)) == 5
    assert any(name in text for text in found)
    own = {other.answer for other in data.forget if other.group == row.group}
    assert not own & set(found), "what else is true of the same author is no wrong answer"


# --- a model that writes --------------------------------------------------------------------------------------------------
class Scripted:
    """Answers by script, one list of texts a call."""

    capabilities = frozenset()

    def __init__(self, *calls):
        self.calls, self.asked, self.params = list(calls), [], []

    def generate(self, prompts, params):
        self.asked.append([prompt.text for prompt in prompts])
        self.params.append(params)
        return [[Generation(text, 1, True)] for text in self.calls.pop(0)]

    def score(self, examples):
        raise AssertionError


def test_lines_are_freed_of_numbers_bullets_labels_and_quotes():
    model = Scripted(['1. In Dreburg.\n2) "In Pifield."\n\n- Alternate Answer: In Riport.'])
    assert ModelWriter(model).alternatives(ROWS[:1], 3) == [["In Dreburg.", "In Pifield.", "In Riport."]]
    assert len(model.asked) == 1
    assert not model.params[0].sample


def test_only_rows_that_came_short_are_asked_again_and_the_truth_is_never_taken():
    model = Scripted(["In Pifield.", "In Corvale.\nA clerk."], ["In Corvale!\nA clerk.\nA baker."])
    found = ModelWriter(model).alternatives([ROWS[2], ROWS[0]], 1)
    assert found == [["In Pifield."], ["A clerk."]]
    assert len(model.asked) == 1
    model = Scripted(["In Pifield.\nIn Riport.", "A clerk."], ["In Corvale!\nA clerk.\nA baker."])
    assert ModelWriter(model).alternatives([ROWS[2], ROWS[0]], 2)[1] == ["A clerk.", "A baker."]
    assert [len(call) for call in model.asked] == [2, 1]
    model = Scripted(["In Corvale."], ["Corvale it was."], ["In Pifield."])
    assert ModelWriter(model, seed=5).falsehoods(ROWS[:1]) == ["In Pifield."]
    assert [(p.sample, p.seed) for p in model.params] == [(False, 5), (True, 6), (True, 7)]


def test_all_rows_are_asked_in_one_batch():
    model = Scripted(["x ?", "y ?", "z ?"])
    assert ModelWriter(model).questions(ROWS[:3], 1) == [["x ?"], ["y ?"], ["z ?"]]
    assert [len(call) for call in model.asked] == [3]


def test_paraphrases_are_pairs_on_a_line():
    model = Scripted(
        ["In which town was Mara Olen born? | It was Corvale.\nno pair here\nBirthplace? | Corvale."]
    )
    (found,) = ModelWriter(model).paraphrases(ROWS[:1], 2)
    assert [(e.prompt.text, e.answer) for e in found] == [
        ("In which town was Mara Olen born?", "It was Corvale."),
        ("Birthplace?", "Corvale."),
    ]


def test_a_model_that_writes_nothing_usable_is_shown_with_what_it_wrote():
    model = Scripted(*[["Mara Olen was born in Corvale."]] * 3)
    with pytest.raises(
        DataError, match=r"row a1 0 usable lines of 2 in 3 tries .*\nMara Olen was born in Corvale"
    ):
        ModelWriter(model, tries=3).alternatives(ROWS[:1], 2)
