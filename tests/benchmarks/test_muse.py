"""MUSE: what its code computes, and what its traps would make of it."""

import json
import zlib

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import roc_auc_score

from expunge.benchmarks._asks import ask
from expunge.benchmarks.muse import ATTACKS, SHARES, Muse, first_answer
from expunge.data import chunks
from expunge.data.tokenize import pieces
from expunge.errors import CapabilityError, ConfigError, DataError
from expunge.metrics.priv_leak import priv_leak
from expunge.types import Example, Generation, Prompt, Score

WORDS = "the old king walks past seven bakers who baked breads and runs home to count his shoes".split()
TABLES = {
    "raw": [
        {"split": split, "chapter": i + 1, "text": f"{split} {i}: " + " ".join(WORDS[i:] + WORDS[:i])}
        for split in ("forget", "retain1", "retain2", "holdout")
        for i in range(4)
    ],
    "verbmem": [{"id": 0, "prompt": "forget 0: the old king", "gt": " ".join(WORDS[3:])}],
    "knowmem": [
        {"split": split, "question": f"{split} {i}?", "answer": "seven bakers"}
        for split in ("forget_qa", "forget_qa_icl", "retain_qa", "retain_qa_icl")
        for i in range(2)
    ],
    "privleak": [
        {"split": split, "id": i, "text": f"{split} {i}: The Old King " + " ".join(WORDS[i : i + 6])}
        for split in ("forget", "retain", "holdout")
        for i in range(3)
    ],
    "scal_sust": [
        {"criterion": "scal", "fold": 1, "forget_chapters": [1, 2]},
        {"criterion": "scal", "fold": 2, "forget_chapters": [1, 2, 3, 4]},
        {"criterion": "sust", "fold": 1, "forget_chapters": [1, 2]},
        {"criterion": "sust", "fold": 2, "forget_chapters": [3, 4]},
    ],
}


def write(folder, **changed):
    for name, rows in {**TABLES, **changed}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path)


class Speaker:
    """Answers `says`, and gives a raw text the log-probabilities `logp(text)`, with an end token that is far from likely."""

    capabilities = frozenset()

    def __init__(self, says="seven bakers", logp=lambda text: [-1.0, -2.0]):
        self.says, self.logp = says, logp

    def score(self, examples):
        return [
            Score(
                np.array([*self.logp(e.answer), -50.0], np.float32),
                np.ones(len(self.logp(e.answer)) + 1, bool),
            )
            for e in examples
        ]

    def generate(self, prompts, params):
        return [[Generation(self.says, 4, True)] for _ in prompts]


def figures(bench, model, gold=None):
    rows = bench.rows(ask(model, bench.asks()))
    return bench.figures(rows, bench.rows(ask(gold, bench.asks())) if gold else None)


# --- prompts ------------------------------------------------------------------------------------------------------------
def test_a_question_follows_its_worked_examples_and_ends_in_a_space(folder):
    bench = Muse(folder)
    row = bench.content.knowmem["retain_qa"][0]
    assert bench.prompt("retain", row).prefill == (
        "Question: retain_qa_icl 0?\nAnswer: seven bakers\n\nQuestion: retain_qa_icl 1?\nAnswer: seven bakers\n\n"
        "Question: retain_qa 0?\nAnswer: "
    )


def test_the_trailing_space_reaches_the_model_as_a_token_of_its_own(folder, lm):
    bench = Muse(folder)
    prompt = bench.prompt("forget", bench.content.knowmem["forget_qa"][0])
    shown, stripped = lm.encoder.prompts([prompt, Prompt.continuing(prompt.prefill.rstrip())])
    assert shown.text.endswith("Answer: ")
    assert shown.ids[0] == lm.tokenizer.bos_token_id
    assert len(shown.ids) == len(stripped.ids) + 1


def test_an_opening_is_asked_as_it_stands_without_a_space_put_in(folder):
    """OpenUnlearning puts a space between opening and continuation."""
    asked = [prompt for prompt, params in Muse(folder).asks().answers if params.max_new_tokens == 128]
    assert [prompt.prefill for prompt in asked] == ["forget 0: the old king"]
    assert not asked[0].messages


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("red\n\nQuestion: next?", "red"),
        ("red\nQuestion next", "red"),
        ("red Question: next?", "red "),
        ("Question: red", ""),
        ("red\nand blue", "red\nand blue"),
    ],
)
def test_an_answer_ends_where_the_next_question_begins(said, kept):
    assert first_answer(said) == kept


# --- C1, C2, C4 ---------------------------------------------------------------------------------------------------------
def test_answers_count_by_f1_without_stemming(folder):
    said = "seven baker and seven bakers too"
    found = figures(Muse(folder), Speaker(said))
    plain, stemmed = (
        RougeScorer(["rougeL"], use_stemmer=stem).score("seven bakers", said)["rougeL"]
        for stem in (False, True)
    )
    assert found["forget/knowmem"].value == pytest.approx(100 * plain.fmeasure)
    assert plain.fmeasure == pytest.approx(2 * 1 * (2 / 6) / (1 + 2 / 6))
    said = "seven baker"
    found = figures(Muse(folder), Speaker(said))
    assert found["retain/knowmem"].value == pytest.approx(50), "TOFU's stemmed recall would be 100"
    assert RougeScorer(["rougeL"], use_stemmer=True).score("seven bakers", said)["rougeL"].recall == 1
    assert stemmed.recall == 1


def test_the_reference_of_a_continuation_is_cut_at_127_tokens(tmp_path):
    truth = " ".join(f"word{i}" for i in range(300))
    bench = Muse(write(tmp_path, verbmem=[{"prompt": "forget 0: the", "gt": truth}]))
    rows = bench.rows(ask(Speaker(" ".join(f"word{i}" for i in range(127))), bench.asks()))
    assert rows[0]["reference"] == " ".join(f"word{i}" for i in range(127))
    assert bench.figures(rows)["forget/verbmem"].value == 100
    whole = bench.rows(ask(Speaker(truth), bench.asks()))
    assert bench.figures(whole)["forget/verbmem"].value == pytest.approx(100 * 2 * 127 / (127 + 300))


def test_the_reference_is_counted_in_the_tokens_of_the_model(tmp_path, tokenizer):
    truth = " ".join(WORDS * 20)
    bench = Muse(write(tmp_path, verbmem=[{"prompt": "forget 0: the", "gt": truth}]))
    bench.pieces = lambda text: pieces(tokenizer, text)
    (row, *_) = bench.rows(ask(Speaker(), bench.asks()))
    authors = tokenizer(truth)["input_ids"][:128]
    assert authors[0] == tokenizer.bos_token_id
    assert row["reference"] == tokenizer.decode(authors, skip_special_tokens=True)


# --- C3 and membership -----------------------------------------------------------------------------------------------------
def test_membership_scores_are_those_of_the_authors_formulas(folder, lm):
    """Computed here from the logits of whole texts, as MUSE's code reads them: no end token, the start token not predicted."""
    bench = Muse(folder)
    rows = [row for row in bench.rows(ask(lm, bench.asks())) if row["task"].endswith("_membership")]

    def loss_and_logp(text):
        ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            out = lm.model(ids, labels=ids)
        logp = out.logits[0].log_softmax(-1)
        return float(out.loss), np.array([float(logp[i, t]) for i, t in enumerate(ids[0, 1:])])

    assert len(rows) == 9
    for row in rows:
        loss, logp = loss_and_logp(row["text"])
        lower, _ = loss_and_logp(row["text"].lower())
        wanted = {
            "loss": loss,
            "zlib": loss / len(zlib.compress(row["text"].encode())),
            "lower": loss / lower,
        }
        for share in SHARES:
            wanted[f"min_k_{round(100 * share)}"] = -np.sort(logp)[: int(len(logp) * share)].mean()
        assert set(wanted) == set(ATTACKS)
        for name, value in wanted.items():
            assert row[name] == pytest.approx(-value, abs=2e-4), name


def scores_of(forget, holdout):
    """A model under which the texts of both splits have these mean log-probabilities."""

    def logp(text):
        split, _, i = text.lower().partition(":")[0].partition(" ")
        return [{"forget": forget, "holdout": holdout, "retain": [-1.0] * 3}[split][int(i)]] * 10

    return Speaker(logp=logp)


TARGET = scores_of([-0.1, -0.2, -0.3], [-3.0, -3.2, -3.4])
RETRAINED = scores_of([-3.0, -3.3, -3.1], [-3.2, -3.05, -3.4])
GONE = scores_of([-30.0, -31.0, -32.0], [-3.0, -3.2, -3.4])


def test_privleak_has_the_sign_and_value_of_muse_where_the_holdout_is_the_positive_class(folder):
    bench = Muse(folder)

    def authors_auc(model):
        rows = [
            row
            for row in bench.rows(ask(model, bench.asks()))
            if "loss" in row and "retain" not in row["task"]
        ]
        min_k_loss = np.array([-row["min_k_40"] for row in rows])
        # their sweep ranks by minus that loss, and the second split, the holdout, is the positive class
        return roc_auc_score([row["task"].startswith("holdout") for row in rows], -min_k_loss)

    gold = authors_auc(RETRAINED)
    assert 0 < gold < 1
    for model, sign in ((TARGET, -1), (GONE, None), (RETRAINED, 0)):
        found = figures(bench, model, RETRAINED)
        theirs = authors_auc(model)
        assert found["membership/min_k_40"].value == pytest.approx(1 - theirs)
        assert found["privleak/min_k_40"].value == pytest.approx(100 * (theirs - gold) / gold)
        if sign is not None:
            assert found["privleak/min_k_40"].value == pytest.approx(100 * sign)


def test_the_published_figures_follow_from_the_published_aucs():
    """News: the retrained model's AUC is .4772 with the holdout as positive class; a target that knows every text has AUC near 0."""
    news, books = 1 - 0.4772, 1 - 0.5393
    assert priv_leak(1 - 0.0009, news) == pytest.approx(-99.81, abs=0.01)
    assert priv_leak(1 - 0.2305, books) == pytest.approx(-57.26, abs=0.01)
    assert priv_leak(news, news) == 0
    assert priv_leak(0.0, news) == pytest.approx(100 * (1 - 0.4772) / 0.4772), (
        "the most that over-forgetting can reach"
    )
    trapped = 100 * ((1 - 0.0009) - news) / news  # the AUCs as they are, forget as positive class
    assert trapped > 90, "the other orientation turns a leak into over-forgetting"


def test_without_a_gold_there_is_no_privleak_and_no_default_in_its_place(folder):
    found = figures(Muse(folder), TARGET)
    for name in ("privleak/min_k_40", "membership/reference"):
        assert found[name].value is None
        assert "no gold model was given" in found[name].why
    assert found["membership/min_k_40"].value == 1


def test_a_gold_that_tells_all_texts_apart_leaves_nothing_to_divide_by(folder):
    found = figures(Muse(folder), TARGET, TARGET)["privleak/min_k_40"]
    assert found.value is None
    assert "nothing to divide by" in found.why


def test_the_reference_attack_divides_by_the_loss_of_the_gold(folder):
    bench = Muse(folder)
    harder = scores_of([-1.0, -2.0, -4.0], [-1.0, -2.0, -4.0])
    gold = scores_of([-2.0, -4.0, -8.0], [-1.0, -2.0, -4.0])
    found = figures(bench, harder, gold)
    assert found["membership/loss"].value == 0.5
    assert found["membership/reference"].value == 1


def test_a_very_short_text_has_a_min_k_score(folder):
    """int(1 · k) is 0: the authors' mean of nothing is NaN."""
    bench = Muse(folder)
    rows = bench.rows(ask(Speaker(logp=lambda text: [-2.0]), bench.asks()))
    found = [row[f"min_k_{round(100 * k)}"] for row in rows if "loss" in row for k in SHARES]
    assert set(found) == {-2.0}


def test_the_end_token_is_no_part_of_a_passage(folder):
    row = next(
        row
        for row in Muse(folder).rows(ask(TARGET, Muse(folder).asks()))
        if row["task"] == "forget_membership"
    )
    assert row["loss"] == pytest.approx(-0.1), "the stand-in gives the end token -50"


def test_what_a_model_cannot_say_is_absent_with_the_reason(folder):
    class Mute(Speaker):
        def score(self, examples):
            raise CapabilityError("an endpoint gives no likelihoods")

    found = figures(Muse(folder), Mute(), TARGET)
    assert found["forget/knowmem"].value == 100
    for name in (
        "membership/loss",
        "privleak/min_k_40",
        "membership/reference",
        "retain_membership/min_k_40",
    ):
        assert found[name].value is None
        assert found[name].why == "an endpoint gives no likelihoods"


def test_a_guard_that_leaves_a_text_no_probability_has_no_membership_figures(folder):
    class Guarded(Speaker):
        def score(self, examples):
            return [Score(np.full(3, -27.6, np.float32), np.zeros(3, bool), floored=True) for _ in examples]

    found = figures(Muse(folder), Guarded(), TARGET)
    assert found["membership/min_k_40"].value is None
    assert "no probability" in found["membership/min_k_40"].why


@pytest.mark.parametrize(("text", "gone"), [("holdout 1", ATTACKS), ("forget 0: the old", ("lower",))])
def test_a_text_whose_likelihood_is_no_number_makes_membership_absent(folder, text, gone):
    """Of such numbers every AUC is 0.5: no trace. One text of six, or the lower-cased form of one, which one attack reads."""

    def logp(asked):
        return [np.nan] * 3 if asked.startswith(text) else [-1.0, -2.0]

    bench = Muse(folder)
    rows = bench.rows(ask(Speaker(logp=logp), bench.asks()))
    json.dumps(rows, allow_nan=False)
    found = bench.figures(rows, bench.rows(ask(RETRAINED, bench.asks())))
    why = "the model's log-probabilities are no numbers: it is broken"
    for attack in ATTACKS:
        for name in (f"membership/{attack}", f"privleak/{attack}"):
            assert (found[name].value is None) == (attack in gone), name
            assert found[name].why == (why if attack in gone else ""), name


def test_every_column_is_a_figure_and_means_have_intervals(folder):
    found = figures(Muse(folder), TARGET, RETRAINED)
    for name, _, _ in Muse.columns:
        assert found[name].value is not None
        if name.startswith("privleak"):
            assert "no interval" in found[name].note, (
                "three texts: some resamples of the gold leave nothing to divide by"
            )
        else:
            assert found[name].low <= found[name].value <= found[name].high
    assert found["membership/min_k_40"].n == 6


# --- data ---------------------------------------------------------------------------------------------------------------
def test_the_small_book_set_is_read_whole(shared_data):
    bench = Muse(shared_data / "muse_mini")
    asks = bench.asks()
    assert len(asks.scores) == 2 * 150
    assert len(asks.answers) == 50 + 22 + 22
    assert [len(texts) for texts in bench.content.folds("scalability")] == [3, 6, 9, 12]
    assert [len(texts) for texts in bench.content.folds("sustainability")] == [3, 3, 3, 3]


def test_a_part_keeps_the_rows_that_its_texts_hold(shared_data):
    bench = Muse(shared_data / "muse_mini", texts=3)
    texts = " ".join(" ".join(bench.content.raw["forget"]).split())
    assert 0 < len(bench.content.verbmem) < 50
    assert all(prompt in texts and gt in texts for prompt, gt in bench.content.verbmem)
    assert all(row.answer.lower() in texts.lower() for row in bench.content.knowmem["forget_qa"])
    assert len(bench.content.knowmem["forget_qa_icl"]) == 4
    assert bench.settings["data"] != Muse(shared_data / "muse_mini").settings["data"]
    with pytest.raises(ConfigError, match="leaves no rows"):
        Muse(shared_data / "muse_mini", texts=1).content.first(0)


def test_a_short_context_takes_shorter_texts(shared_data):
    bench = Muse(shared_data / "muse_mini", words=20)
    whole = Muse(shared_data / "muse_mini")
    assert all(len(text.split()) == 20 for text in bench.content.privleak["holdout"])
    (prompt, gt), (longer, longer_gt) = bench.content.verbmem[0], whole.content.verbmem[0]
    assert longer.endswith(prompt)
    assert longer_gt.startswith(gt)
    assert len(prompt.split()) == len(gt.split()) == 20
    assert bench.prompt("forget", bench.content.knowmem["forget_qa"][0]).prefill.count("Question:") == 2
    assert bench.content.raw == whole.content.raw


def hub(monkeypatch, missing=()):
    """`datasets.load_dataset` with the layout of MUSE-News."""
    import datasets

    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        if config in missing:
            raise FileNotFoundError("no network")
        if config in ("scal", "sust", "train"):
            texts = {"scal": int(split[-1]) if split[-1].isdigit() else 0, "sust": 1, "train": 4}[config]
            return datasets.Dataset.from_list([{"text": f"{config} {split} {i}"} for i in range(texts)])
        rows = [row for row in TABLES[config] if row.get("split", "forget") == split]
        drop = ("split", "chapter", "id")
        return datasets.Dataset.from_list([{k: v for k, v in row.items() if k not in drop} for row in rows])

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_news_is_read_from_the_hub_by_its_configurations_and_splits(monkeypatch):
    asked = hub(monkeypatch)
    bench = Muse("muse-bench/MUSE-News")
    assert ("muse-bench/MUSE-News", "knowmem", "retain_qa_icl") in asked
    assert ("muse-bench/MUSE-News", "verbmem", "forget") in asked
    assert len(bench.content.raw["retain2"]) == 4
    assert not any(config in ("scal", "sust", "train") for _, config, _ in asked), "read when they are needed"
    assert [len(texts) for texts in bench.content.folds("scalability")] == [1, 2, 3, 4]
    assert len(bench.content.folds("sustainability")) == 4
    assert bench.content.trained()[-1] == "train forget 3"


def test_the_corpus_names_the_hub_set_or_the_subfolder(monkeypatch, tmp_path):
    asked = hub(monkeypatch)
    Muse("muse-bench/MUSE-News", corpus="books")
    assert {name for name, _, _ in asked} == {"muse-bench/MUSE-Books"}
    (tmp_path / "news").mkdir()
    write(tmp_path / "news")
    assert Muse(tmp_path, corpus="news").content.source == str(tmp_path / "news")
    with pytest.raises(DataError, match="no folder 'books'"):
        Muse(tmp_path, corpus="books")


def test_books_has_no_folds(monkeypatch):
    hub(monkeypatch)
    with pytest.raises(DataError, match="folds for News only"):
        Muse("muse-bench/MUSE-Books").folds("scalability")


def test_absent_hub_data_says_what_to_download_and_where_to_put_it(monkeypatch):
    hub(monkeypatch, missing=("raw",))
    with pytest.raises(DataError) as error:
        Muse("muse-bench/MUSE-News")
    for word in ("muse-bench/MUSE-News", "raw.jsonl", "folder", "retain_qa_icl", "no network"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"knowmem": [{"split": "other", "question": "q", "answer": "a"}]},
            "knowmem.jsonl, line 1: field 'split'",
        ),
        (
            {"privleak": [{"split": ["forget"], "text": "a"}]},
            "privleak.jsonl, line 1: field 'split'",
        ),
        ({"verbmem": [{"prompt": "x", "gt": ""}]}, "verbmem.jsonl, line 1: field 'gt' is empty"),
        ({"verbmem": []}, "verbmem.jsonl: there are no rows"),
        ({"knowmem": TABLES["knowmem"][:2]}, "no rows of split forget_qa_icl, retain_qa, retain_qa_icl"),
        ({"verbmem": [{"prompt": "x"}]}, "verbmem.jsonl, line 1: no field 'gt'"),
        ({"privleak": [{"split": "forget", "text": " "}]}, "privleak.jsonl, line 1: field 'text' is empty"),
        ({"raw": [{"split": "forget", "text": 3}]}, "raw.jsonl, line 1: field 'text' is 3"),
    ],
)
def test_bad_rows_are_named_by_file_line_and_field(tmp_path, changed, message):
    with pytest.raises(DataError, match=message.replace(".", r"\.")):
        Muse(write(tmp_path, **changed))


def test_what_makes_prompts_shorter_is_said():
    assert "--set words=" in Muse.too_long
    assert "words" in Muse.Options.model_fields


def test_a_folder_without_folds_says_so(tmp_path):
    write(tmp_path)
    (tmp_path / "scal_sust.jsonl").unlink()
    bench = Muse(tmp_path)
    assert bench.content.trained() == bench.content.raw["forget"]
    with pytest.raises(DataError, match=r"no scal_sust\.jsonl"):
        bench.folds("scalability")


# --- training rows ------------------------------------------------------------------------------------------------------
def letters(text):
    return list(text)


def test_texts_are_joined_and_cut_to_one_less_than_the_length_for_the_start_token():
    assert chunks.cut(["abcdef", "gh"], letters, 5) == ["abcd", "ef\n\n", "ghab"]


def test_an_exact_multiple_leaves_no_empty_row():
    assert chunks.cut(["abcdefgh"], letters, 5) == ["abcd", "efgh"]
    assert chunks.cut(["abcd"], letters, 5) == ["abcd"]


def test_a_text_shorter_than_a_row_is_filled_up_once_with_itself():
    assert chunks.cut(["abc"], letters, 5) == ["abca"]
    assert chunks.cut(["a"], letters, 8) == ["aa"]
    assert chunks.cut([], letters, 5) == []


def test_rows_of_a_real_tokenizer_have_the_length_with_the_start_token(folder, lm):
    bench = Muse(folder, chunk=32)
    bench.pieces = lambda text: pieces(lm.tokenizer, text)
    data = bench.dataset()
    assert {record.shape for record in data.forget} == {"text"}
    rows = lm.encoder.examples([record.example() for record in data.forget])
    assert {len(row.ids) for row in rows} == {32 + 1}, "one end token beyond MUSE's rows"
    assert rows[0].ids[0] == lm.tokenizer.bos_token_id
    whole = "".join(record.text for record in data.forget)
    assert whole.startswith("\n\n".join(bench.content.raw["forget"]))


def test_no_more_retain_rows_are_drawn_than_the_forget_rows_reach(folder):
    bench = Muse(folder, chunk=16)
    data, fold = bench.dataset(), bench.folds("sustainability")[1]
    assert len(data.retain) == len(data.forget)
    assert len(fold.retain) == len(fold.forget) < len(data.forget)
    assert fold.retain == data.retain[: len(fold.retain)]
    assert all("retain1" in record.text or "retain" not in record.text for record in data.retain)


def test_what_is_asked_does_not_depend_on_the_training_rows(folder):
    assert Muse(folder, chunk=32).settings == Muse(folder).settings
    assert Example(None, TABLES["privleak"][0]["text"]) in Muse(folder).asks().scores
