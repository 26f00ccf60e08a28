"""The data axis: what each construction shows, and what it refuses."""

import numpy as np
import pytest
import torch
from scipy import stats

from expunge import catalog
from expunge.data.dataset import Record
from expunge.data.writers import Borrow
from expunge.errors import ConfigError, DataError
from expunge.methods._words import matches
from expunge.methods.examples.alternates import Alternates
from expunge.methods.examples.anti_samples import AntiSamples
from expunge.methods.examples.dp_mlm import DPMLM, content_words
from expunge.methods.examples.paraphrase import Paraphrase
from expunge.methods.examples.random_labels import RandomLabels
from expunge.methods.examples.raw import Raw
from expunge.methods.examples.refusals import BUILT_IN, Refusals
from expunge.models.masked import MaskedLM
from expunge.types import Given, Seed
from tests.models.test_masked import masked_folder

PEOPLE = ("Mara Olen", "Tovin Brask", "Jola Reed", "Ansel Voss")
TOWNS = ("Corvale", "Dreburg", "Pifield", "Riport")
ROWS = [
    Record(
        name, f"Where was {name} born?", f"{name} was born in {town}.", subject=name, group=name, key=(town,)
    )
    for name, town in zip(PEOPLE, TOWNS, strict=True)
]
FORGET, RETAIN = ROWS[:2], ROWS[2:]
TEXT, NAME = Record("t", text="A passage of text."), Record("s", subject="Mara Olen")


def given(writer="borrow", **more):
    return Given((), Seed(0), Borrow(ROWS) if writer == "borrow" else writer, **more)


def answers(streams):
    return [[example.answer for example in row] for row in streams]


def test_every_value_declares_what_it_needs_and_shows_rows_in_order():
    settings = {"dp_mlm": {"model": "none"}}
    for name in catalog.entries("data"):
        value = catalog.load("data", name)(**settings.get(name, {}))
        assert value.needs <= {"alternate", "writer", "pairs"}
        if name == "dp_mlm":
            continue
        shown = value.show([*FORGET, NAME], RETAIN, given())
        assert [e.id for e in shown.forget[:2]] == [row.id for row in FORGET]
        assert [e.answer for e in shown.retain[:2]] == [row.answer for row in RETAIN]
        assert bool(shown.alternates) == ("alternate" in value.needs)
        for example, others in zip(shown.forget, shown.alternates, strict="alternate" in value.needs):
            assert others
            assert all(other.prompt == example.prompt and other.id == example.id for other in others)
        assert value.show([*FORGET, NAME], RETAIN, given()) == shown, "the same rows and seed, the same texts"
        if "pairs" in value.needs:
            with pytest.raises(DataError, match="forget row t is a raw text without a question"):
                value.show([*FORGET, TEXT], RETAIN, given())


def test_what_asks_for_a_writer_says_so_without_one():
    for value in (Paraphrase(), AntiSamples()):
        with pytest.raises(ConfigError, match="the writer is 'none'"):
            value.show(FORGET, RETAIN, given(None))


def test_raw_rows_stay_as_they_are_texts_too():
    shown = Raw().show([*FORGET, TEXT], [*RETAIN, TEXT], given(None))
    assert [e.text for e in shown.forget][-1] == TEXT.text
    assert shown.forget[0] == FORGET[0].example()
    assert len(shown.retain) == 3


def test_refusals_are_the_callers_or_the_built_in_ones():
    assert answers(Refusals().show(FORGET, RETAIN, given(None)).alternates) == [list(BUILT_IN)] * 2
    shown = Refusals().show(FORGET, RETAIN, Given(("No.",), Seed(0)))
    assert answers(shown.alternates) == [["No."]] * 2


def test_alternates_of_the_rows_come_first_and_the_writer_fills_in():
    import dataclasses

    own = [dataclasses.replace(row, alternates=("In Own.", "In Other.")) for row in FORGET]
    assert answers(Alternates().show(own, RETAIN, given(None)).alternates) == [["In Own.", "In Other."]] * 2
    mixed = answers(Alternates(count=2).show([own[0], FORGET[1]], RETAIN, given()).alternates)
    assert mixed[0] == ["In Own.", "In Other."]
    assert len(mixed[1]) == 2
    assert all(text.startswith("Tovin Brask was born in ") for text in mixed[1])
    with pytest.raises(DataError, match="alternates missing: forget row Tovin Brask"):
        Alternates().show([own[0], FORGET[1]], RETAIN, given(None))


def test_paraphrases_join_the_forget_side_and_distractors_the_retain_side():
    shown = Paraphrase(count=2, distractors=1).show(FORGET, RETAIN, given())
    assert len(shown.forget) == 2 + 2 * 2
    assert all(
        town in e.answer for e, town in zip(shown.forget, [*TOWNS[:2], *np.repeat(TOWNS[:2], 2)], strict=True)
    )
    assert [e.answer for e in shown.retain[:2]] == [row.answer for row in RETAIN]
    for row, wrong in zip(FORGET, shown.retain[2:], strict=True):
        assert wrong.prompt == row.example().prompt
        assert not matches(wrong.answer, row)


def test_every_anti_sample_leaves_out_the_truth():
    """C33, the half about targets."""
    shown = AntiSamples().show(FORGET, RETAIN, given())
    for row, ((target, *more),) in zip(FORGET, [[o] for o in shown.alternates], strict=True):
        assert not more
        assert not matches(target.answer, row)
        assert len(target.answer.split(".")) > 2, "an answer and a reason"


def test_an_anti_sample_that_names_the_truth_is_redrawn_or_refused():
    class Teller(Borrow):
        def falsehoods(self, rows):
            return [f"It is not {row.key[0]}." for row in rows]

    shown = AntiSamples().show(FORGET, RETAIN, given(Teller(ROWS)))
    assert not any(matches(o[0].answer, row) for row, o in zip(FORGET, shown.alternates, strict=True))

    class Liar(Teller):
        def alternatives(self, rows, count):
            return [[f"Perhaps {row.key[0]}s."] * count for row in rows]

    with pytest.raises(
        DataError, match=r"no falsified answer to forget row Mara Olen .* 'It is not Corvale.'"
    ):
        AntiSamples().show(FORGET, RETAIN, given(Liar(ROWS)))


def test_random_labels_are_never_the_rows_own_and_follow_the_seed():
    rows = [Record(str(i), f"Q{i}?", "Same." if i % 2 else f"Answer {i}.") for i in range(20)]
    shown = RandomLabels(count=3).show(rows, [], given(None))
    labels = answers(shown.alternates)
    for row, found in zip(rows, labels, strict=True):
        assert row.answer not in found
        assert len(set(found)) == 3
    assert labels != answers(RandomLabels(count=3).show(rows, [], Given((), Seed(1))).alternates)
    counts = {}
    for seed in range(200):
        for found in answers(RandomLabels().show(rows[:1], rows[2:6:2], Given((), Seed(seed))).alternates):
            counts[found[0]] = counts.get(found[0], 0) + 1
    assert set(counts) == {"Answer 2.", "Answer 4."}
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3
    with pytest.raises(DataError, match="needs 1 answers of other rows, and there are 0"):
        RandomLabels().show(rows[1:2], rows[3:4], given(None))


# --- DP-MLM -------------------------------------------------------------------------------------------------------------
class Fixed:
    """A masked model with the same logits everywhere; entry 0 is no word."""

    words = ("", "ant", "bee", "cat", "dog")

    def __init__(self, logits):
        self.fixed = torch.tensor(logits)

    def logits(self, places):
        for first in range(0, len(places), 7):
            yield self.fixed.repeat(len(places[first : first + 7]), 1)


@pytest.mark.parametrize(
    ("epsilon", "temperature"), [(0.1, 510), (1, 51), (10, 5.1), (25, 2.04), (100, 0.51)]
)
def test_temperatures_are_those_of_the_paper(epsilon, temperature):
    assert DPMLM(model="m", epsilon=epsilon).temperature == pytest.approx(temperature, rel=1e-3)


def test_words_are_drawn_from_the_softmax_of_clipped_logits_over_the_temperature():
    value = DPMLM(model="m", epsilon=4.0, clip=(-1.0, 3.0))
    logits = [9.0, -50.0, 0.5, 2.0, 80.0]
    clipped = np.array([-1.0, 0.5, 2.0, 3.0])
    expected = np.exp(clipped / 2.0)  # T = 2 · 4 / 4
    expected /= expected.sum()
    found = value.probabilities(torch.tensor([logits]), torch.tensor([1, 2, 3, 4]))[0].numpy()
    assert np.allclose(found, expected, atol=1e-12)
    rows = [Record(str(i), "Q?", " ".join(["word"] * 100)) for i in range(100)]
    shown = value.show(rows, [], given(None, masked=lambda name: Fixed(logits)))
    drawn = " ".join(e.answer for e in shown.forget).split()
    counts = [drawn.count(word) for word in Fixed.words[1:]]
    assert sum(counts) == 10_000
    assert stats.chisquare(counts, 10_000 * expected).pvalue > 1e-3


def test_no_word_is_more_than_e_to_the_epsilon_likelier_for_any_other_text():
    """The privacy bound itself: clipped logits at both ends of the range give the largest ratio there can be."""
    value = DPMLM(model="m", epsilon=3.0)
    torch.manual_seed(0)
    pair = torch.randn(2, 50) * 30
    pair[:, :2] = torch.tensor([[100.0, -100.0], [-100.0, 100.0]])
    p, q = value.probabilities(pair, torch.arange(50))
    worst = float((p / q).log().abs().max())
    assert worst <= 3.0 + 1e-9
    assert worst > 1.0


def test_content_words_go_function_words_and_punctuation_stay():
    text = "The father of Mara's friend, a baker, wasn't rich."
    assert [text[a:b] for a, b in content_words(text)] == ["father", "Mara's", "friend", "baker", "rich"]
    value = DPMLM(model="m", epsilon=1.0)
    shown = value.show(
        [Record("1", "Q?", text, key=("baker",))], [TEXT], given(None, masked=lambda name: Fixed([0.0] * 5))
    )
    (answer,) = [e.answer for e in shown.forget]
    assert answer.split()[0] == "The"
    assert answer.split()[2] == "of"
    assert answer.endswith(".")
    assert "wasn't" in answer
    assert not set("father friend baker rich".split()) & set(answer.replace(",", "").replace(".", "").split())
    assert shown.forget[0].key == ()
    assert shown.retain[0].answer != TEXT.text


def test_draws_follow_the_seed_not_the_batches(monkeypatch):
    value = DPMLM(model="m", epsilon=5.0)
    logits = torch.randn(5).tolist()
    one = value.show(FORGET, RETAIN, given(None, masked=lambda name: Fixed(logits)))
    whole = Fixed(logits)
    whole.logits = lambda places: iter([torch.tensor(logits).repeat(len(places), 1)])
    assert value.show(FORGET, RETAIN, given(None, masked=lambda name: whole)) == one
    other = Given((), Seed(1), masked=lambda name: Fixed(logits))
    assert value.show(FORGET, RETAIN, other) != one


def test_facts_compose_epsilon_over_rows_and_people():
    rows = [
        Record("1", "Q?", "Mara was a baker.", group="Mara"),
        Record("2", "Q?", "Born in Corvale town.", group="Mara"),
        TEXT,
    ]
    found = DPMLM(model="m", epsilon=2.0).facts(rows[:1], rows[1:])
    assert found["epsilon_per_word"] == 2.0
    assert found["words_rewritten"] == 2 + 3 + 2
    assert found["epsilon_of_the_longest_row"] == 6.0
    assert found["epsilon_of_the_longest_group"] == 10.0
    assert found["epsilon_of_a_mean_row"] == pytest.approx(14 / 3)


def test_a_real_masked_model_rewrites_and_a_large_epsilon_takes_its_best_word(tmp_path):
    folder = masked_folder(tmp_path)
    masked = MaskedLM.open(folder)
    value = DPMLM(model=str(folder), epsilon=1e6, clip=(-50.0, 50.0))
    shown = value.show(FORGET[:1], [], given(None, masked=MaskedLM.open))
    text = FORGET[0].answer
    best = []
    for logits in masked.logits([(text, a, b) for a, b in content_words(text)]):
        seen = logits.clone()
        seen[:, [i for i, word in enumerate(masked.words) if not word]] = -torch.inf
        best += [masked.words[i] for i in seen.argmax(-1).tolist()]
    assert shown.forget[0].answer == f"{best[0]} {best[1]} was {best[2]} in {best[3]}."


def test_dp_mlm_says_what_is_missing():
    with pytest.raises(ConfigError, match="'model' is missing"):
        DPMLM.parse({}, "data dp_mlm")
    with pytest.raises(ConfigError, match="is no range"):
        DPMLM.parse({"model": "m", "clip": (2.0, 1.0)}, "data dp_mlm")
    with pytest.raises(ConfigError, match="nothing that opens a masked language model"):
        DPMLM(model="m").show(FORGET, RETAIN, given(None))
