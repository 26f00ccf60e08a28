"""Extraction: EL and MA by hand on models that recite, and the thresholds of unseen texts."""

import json
import re
from functools import partial

import numpy as np
import pytest

from expunge.benchmarks._asks import ask
from expunge.benchmarks.extraction import STEP, Extraction
from expunge.data.tokenize import pieces
from expunge.errors import CapabilityError, ConfigError, DataError
from expunge.types import Example, Generation, Prompt, Score

SHORT = {"ngrams": [2], "length": 20}


class Reciter:
    """Goes on with the texts it knows, word by word; says the same word for ever after any other. Its start token predicts the first word."""

    capabilities = frozenset()

    def __init__(self, known, stop=None, other="um", sure=(), mute=()):
        self.known, self.stop, self.other, self.sure, self.mute = known, stop, other, set(sure), mute
        self.prompts = []

    def generate(self, prompts, params):
        if "answer" in self.mute:
            raise CapabilityError("it does not answer")
        self.prompts += [(prompt, params) for prompt in prompts]
        return [[self._answer(prompt.prefill, params.max_new_tokens)] for prompt in prompts]

    def _answer(self, start, most):
        text = next((text for text in self.known if text.startswith(start)), None)
        words = text[len(start) :].split() if text else [self.other] * most
        words = words[: min(most, self.stop or most)]
        return Generation(" ".join(words), len(words) + 1, True)

    def score(self, examples):
        if "score" in self.mute:
            raise CapabilityError("it gives no likelihoods")
        return [self._score(example.answer) for example in examples]

    def _score(self, text):
        words = text.split()
        right = any(known.startswith(text) for known in self.known)
        hits = np.array([*(right for _ in words), False])
        likely = -0.1 if any(known.startswith(text) for known in self.sure) else -1.0
        return Score(np.full(len(words) + 1, likely, np.float32), hits)


def texts(count, words=6, name="t"):
    return [" ".join(f"{name}{i}w{j}" for j in range(words)) for i in range(count)]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "texts.jsonl"

    def write(**splits):
        rows = [{"text": text, "split": split} for split, those in splits.items() for text in those]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def measured(bench, model, target=None):
    rows = bench.rows(ask(model, bench.asks()))
    json.dumps(rows)
    before = bench.rows(ask(target, bench.asks())) if target else None
    return rows, bench.figures(rows, target=before)


def test_a_text_that_is_recited_has_el_and_ma_of_one(data):
    known, unseen = texts(3), texts(2, name="u")
    rows, figures = measured(Extraction(data(forget=known, holdout=unseen), **SHORT), Reciter(known))
    assert (
        figures["forget/el_2"].value == figures["forget/ma"].value == figures["forget/extracted"].value == 1
    )
    assert figures["threshold/el_2"].value == figures["threshold/ma"].value == 0
    assert figures["forget/forgotten"].value == 0
    assert figures["forget/forgotten"].note == "as a set: not forgotten"
    assert [row["task"] for row in rows] == ["forget"] * 3 + ["holdout"] * 2
    assert figures["forget/el_2"].n == 3


def test_el_by_hand_when_every_continuation_ends_after_two_words(data):
    """T 6, n 2: prefixes 1 to 4 have 4, 3, 2 and 1 true bigrams, one of which is written: (1/4 + 1/3 + 1/2 + 1) / (6 - 2). Had the
    denominator shrunk with the continuation, it would be 1.
    """
    known = texts(1)
    _, figures = measured(Extraction(data(forget=known), **SHORT), Reciter(known, stop=2))
    assert figures["forget/el_2"].value == pytest.approx((1 / 4 + 1 / 3 + 1 / 2 + 1) / 4)
    assert figures["forget/extracted"].value == 0, "three words had to come back"
    assert figures["forget/ma"].value == 1


def test_every_prefix_is_continued_greedily_in_batches_of_like_length(data):
    known = texts(2, words=40)
    model = Reciter(known)
    measured(Extraction(data(forget=known), **{**SHORT, "length": 30}), model)
    starts = {prompt.prefill for prompt, _ in model.prompts}
    assert starts == {" ".join(text.split()[:i]) for text in known for i in range(1, 30)}
    assert all(not prompt.messages and not params.sample for prompt, params in model.prompts)
    assert {params.max_new_tokens for _, params in model.prompts} == {STEP, 2 * STEP}
    assert all(params.max_new_tokens >= 30 - len(prompt.prefill.split()) for prompt, params in model.prompts)


def test_a_stride_leaves_prefixes_out_and_says_so(data):
    known = texts(1, words=12)
    model = Reciter(known, stop=2)
    _, figures = measured(Extraction(data(forget=known), **SHORT, stride=5), model)
    assert sorted(len(p.prefill.split()) for p, _ in model.prompts) == [1, 6, 11]
    assert figures["forget/el_2"].value == pytest.approx((1 / 10 + 1 / 5) / 2)
    assert "every 5th prefix" in figures["forget/el_2"].note
    assert not figures["forget/ma"].note


def test_ma_leaves_out_the_end_token_and_the_first_one(data):
    """The authors predict tokens 1 to T-1: the first has nothing before it, and a raw text has no end token."""
    known = texts(1, words=5)
    bench = Extraction(data(forget=known), **SHORT)

    class Half(Reciter):
        def _score(self, text):
            hits = np.array([False, True, True, False, True, False])
            return Score(np.full(6, -1.0, np.float32), hits)

    _, figures = measured(bench, Half(known))
    assert figures["forget/ma"].value == 3 / 4

    class NoStart(Reciter):  # a tokenizer without a start token: the first token is not predicted
        def _score(self, text):
            return Score(np.full(5, -1.0, np.float32), np.array([True, True, False, True, False]))

    _, figures = measured(bench, NoStart(known))
    assert figures["forget/ma"].value == 3 / 4


def test_thresholds_are_those_of_the_target_where_there_is_one(data):
    known, unseen = texts(2), texts(2, name="u")
    bench = Extraction(data(forget=known, holdout=unseen), **SHORT)
    target = Reciter([*known, unseen[0]])
    _, figures = measured(bench, Reciter(known[:1]), target)
    assert figures["threshold/el_2"].value == figures["threshold/ma"].value == 0.5
    assert "of the target" in figures["threshold/ma"].note
    assert figures["forget/forgotten"].value == 0.5
    assert figures["forget/forgotten"].note == "as a set: forgotten"
    _, alone = measured(bench, Reciter(known[:1]))
    assert alone["threshold/ma"].value == 0
    assert "of this model" in alone["threshold/ma"].note


def test_both_measures_have_to_fall(data):
    known, unseen = texts(1), texts(1, name="u")
    bench = Extraction(data(forget=known, holdout=unseen), **SHORT)

    class Silent(Reciter):
        def _answer(self, start, most):
            return Generation("", 1, True)

    _, figures = measured(bench, Silent(known))
    assert figures["forget/el_2"].value == 0
    assert figures["forget/ma"].value == 1
    assert figures["forget/forgotten"].value == 0


def test_without_unseen_texts_nothing_is_called_forgotten(data):
    _, figures = measured(Extraction(data(forget=texts(1)), **SHORT), Reciter([]))
    assert figures["forget/forgotten"].value is None
    assert "no holdout texts" in figures["forget/forgotten"].why
    assert "no holdout texts" in figures["threshold/el_2"].why


def test_guesses_come_in_the_order_of_their_prefixes_likelihood(data):
    known = texts(4)
    bench = Extraction(data(forget=known), **SHORT, errors=1)
    _, figures = measured(bench, Reciter(known[:2], sure=known[:1]))
    assert figures["forget/extracted"].value == 0.5
    assert figures["forget/recall_at_1_errors"].value == 0.5
    _, figures = measured(bench, Reciter(known[2:], sure=[known[3], known[0]]))
    assert figures["forget/recall_at_1_errors"].value == 0, "the first sure guess is wrong"
    assert figures["forget/recall_at_1_errors"].n == 4


def test_the_suffix_has_to_come_back_word_for_word(data):
    long = texts(1, words=30)
    bench = Extraction(data(forget=long), length=30, ngrams=[2], prefix=4, suffix=5)
    rows, _ = measured(bench, Reciter(long))
    assert rows[0]["guess"] == [f" t0w{j}" for j in range(4, 9)]
    assert rows[0]["extracted"] is True
    changed = [long[0].replace("t0w8", "t0w9")]
    rows, figures = measured(bench, Reciter(changed))
    assert rows[0]["extracted"] is False
    assert 0 < figures["forget/el_2"].number < 1


def test_what_a_model_cannot_do_is_a_reason(data):
    bench = Extraction(data(forget=texts(2), holdout=texts(1, name="u")), **SHORT)
    _, figures = measured(bench, Reciter([], mute=("score",)))
    assert figures["forget/el_2"].value == 0
    for name in ("forget/ma", "forget/recall_at_100_errors", "forget/forgotten"):
        assert figures[name].why == "it gives no likelihoods"
    _, figures = measured(bench, Reciter([], mute=("answer",)))
    assert figures["forget/ma"].value == 0
    for name in ("forget/el_2", "forget/extracted", "forget/forgotten"):
        assert figures[name].why == "it does not answer"


def test_texts_that_are_too_short_for_an_n_gram_are_counted_out(data):
    known = [*texts(2, words=8), "one two three"]
    bench = Extraction(data(forget=known), ngrams=[5], length=20)
    _, figures = measured(bench, Reciter(known))
    assert (figures["forget/el_5"].value, figures["forget/el_5"].n) == (1, 2)
    assert figures["forget/el_5"].note == "1 texts are too short"
    assert figures["forget/ma"].n == 3


def test_a_right_continuation_is_the_text_in_the_models_own_tokens(data, tokenizer):
    """Answers come without the space around them, and a word may be cut inside."""
    text = "Mara Olen was born in Corvale, é日 a librarian."
    bench = Extraction(data(forget=[text]), length=200, ngrams=[3])
    bench.pieces = partial(pieces, tokenizer)

    class Exact(Reciter):
        def _answer(self, start, most):
            return Generation(text[len(start) :].strip(), 3, True)

        def _score(self, text):
            return Score(np.full(3, -1.0, np.float32), np.ones(3, bool))

    rows, figures = measured(bench, Exact([]))
    assert figures["forget/el_3"].value == 1
    assert rows[0]["extracted"] is True
    assert all(prompt.prefill for prompt, _ in bench.asks().answers)


def test_texts_are_cut_after_so_many_tokens_of_the_model(data, tokenizer):
    bench = Extraction(data(forget=["Mara Olen was born in Corvale."]), length=4, ngrams=[2])
    bench.pieces = partial(pieces, tokenizer)
    whole, _ = bench.asks().scores
    assert whole == Example(None, "".join(pieces(tokenizer, "Mara Olen was born in Corvale.")[:4]))
    assert next(prompt for prompt, _ in bench.asks().answers) == Prompt.continuing(
        pieces(tokenizer, whole.answer)[0]
    )


def test_a_real_model_runs_through(data, lm, tokenizer):
    bench = Extraction(
        data(forget=["Mara Olen was born in Corvale."], holdout=["Tovin Brask was a baker."]),
        ngrams=[3],
        length=12,
    )
    bench.pieces = partial(pieces, tokenizer)
    rows, figures = measured(bench, lm)
    assert all(0 <= row["ma"] <= 1 and 0 <= row["el_3"] <= 1 for row in rows)
    assert figures["forget/forgotten"].value in (0, 1)


def test_both_layouts_of_folders_are_read(shared_data, tmp_path):
    muse = Extraction(shared_data / "muse_mini", texts=4)
    assert [task for task, _, _ in muse.texts] == ["forget"] * 4 + ["retain"] * 4 + ["holdout"] * 4
    people = [
        {"group": group, "subject": "A B", "text": "A B was here."}
        for group in ("known", "forget", "holdout")
    ]
    (tmp_path / "biographies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in people))
    assert Extraction(tmp_path).texts == [
        ("forget", "A B", "A B was here."),
        ("holdout", "A B", "A B was here."),
    ]


def test_what_is_wrong_with_the_data_is_said(data, tmp_path):
    with pytest.raises(DataError, match="neither biographies"):
        Extraction(tmp_path)
    with pytest.raises(DataError, match="no row has split 'forget'"):
        Extraction(data(retain=texts(1)))
    for gone in (tmp_path / "gone", "aa/bb"):
        with pytest.raises(DataError, match="no such folder or file"):
            Extraction(gone)
    path = tmp_path / "bad.jsonl"
    path.write_text("")
    with pytest.raises(DataError, match=re.escape(f"{path}: there are no rows")):
        Extraction(path)
    for numbers in ([], [0]):
        with pytest.raises(ConfigError, match="ngrams"):
            Extraction(data(forget=texts(1)), ngrams=numbers)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "a b"}, "no field 'split'"),
        (
            {"text": "a b", "split": "forgett"},
            "field 'split' is 'forgett'; expected forget, retain, holdout.",
        ),
        ({"text": "a b", "split": "known"}, "field 'split' is 'known'"),
        (
            {"text": "a b", "group": "forgett"},
            "field 'group' is 'forgett'; expected forget, retain, holdout, known.",
        ),
        ({"text": " ", "split": "forget"}, "field 'text' is empty"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path, row, said):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"text": "a b", "split": "forget"}) + "\n" + json.dumps(row))
    with pytest.raises(DataError, match=re.escape(f"{path}, line 2: {said}")):
        Extraction(path)


def test_other_texts_are_another_benchmark(data):
    one = Extraction(data(forget=texts(2)), **SHORT).settings
    assert one == Extraction(data(forget=texts(2)), **SHORT).settings
    assert one["data"] != Extraction(data(forget=texts(3)), **SHORT).settings["data"]
    json.dumps(one)
