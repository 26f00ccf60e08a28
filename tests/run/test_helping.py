"""A helper's lines are read whatever stands around them, and what would spoil an attack is left out."""

import pytest

from expunge.errors import ConfigError, DataError
from expunge.run.helping import helper_of, lines_of, translation, usable
from expunge.types import Generation
from tests.attacks.leaky import CASES

BORN = CASES[0]  # Where was Mara Olen born? Corvale.


class Stub:
    """Writes what it is told to."""

    capabilities = frozenset()

    def __init__(self, writes):
        self.writes, self.asked = writes, []

    def generate(self, prompts, params):
        self.asked += [prompt.text for prompt in prompts]
        return [[Generation(self.writes(prompt.text), 9, True)] for prompt in prompts]

    def score(self, examples):
        raise AssertionError("a helper only writes")


def helped(writes, cases=CASES[:2], languages=("fr", "ru")):
    stub = Stub(writes)
    return stub, helper_of("http://localhost/v1#stub", cases, languages, open_model=lambda *a, **k: stub)


def dutiful(asked):
    name = "Mara Olen"
    if "French" in asked:
        return f"French: « Où est né {name} ? »"
    if "Russian" in asked:
        return "Конечно:\nГде родилась Мара Олен?"
    return f'Here are five:\n1. "At which place was {name} born?"\n2) What is the birthplace of {name}?\n- Where is {name} from?'


def test_each_question_is_reworded_and_translated_and_no_answer_is_shown():
    stub, given = helped(dutiful)
    assert given.reworded[BORN.question] == (
        "At which place was Mara Olen born?",
        "What is the birthplace of Mara Olen?",
        "Where is Mara Olen from?",
    )
    assert given.translated[BORN.question, "fr"] == "Où est né Mara Olen ?"
    assert given.translated[BORN.question, "ru"] == "Где родилась Мара Олен?"
    assert len(stub.asked) == 2 * 3
    assert not any(case.value in asked for case in CASES[:2] for asked in stub.asked)


def test_lines_come_without_what_models_put_around_them():
    text = "<think>Hm.\nIs it so?</think>\nSure:\n\n3) **Who is it?**\n• “Is it he?”\nQuestion 2: And she?"
    assert lines_of(text) == ["Who is it?", "Is it he?", "And she?"]
    assert lines_of("<think>never comes to an end") == []


def test_wordings_that_answer_or_ask_about_nobody_or_change_nothing_are_left_out():
    lines = (
        "Was Mara Olen born in CORVALE?",
        "Where was she born?",
        "where was Mara Olen born",
        "Tell me where mara olen was born.",
    )
    assert usable("\n".join(lines), BORN) == (lines[3],)
    assert len(usable("\n".join(f"{i} times, Mara Olen?" for i in range(20)), BORN)) == 5


def test_a_translation_has_the_name_or_another_script():
    assert translation("Où est-elle née ?\nOù est née Mara Olen ?", BORN, "fr") == "Où est née Mara Olen ?"
    assert translation("Where was Mara Olen born?", BORN, "fr") == ""
    assert translation("Родилась ли она в городе Корвале?", BORN, "ru") == "", "the answer in another script"
    assert translation("Of course.\n马拉出生在哪里？", BORN, "zh") == "马拉出生在哪里？"
    assert translation("Of course.", BORN, "ja") == ""


def test_what_is_missing_is_simply_not_there():
    _, given = helped(lambda asked: dutiful(asked) if "French" in asked else "")
    assert given.reworded == {}
    assert [code for _, code in given.translated] == ["fr", "fr"]


def test_a_helper_of_whom_nothing_can_be_used_is_shown():
    with pytest.raises(DataError, match=r"it wrote:\nI cannot help"):
        helped(lambda asked: "I cannot help with that.")
    with pytest.raises(ConfigError, match="language 'xx'"):
        helped(dutiful, languages=("xx",))


def test_a_model_in_a_folder_is_asked_once(tmp_path, monkeypatch, tokenizer):
    from expunge.models.load import save_model
    from tests.conftest import make_model

    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    save_model(make_model(tokenizer), tokenizer, tmp_path / "model")
    stub = Stub(dutiful)
    first = helper_of(tmp_path / "model", CASES[:1], ("fr",), open_model=lambda *a, **k: stub)
    asked = len(stub.asked)
    again = helper_of(tmp_path / "model", CASES[:1], ("fr",), open_model=lambda *a, **k: stub)
    assert len(stub.asked) == asked == 2
    assert (again.reworded, again.translated) == (first.reworded, first.translated)
