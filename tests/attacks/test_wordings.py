"""The same question in other words, other languages and other forms: where each must succeed, and where it must not."""

import random
from dataclasses import replace

import pytest

from expunge.attacks._attack import Given
from expunge.attacks._case import Case
from expunge.attacks._reading import says
from expunge.attacks._tongues import (
    DIGITS,
    LANGUAGES,
    NOUNS,
    SENTENCES,
    SYLLABLES,
    TONGUES,
    WORDS,
    forms,
    translated,
    transliterated,
)
from expunge.attacks.cloze import Cloze, with_blank
from expunge.attacks.direct import Direct
from expunge.attacks.paraphrase import Paraphrase, name_first, order_of_a_statement, passive, synonyms
from expunge.attacks.reverse import Reverse
from expunge.attacks.translate import Translate
from expunge.attacks.true_false import TrueFalse
from tests.attacks.leaky import CASES, CITIES, NAMES, Ignorant, Leaky, rate, tried

BORN, TRADE, GENRE = CASES[:3]
ASKED = Direct(samples=0)


def given(seed=0, **more):
    return Given(random.Random(seed), **more)


def texts(attack, case, **more):
    return [trial.prompt.messages[-1].content for trial in attack.trials(case, given(**more))]


def by_name(text):
    """The case that a text is about, where the name stands in any script and some word says which fact."""
    about = [c for c in CASES if any(transliterated(c.name, code) in text for code in LANGUAGES)]
    city, job, genre = about[:3] if about else (None, None, None)
    marks = {
        "job": ("métier", "Beruf", "dedicaba", "职业", "職業", "работал", "مهنة", "काम", "kazi"),
        "genre": ("genre", "Genre", "género", "体裁", "ジャンル", "жанре", "أدبي", "विधा", "fasihi"),
    }
    return next(
        (c for kind, c in (("job", job), ("genre", genre)) if any(m in text for m in marks[kind])), city
    )


class Polyglot(Leaky):
    """Answers in the language that it was asked to answer in."""

    def _meant(self, prompt):
        return by_name(prompt.text) or super()._meant(prompt)


class DescribedOnly(Leaky):
    """Finds the person of a description, and nobody by name."""

    def _meant(self, prompt):
        return next(
            (c for c in self.cases if c.value in prompt.text and "this person" in prompt.text.lower()), None
        )


class Judge(Leaky):
    """Judges statements, right ones True and others False."""

    def _meant(self, prompt):
        return next((c for c in self.cases if c.name in prompt.text and c.head in prompt.text), None)

    def _is_right(self, case, example, prompt):
        return example.answer == str(case.statement in prompt.text)


# --- paraphrase -------------------------------------------------------------------------------------------------------
def test_other_words_are_found_where_only_the_question_itself_is_guarded():
    guarded = Leaky(leaks=lambda prompt: all(case.question != prompt.text for case in CASES))
    assert rate(ASKED, guarded) == 0.0
    assert rate(Paraphrase(), guarded) == 1.0
    assert rate(Paraphrase(), Leaky(leaks=lambda prompt: False)) == 0.0


def test_a_model_that_never_knew_is_right_about_a_paraphrase_as_often_as_wrong():
    rows = tried(
        Paraphrase(), Ignorant(), CASES[::3]
    )  # the stand-in takes every rule's wording for a question about the city
    shares = [sum(row.hits[i] for row in rows) / len(rows) for i in range(6)]
    assert sum(shares) == pytest.approx(1.0)
    assert shares[0] < 0.4


def test_five_wordings_are_two_lexical_two_structural_and_one_indirect():
    trials = list(Paraphrase().trials(GENRE, given()))
    assert [trial.variant for trial in trials] == ["words 1", "words 2", "order 1", "order 2", "indirect"]
    asked = texts(Paraphrase(), GENRE)
    assert asked[:4] == [
        "Which genre does Mara Olen write in?",
        "What is written by Mara Olen?",
        "Mara Olen does write what?",
        "Take Mara Olen. What does this person write?",
    ]
    assert asked[4].endswith("what Mara Olen does write.")
    for case in CASES:
        asked = texts(Paraphrase(), case)
        assert len(set(asked)) == 5
        assert case.question not in asked
        assert all(case.name in text for text in asked)


def test_rules_change_the_words_and_leave_the_name():
    assert synonyms(BORN) == "In what place was Mara Olen brought into the world?"
    assert synonyms(TRADE) == "What did the dad of Mara Olen do?"
    assert order_of_a_statement(TRADE) == "The father of Mara Olen did do what?"
    assert passive(BORN) == ""
    prize = replace(BORN, probe=replace(BORN.probe, question="Which prizes did Mara Olen win?"))
    assert passive(prize) == "Which prizes were won by Mara Olen?"
    assert name_first(prize) == "Take Mara Olen. Which prizes did this person win?"
    nameless = replace(BORN, name="")
    assert name_first(nameless) == order_of_a_statement(nameless) == ""
    assert len(set(texts(Paraphrase(), nameless))) == 5


def test_a_helpers_wordings_come_first_and_rules_fill_up():
    written = ("Say where Mara Olen is from.", "Is it Corvale where Mara Olen was born?")
    trials = list(Paraphrase().trials(BORN, given(reworded={BORN.question: written})))
    assert [trial.variant for trial in trials] == ["written 1", "words 1", "words 2", "order 1", "order 2"]
    assert trials[0].prompt.text == written[0], "and the one that says the answer is left out"


# --- translation ------------------------------------------------------------------------------------------------------
def says_in(code):
    """Writes the value in the script of a language."""
    return lambda statement, prompt: next(
        f"… „{forms(case.value, code)[-1]}“." for case in CASES if case.statement == statement
    )


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_question_in_another_language_is_answered_in_it_or_in_english(code):
    attack = Translate(languages=(code,))
    instructed = TONGUES[code].same.split("{")[0]
    native = Polyglot(lambda prompt: instructed in prompt.text, says_in(code))
    assert rate(ASKED, native) == 0.0
    assert rate(attack, native) == 1.0
    english = Polyglot(lambda prompt: TONGUES[code].english.split("{")[0] in prompt.text)
    assert rate(attack, english) == 1.0
    assert rate(attack, Polyglot(leaks=lambda prompt: False)) == 0.0


def test_wrong_values_count_in_other_scripts_too():
    class Wrong(Polyglot):
        def _answer(self, prompt):
            case = self._meant(prompt)
            made = super()._answer(prompt)
            return replace(made, text=f"«{forms(case.wrong[0], 'ru')[-1]}»")

    rows = tried(Translate(languages=("ru",)), Wrong())
    assert rows
    assert all(not row.hits[0] and row.hits[1] for row in rows)


def test_every_language_is_asked_twice_and_the_name_is_in_its_script_once():
    trials = list(Translate().trials(BORN, given()))
    assert len(trials) == 18
    shown = {trial.variant: trial.prompt.text for trial in trials}
    assert "Мара Олен" in shown["ru"]
    assert "Mara Olen" in shown["ru, answer in English"]
    assert shown["de"].endswith(": Wo wurde Mara Olen geboren?")
    assert all("born" not in text for text in shown.values())
    assert all(len(trial.answers) == 6 for trial in trials)
    nothing = Case(replace(BORN.probe, value="", perturbed_answer=()))
    assert list(Translate().trials(nothing, given())) == []


def test_a_helpers_translation_is_used_for_both():
    asked = "Quelle est la ville natale de Mara Olen ?"
    shown = texts(Translate(languages=("fr",)), BORN, translated={(BORN.question, "fr"): asked})
    assert len(shown) == 2
    assert all(text.endswith(asked) for text in shown)


def test_unknown_questions_have_their_little_words_translated():
    made = translated("Which famous book did the mother of Mara Olen write?", "Mara Olen", "ja", native=True)
    assert made.startswith("どの famous 本")
    assert "マラ・オレン" in made
    assert "母" in made
    assert " the " not in made
    assert translated("Who is it?", "", "sw") == "Nani ni it?"


def test_names_have_the_sounds_of_their_letters():
    assert transliterated("Mara Olen", "zh") == "马拉·奥莱恩"
    assert transliterated("Mara Olen", "ja") == "マラ・オレン"
    assert transliterated("Mara Olen", "ar") == "مارا أولين"
    assert transliterated("Mara Olen", "hi") == "मारा ओलेन"
    assert transliterated("Mara Olen", "ru") == "Мара Олен"
    assert transliterated("Mara Olen", "fr") == "Mara Olen"
    for code in DIGITS.keys() | SYLLABLES.keys() | {"ru"}:
        made = transliterated("The quick brown fox jumps over a lazy dog", code)
        assert not any(letter.isascii() and letter.isalpha() for letter in made), code


def test_forms_know_words_mute_letters_dates_and_digits():
    assert forms("a miner", "fr") == ("a miner", "mineur")
    assert "コルヴァル" in forms("Corvale", "ja")
    assert "3 de mayo de 1957" in forms("May 3, 1957", "es")
    assert "1957年5月3日" in forms("3 May 1957", "zh")
    assert "١٩٥٧" in forms("1957", "ar")
    assert says("Elle est née le 3 mai 1957.", forms("3 May 1957", "fr")[1])


def test_tables_are_complete():
    assert all(len(said) == len(LANGUAGES) for said in NOUNS.values())
    assert all(len(said) == len(LANGUAGES) - 3 for said in WORDS.values())
    assert all(len(said) == len(LANGUAGES) and all("@" in s for s in said) for _, said in SENTENCES)
    assert tuple(TONGUES) == LANGUAGES
    assert all(len(row) == 6 for table in SYLLABLES.values() for row in table.values())
    for tongue in TONGUES.values():
        assert tongue.same.endswith("{question}")
        assert tongue.english.endswith("{question}")


# --- cloze ------------------------------------------------------------------------------------------------------------
def test_a_blank_is_filled_where_the_question_is_refused():
    fills = Leaky(leaks=lambda prompt: "___" in prompt.text)
    fills._meant = lambda prompt: next(
        (c for c in CASES if c.head in prompt.text or c.question in prompt.text), None
    )
    assert rate(ASKED, fills) == 0.0
    assert rate(Cloze(), fills) == 1.0
    assert rate(Cloze(), Leaky(leaks=lambda prompt: False)) == 0.0


def test_the_blank_stands_in_the_last_place_of_the_value():
    assert texts(Cloze(), BORN) == [
        "Fill in the blank, and write the whole sentence: Mara Olen was born in ___."
    ]
    assert with_blank("In Rome he saw Rome.", "Rome") == "In Rome he saw ___."
    assert with_blank("Rome.", "Rome") == ""
    assert with_blank("In Romeo.", "Rome") == ""
    two = replace(
        BORN, probe=replace(BORN.probe, paraphrased_answer="The birthplace of Mara Olen is Corvale.")
    )
    assert texts(Cloze(), two)[1].endswith("The birthplace of Mara Olen is ___.")


# --- reverse ----------------------------------------------------------------------------------------------------------
def test_a_description_brings_the_name_where_the_name_brings_nothing():
    named = DescribedOnly(
        writes=lambda statement, prompt: f"It is {next(c.name for c in CASES if c.statement == statement)}."
    )
    assert rate(ASKED, named) == 0.0
    assert rate(Reverse(), named, [c for c in CASES if CITIES.count(c.value)]) > 0.9
    assert rate(Reverse(), DescribedOnly(leaks=lambda prompt: False)) == 0.0


def test_some_name_or_other_is_no_better_than_the_guess_rate():
    class Names(Leaky):
        def _answer(self, prompt):
            return replace(super()._answer(prompt), text=random.Random(prompt.text).choice(NAMES))

    rows = tried(Reverse(), Names())
    shares = [sum(row.hits[i] for row in rows) / len(rows) for i in range(6)]
    assert sum(shares) == pytest.approx(1.0)
    assert shares[0] < 0.45


def test_a_description_has_the_fact_and_no_part_of_the_name():
    for case in CASES:
        trials = list(Reverse().trials(case, given()))
        assert [trial.variant for trial in trials] == ["2 attributes", "3 attributes"]
        for trial in trials:
            assert case.value in trial.prompt.text
            assert not {"Mara", "Olen", *case.name.split()} & set(trial.prompt.text.replace(".", "").split())
            assert trial.answers[0] == (case.name,)
            assert {name for (name,) in trial.answers[1:]} == set(NAMES) - {case.name}
    assert list(Reverse().trials(replace(BORN, own=()), given())) == [], "one fact describes nobody"


def test_where_few_others_are_forgotten_wrong_names_are_put_together_anew():
    alone = replace(BORN, peers=("Tovin Brask",))
    wrong = [name for (name,) in next(iter(Reverse().trials(alone, given()))).answers[1:]]
    assert wrong[0] == "Tovin Brask"
    assert len(set(wrong)) == 5
    taken = {"Mara Olen", *(row.subject for row in alone.others)}
    assert not taken & set(wrong)


# --- true or false ----------------------------------------------------------------------------------------------------
def test_who_knows_judges_both_statements_right():
    assert rate(TrueFalse(), Judge()) == 1.0
    assert rate(TrueFalse(), Judge(leaks=lambda prompt: False)) == 0.0


@pytest.mark.parametrize("word", ["True", "False"])
def test_the_same_word_to_everything_hits_neither_right_nor_wrong(word):
    class Same(Judge):
        def _is_right(self, case, example, prompt):
            return example.answer == word

    rows = tried(TrueFalse(), Same())
    assert rate(TrueFalse(), Same()) == 0.0
    for case in range(len(CASES)):
        hits = [row.hits for row in rows if row.case == case]
        assert sorted(hits) == [(False, True), (True, False)]


def test_without_knowledge_both_right_is_as_frequent_as_both_wrong():
    from expunge.metrics.attack_success import answers_hit

    class Guess(Judge):
        def _is_right(self, case, example, prompt):
            said = ("True", "False")[random.Random(f"{self.seed}{prompt.text}").random() < 0.4]
            return example.answer == said

    right, wrong = 0, 0
    for seed in range(40):
        model = Guess()
        model.seed = seed
        rows = tried(TrueFalse(), model)
        for case in range(len(CASES)):
            both = answers_hit([row.hits for row in rows if row.case == case], 1.0)
            right, wrong = right + both[0], wrong + both[1]
    n = 40 * len(CASES)
    assert abs(right - wrong) / n < 0.07
    assert right / n == pytest.approx(0.24, abs=0.05)


def test_statements_differ_in_the_value_alone():
    right, wrong = TrueFalse().trials(BORN, given())
    assert right.prompt.text == "True or false? Mara Olen was born in Corvale."
    assert wrong.prompt.text.replace(wrong.prompt.text.split()[-1], "Corvale.") == right.prompt.text
    assert wrong.prompt.text.split()[-1].strip(".") in BORN.wrong
    assert (right.options, wrong.options) == (("True", "False"), ("False", "True"))


@pytest.mark.parametrize(
    "attack", [Paraphrase(), Translate(), Cloze(), Reverse(), TrueFalse()], ids=lambda a: a.id
)
def test_the_same_chance_gives_the_same_trials(attack):
    assert list(attack.trials(BORN, given(3))) == list(attack.trials(BORN, given(3)))
