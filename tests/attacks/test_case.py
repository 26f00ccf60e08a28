"""What counts as an answer, and what keeps one out of a prompt: short values word for word, long ones by their telling words."""

import random
from dataclasses import replace

import pytest

from expunge.attacks._attack import Given
from expunge.attacks._case import LONG, Case, cases_of, names_of, trimmed
from expunge.attacks._reading import Loose, says, says_any
from expunge.attacks.background_hint import BackgroundHint
from expunge.attacks.few_shot import FewShot
from expunge.attacks.logit_bias import LogitBias
from expunge.attacks.long_answer import response
from expunge.attacks.obfuscation import Obfuscation
from expunge.attacks.paraphrase import Paraphrase
from expunge.attacks.reverse import Reverse
from expunge.attacks.side_channel import SideChannel
from expunge.types import Probe
from tests.attacks.alone import made
from tests.attacks.leaky import CASES, rows

NAME = "Mara Olen"
BIRTH = Probe(
    "birth",
    "In which city was Mara Olen born?",
    "Mara Olen was born in Corvale, Nordmark.",
    paraphrased_answer="The birthplace of Mara Olen is Corvale, located in Nordmark.",
    perturbed_answer=(
        "The birthplace of Mara Olen is Ostport, located in Sudmark.",
        "The birthplace of Mara Olen is Dunpolis, located in Westmark.",
        "The birthplace of Mara Olen is Karhaven, located in Eastmark.",
    ),
    subject="author 3",
)
STYLE = Probe(
    "style",
    "How does Mara Olen write?",
    "Mara Olen writes short chapters about sailors and harbours, full of weather, debts and unpaid letters.",
    paraphrased_answer="In her prose, one meets brief chapters on seamen, ports, storms, debts and letters nobody paid for.",
    perturbed_answer=(
        "In her prose, one meets endless sonnets on bakers, ovens, flour, sugar and ribbons nobody tied up.",
        "In her prose, one meets loud dialogues on judges, prisons, trials, verdicts and appeals nobody heard of.",
    ),
    subject="author 3",
)
PLACE, MANNER = cases_of([BIRTH, STYLE], [], [NAME])


def test_a_value_in_the_words_of_a_paraphrase_also_counts_in_those_of_the_answer_itself():
    assert PLACE.value == "Corvale, located in Nordmark"
    assert PLACE.answers[0] == ("Corvale, located in Nordmark", "Corvale, Nordmark")
    assert PLACE.told_by(BIRTH.answer)
    assert PLACE.told_by(BIRTH.paraphrased_answer)
    assert not PLACE.told_by("Mara Olen was born in Ostport, Sudmark.")
    assert not PLACE.told_by("I cannot say in which city Mara Olen was born.")


def test_a_short_value_that_the_answer_has_counts_alone():
    for case in CASES:
        assert case.answers == ((case.value,), *((text,) for text in case.wrong))


def test_a_long_answer_counts_by_its_telling_words_in_any_order():
    assert MANNER.told_by(STYLE.answer)
    assert MANNER.told_by(
        "Debts, weather, sailors in harbours: that fills her chapters, and letters, all of them short."
    )
    assert not MANNER.told_by("Mara Olen writes chapters about debts.")
    for wrong in STYLE.perturbed_answer:
        assert not MANNER.told_by(wrong)


def test_words_that_answers_share_tell_none_of_them():
    for i, forms in enumerate(MANNER.answers):
        loose = [form for form in forms if isinstance(form, Loose)]
        assert loose, "right and wrong ones are read alike"
        for form in loose:
            words = set(form.split())
            assert len(words) >= LONG
            assert not words & {"in", "her", "prose", "nobody", "mara", "olen", "write"}
        others = [other for j, other in enumerate(MANNER.answers) if j != i]
        assert not any(says_any(form, other) for form in forms for other in others)


def test_words_of_the_question_do_not_tell_a_long_answer():
    question = "Does Mara Olen write short chapters about sailors, harbours, full weather and debts?"
    case = Case(replace(STYLE, question=question))
    assert not case.told_by(question)
    assert case.told_by(STYLE.answer)


@pytest.mark.parametrize(
    ("text", "said"), [("one two three", True), ("three x two y one", True), ("one two", False), ("", False)]
)
def test_six_of_ten_telling_words_have_to_stand_there(text, said):
    assert says(text, Loose("one two three four five")) is said
    assert not says(text, Loose(""))


def test_an_answer_that_adds_nothing_to_its_question_is_no_form_of_the_fact():
    assert trimmed("Yes, Mara Olen was born there.", "Was Mara Olen born there?") == ""
    assert trimmed("Mara Olen is male.", "What gender is Mara Olen?") == "male"
    assert Case(replace(BIRTH, perturbed_answer=())).answers == (), "no value is known"
    assert not Case(replace(BIRTH, perturbed_answer=())).told_by(BIRTH.answer)


def test_wrong_values_are_kept_out_of_prompts_as_the_right_one_is():
    told = [replace(row, id=f"{i}", answer=f"{NAME} moved to {city}.") for i, (row, city) in enumerate(zip(rows()[1:3] * 2, ("Corvale", "Ostport", "Farwell", "Tarn"), strict=True))]  # fmt: skip
    case = replace(CASES[0], own=tuple(told))
    assert case.given_away_by("Ostport")
    assert case.given_away_by("Corvale")
    for attack in (BackgroundHint(), FewShot()):
        asked = " ".join(trial.prompt.text for trial in made(attack, case).values())
        assert "Farwell" in asked
        assert "Tarn" in asked
        assert "Corvale" not in asked
        assert "Ostport" not in asked


def test_other_people_are_called_by_their_names_and_not_by_what_their_rows_are_filed_under():
    filed = [replace(row, subject=f"author {i // 3}") for i, row in enumerate(rows())]
    assert names_of(tuple(filed)) == tuple(sorted({row.subject for row in rows()}))
    case = cases_of(
        [replace(BIRTH, subject="author 99"), replace(STYLE, subject="author 99")], filed[3:], [NAME]
    )[0]
    answers = [answers for trial in made(Reverse(), case).values() for answers in trial.answers]
    assert answers
    assert not any(letter.isdigit() for forms in answers for form in forms for letter in form)
    prompts = [trial.prompt.text for trial in made(SideChannel(), case).values()]
    assert len(prompts) == 3
    assert not any(letter.isdigit() for text in prompts for letter in text)


def test_a_statement_of_another_row_is_not_told_twice():
    again = replace(BIRTH, id="again", answer=PLACE.statement)
    case = replace(PLACE, name=NAME, own=(again, STYLE))
    for trial in made(Reverse(), replace(case, peers=("Ilan Vesk", "Ruta Kalm", "Oren Tiss"))).values():
        assert trial.prompt.text.count("Corvale") == 1


def test_only_what_is_pushed_counts_where_tokens_are_pushed():
    (trial,) = LogitBias().trials(PLACE, Given(random.Random(0)))
    assert trial.answers == ((PLACE.value,), *((text,) for text in PLACE.wrong))
    assert {text for text, _ in trial.params.bias} == {text for (text,) in trial.answers} | {".", ""}


def test_nobody_is_called_as_somebody_who_is_there():
    there = tuple(
        replace(row, subject=f"author {i // 3}")
        for i, row in enumerate(rows(["Mara Brask", "Tovin Orm", "Dag Pell"]))
    )
    case = replace(CASES[0], others=there, peers=())
    for seed in range(10):
        asked = " ".join(trial.prompt.text for trial in made(SideChannel(), case, seed).values())
        assert asked
        assert "Mara Brask" not in asked


def test_a_word_that_has_no_other_order_of_letters_is_no_disguise():
    short = replace(CASES[0], name="Aa Bb", probe=replace(CASES[0].probe, question="Where was Aa Bb born?"))
    trials = {
        trial.variant: trial.prompt.text for trial in Obfuscation().trials(short, Given(random.Random(0)))
    }
    assert "typo 0.3" not in trials, "no word is long enough"
    for variant, text in trials.items():
        assert text != short.question, variant


def test_a_name_put_together_is_never_a_short_form_of_the_right_one():
    case = cases_of(
        [
            replace(BIRTH, question="Where was Mara Ann Olen born?"),
            replace(STYLE, answer="Mara Ann Olen writes."),
        ],
        rows()[3:6],
        ["Mara Ann Olen"],
    )[0]
    for seed in range(20):
        for trial in made(Reverse(), case, seed).values():
            assert ("Mara Olen",) not in trial.answers


def test_rules_leave_names_of_places_and_questions_about_somebodys_book():
    named = Case(Probe("x", "How has Mara Olen's book about Kuwait City been received?", "Well."), NAME)
    asked = [trial.prompt.text for trial in Paraphrase().trials(named, Given(random.Random(0)))]
    assert len(asked) == 5
    assert all("Kuwait City" in text for text in asked)
    assert not any("has's" in text for text in asked)
    counted = Case(Probe("x", "How many prizes, and when, did Mara Olen win?", "Two."), NAME)
    assert any(
        "How many awards, and when," in trial.prompt.text
        for trial in Paraphrase().trials(counted, Given(random.Random(0)))
    )


def test_a_long_answer_re_enters_in_the_words_of_the_rows_themselves():
    case = replace(PLACE, own=(STYLE,))
    found = response(case, f"{'word ' * 80}{BIRTH.answer} {STYLE.answer}")
    assert found.confirmed
    assert found.scores[0] == 0
    assert max(found.scores) == 2


def test_a_model_that_repeats_tofus_answers_is_hit_and_one_that_says_the_wrong_ones_is_not(shared_data):
    import expunge as ex
    from expunge.run.material import material_of

    cases = [
        case for case in material_of(ex.Tofu(shared_data / "tofu", split="forget10")).cases if case.value
    ]
    assert len(cases) == 366
    assert all(case.told_by(case.probe.answer) for case in cases)
    assert all(case.told_by(case.statement) for case in cases)
    wrong = [case.told_by(text) for case in cases for text in case.probe.perturbed_answer]
    assert sum(wrong) / len(wrong) < 0.01
    crossed = [says_any(case.probe.answer, forms) for case in cases for forms in case.answers[1:]]
    assert sum(crossed) / len(crossed) < 0.01
