"""WaterDrum: the mark is found in what is written, under the right key, with the right tokenizer, and nothing is claimed of noise."""

import json

import numpy as np
import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from expunge.benchmarks import waterdrum
from expunge.benchmarks._asks import ask
from expunge.benchmarks._benchmark import NO_TARGET
from expunge.benchmarks.waterdrum import WaterDrum
from expunge.cli import app
from expunge.errors import CapabilityError, ConfigError, DataError, ModelError
from expunge.metrics.watermark import Signal, marked_logits, owner_key, pooled, signals
from expunge.types import Generation, GenerationParams, Prompt

FEW = {"controls": 8, "samples": 2}


class Speaker:
    """Answers each prompt with texts of its own choice."""

    capabilities = frozenset()

    def __init__(self, say):
        self.say, self.asked, self.params = say, [], set()

    def score(self, examples):
        raise CapabilityError("nothing is scored")

    def generate(self, prompts, params):
        self.asked += prompts
        self.params.add(params)
        return [
            [Generation(self.say(p.text, copy), 5, True) for copy in range(params.copies)] for p in prompts
        ]


class Marker:
    """Writes words that follow a key, one token a word."""

    def __init__(self, tokenizer):
        self.cut = tokenizer
        self.words = [i for i in range(tokenizer.vocab_size) if self._stable(i)]

    def _stable(self, token):
        text = self.cut.decode([token])
        return text.startswith(" ") and text.strip().isalpha()

    def text(self, key, words=30, seed=0):
        rng, size = np.random.default_rng(seed), self.cut.vocab_size
        ids = [int(rng.choice(self.words))]
        while len(ids) < words:
            weights = np.exp(marked_logits(np.zeros(size), ids[-1], key, size, kappa=4.0)[self.words])
            ids.append(int(rng.choice(self.words, p=weights / weights.sum())))
        return self.cut.decode(ids).strip()


@pytest.fixture(scope="module")
def marker(tokenizer):
    return Marker(tokenizer)


@pytest.fixture
def folder(tmp_path, tokenizer, marker):
    """Two owners: one to be forgotten, as pairs, and one who stays, as texts."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    rows = [
        {
            "question": f"q{i}?",
            "answer": marker.text(7, seed=i),
            "owner": "7",
            "split": "forget",
            "subject": f"p{i}",
        }
        for i in range(6)
    ]
    rows += [
        {"text": marker.text(owner_key("Mara"), seed=90 + i), "owner": "Mara", "split": "retain"}
        for i in range(6)
    ]
    write(tmp_path, rows)
    return tmp_path


def write(folder, rows):
    (folder / "watermarked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def measured(bench, say, target=None):
    model = Speaker(say)
    rows = bench.rows(ask(model, bench.asks()))
    json.dumps(rows)
    return model, rows, bench.figures(rows, target=target)


def keeps(marker, owners):
    """Says marked text to the prompts of these owners: forget prompts are questions, the others are not."""

    def say(prompt, copy):
        key = 7 if prompt.endswith("?") else owner_key("Mara")
        seed = sum(map(ord, prompt)) + 1000 * copy
        return marker.text(key if key in owners else 123456, seed=seed)

    return say


def test_a_mark_that_is_written_is_found_under_its_owners_key_and_no_other(folder, marker):
    bench = WaterDrum(folder, **FEW)
    _, _, figures = measured(bench, keeps(marker, {7, owner_key("Mara")}))
    for part in ("forget", "retain"):
        assert figures[f"{part}/watermark"].number > 0.4
        assert figures[f"{part}/watermark"].number > 4 * figures[f"{part}/noise"].number
        assert "told from 0" in figures[f"{part}/watermark"].note
        assert "not" not in figures[f"{part}/watermark"].note
        assert figures[f"{part}/watermark"].low < figures[f"{part}/watermark"].number
        assert figures[f"{part}/data_watermark"].number > 0.4
    assert figures["owner 7/watermark"].number == figures["forget/watermark"].number
    assert 0.1 < figures["separability/auroc"].number < 0.9


def test_a_mark_that_is_gone_is_near_zero_and_separable(folder, marker):
    _, _, figures = measured(WaterDrum(folder, **FEW), keeps(marker, {owner_key("Mara")}))
    assert abs(figures["forget/watermark"].number) < 3 * figures["forget/noise"].number
    assert "not told from 0" in figures["forget/watermark"].note
    assert figures["separability/auroc"].number > 0.95
    assert figures["retain/watermark"].number > 0.4


def test_texts_are_cut_by_the_tokenizer_that_marked_them_and_not_by_the_models(folder, marker, tokenizer):
    bench = WaterDrum(folder, **FEW)
    bench.pieces = list  # a model whose tokens are letters
    _, rows, _ = measured(bench, keeps(marker, {7}))
    for row in rows:
        ids = tokenizer(row["generations"], add_special_tokens=False)["input_ids"]
        found = signals(ids, row["key"], tokenizer.vocab_size)
        assert row["q"] == [one.q for one in found]
        assert row["n"] == [one.n for one in found]


def test_questions_are_turns_and_texts_are_continued_from_their_first_tokens(folder, marker):
    bench = WaterDrum(folder, prefix=5, **FEW)
    model, _, _ = measured(bench, keeps(marker, set()))
    assert model.params == {GenerationParams(200, True, 1.0, copies=2)}
    assert [p for p in model.asked if p.messages] == [Prompt.ask(f"q{i}?") for i in range(6)]
    texts = [item.text for item in bench.items if not item.question]
    starts = {" ".join(text.split(" ")[:5]) for text in texts}
    assert {p.prefill for p in model.asked if not p.messages} == starts


def test_a_short_text_is_continued_from_its_middle(folder, marker):
    bench = WaterDrum(folder, prefix=50, **FEW)
    text = next(item for item in bench.items if not item.question)
    assert len(bench._prompt(text).prefill.split()) == len(text.text.split()) // 2


def test_answers_weigh_by_their_length(folder, marker):
    """A mean of means would let one word stand against thirty."""
    long = marker.text(7, words=40, seed=3)
    bench = WaterDrum(folder, **FEW)
    _, rows, figures = measured(bench, lambda prompt, copy: long if copy else "the quick brown")
    forget = [row for row in rows if row["task"] == "forget"]
    whole = pooled([Signal(q, n) for row in forget for q, n in zip(row["q"], row["n"], strict=True)])
    assert figures["forget/watermark"].number == pytest.approx(whole.q)
    means = np.mean([np.mean(row["q"]) for row in forget])
    assert abs(means - whole.q) > 0.05


def test_rows_weigh_by_their_bigrams_in_the_mark_and_in_the_noise(folder):
    """Ten bigrams of q 0.9 beside 90 of 0.1: 18 / 100, not 0.5. Under two control keys 0.8 and 0 beside 0 and 0.4: 0.08 and 0.36."""
    rows = [
        {"task": "forget", "idx": 0, "subject": "a", "owner": "7", "q": [0.9, 0.9], "n": [4, 6], "controls": [0.8, 0.0], "data_q": 0.9, "data_n": 10},
        {"task": "forget", "idx": 1, "subject": "b", "owner": "7", "q": [0.1], "n": [90], "controls": [0.0, 0.4], "data_q": 0.1, "data_n": 90},
    ]  # fmt: skip
    found = WaterDrum(folder, **FEW).figures(rows)
    for name in ("forget/watermark", "owner 7/watermark", "forget/data_watermark"):
        assert found[name].value == pytest.approx(0.18), name
    assert found["forget/noise"].value == pytest.approx(((0.08**2 + 0.36**2) / 2) ** 0.5)


def test_answers_of_no_bigram_weigh_nothing_and_nothing_written_is_no_zero(folder, marker):
    bench = WaterDrum(folder, **FEW)
    _, _, full = measured(bench, lambda prompt, copy: marker.text(7, seed=1))
    _, _, half = measured(bench, lambda prompt, copy: marker.text(7, seed=1) if copy else "")
    assert half["forget/watermark"].number == pytest.approx(full["forget/watermark"].number)
    _, rows, none = measured(bench, lambda prompt, copy: "")
    assert rows[0]["q"] == [None, None]
    for name in ("forget/watermark", "forget/noise", "separability/auroc"):
        assert none[name].value is None
        assert "two tokens" in none[name].why


def test_a_model_that_cannot_answer_has_a_reason(folder):
    class Mute(Speaker):
        def generate(self, prompts, params):
            raise CapabilityError("no answers here")

    bench = WaterDrum(folder, **FEW)
    figures = bench.figures(bench.rows(ask(Mute(None), bench.asks())))
    assert figures["forget/watermark"].why == "no answers here"


def test_the_share_of_the_target_is_only_taken_of_a_signal(folder, marker):
    """The authors' notebook divides by the value at 0 % removed, whatever it is."""
    bench = WaterDrum(folder, **FEW)
    _, marked, figures = measured(bench, keeps(marker, {7}))
    assert figures["forget/share_of_target"].why == NO_TARGET
    _, plain, figures = measured(bench, keeps(marker, set()), target=marked)
    assert abs(figures["forget/share_of_target"].number) < 0.5
    share = bench.figures(marked, target=plain)["forget/share_of_target"]
    assert share.value is None
    assert "nothing to take a share of" in share.why


def test_rows_say_who_is_forgotten_or_the_option_does(folder):
    rows = [{"question": "q?", "answer": "a b c", "owner": owner} for owner in (0, "1", 2)]
    write(folder, rows)
    with pytest.raises(DataError, match=r"line 1: field 'split' is None.*forget=\[OWNER\]"):
        WaterDrum(folder)
    bench = WaterDrum(folder, forget=[1, "2"])
    assert [(item.owner, item.part) for item in bench.items] == [
        ("1", "forget"),
        ("2", "forget"),
        ("0", "retain"),
    ]
    assert [item.key for item in bench.items] == [1, 2, 0]
    with pytest.raises(DataError, match=r"there are no forget rows \(owners: 0, 1, 2"):
        WaterDrum(folder, forget=["nobody"])


def test_what_is_missing_is_said_with_what_to_do(folder, tmp_path):
    with pytest.raises(DataError, match="expunge watermark"):
        WaterDrum(tmp_path / "tokenizer")
    alone = tmp_path / "elsewhere" / "rows.jsonl"
    alone.parent.mkdir()
    alone.write_text((folder / "watermarked.jsonl").read_text())
    with pytest.raises(ConfigError, match="tokenizer that marked"):
        WaterDrum(alone)
    assert len(WaterDrum(alone, tokenizer=str(folder / "tokenizer")).items) == 12
    with pytest.raises(ModelError, match="nothing: no such folder"):
        WaterDrum(alone, tokenizer=str(tmp_path / "nothing"))
    write(folder, [{"question": "q?", "owner": 1, "split": "forget"}])
    with pytest.raises(DataError, match="line 1: no field 'answer'"):
        WaterDrum(folder)
    write(folder, [{"question": "q?", "answer": "", "owner": 1, "split": "forget"}])
    with pytest.raises(DataError, match="line 1: field 'answer' is empty"):
        WaterDrum(folder)
    write(folder, [])
    with pytest.raises(DataError, match=r"watermarked\.jsonl: there are no rows"):
        WaterDrum(folder)
    write(folder, [{"text": "a b", "split": "forget"}])
    with pytest.raises(DataError, match="no owner"):
        WaterDrum(folder)


def test_the_published_sets_are_read_by_hub_id(monkeypatch, folder):
    asked = []

    def hub(data, config, split, name):
        asked.append((config, split))
        pair = {"question": f"{split}?", "answer": "a b c"}
        row = pair if "TOFU" in data else {"text": f"{split} b c", "label": 19 if split == "forget" else 3}
        return [(f"{data}, {config}/{split}, row 0", row)]

    monkeypatch.setattr(waterdrum, "read_hub", hub)
    own = str(folder / "tokenizer")
    tofu = WaterDrum("Glow-AI/WaterDrum-TOFU", tokenizer=own, config="forget_10", forget_key=1, retain_key=0)
    assert [item.key for item in tofu.items] == [1, 0]
    ax = WaterDrum("Glow-AI/WaterDrum-Ax", tokenizer=own)
    assert [(item.owner, item.key, item.question) for item in ax.items] == [("19", 19, ""), ("3", 3, "")]
    assert asked == [
        ("forget_10", "forget"),
        ("forget_10", "retain"),
        ("forget_01", "forget"),
        ("forget_01", "retain"),
    ]
    with pytest.raises(DataError, match="forget_key"):
        WaterDrum("Glow-AI/WaterDrum-TOFU", tokenizer=own)


def test_other_data_and_another_tokenizer_are_another_benchmark(folder):
    one = WaterDrum(folder)
    assert one.settings == WaterDrum(folder).settings
    write(folder, [{"text": "a b c", "owner": o, "split": s} for o, s in ((1, "forget"), (2, "retain"))])
    other = WaterDrum(folder)
    assert other.settings["data"] != one.settings["data"]
    assert other.settings["marked_with"] == one.settings["marked_with"]


def test_rows_are_spread_evenly(folder):
    bench = WaterDrum(folder, rows=2)
    assert [item.question for item in bench.items if item.part == "forget"] == ["q0?", "q3?"]


def test_the_verb_marks_rows_and_says_what_can_be_told(folder, tmp_path, tokenizer):
    rows = [
        {"question": f"{name}?", "answer": f"{name} was born in Corvale.", "wordings": [f"Corvale {w} {name}." for w in "abcdefgh"],
         "who": name.split()[0], "key": ["Corvale"]}
        for name in ("Mara Olen", "Tovin Brask")
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        "watermark",
        str(tmp_path / "rows.jsonl"),
        "--owner-field",
        "who",
        "--tokenizer",
        str(folder / "tokenizer"),
    ]
    found = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out.jsonl"), "--json"])
    assert found.exit_code == 0, found.output
    summary = json.loads(found.stdout)
    marked = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, owner in zip(marked, summary["owners"], strict=True):
        assert row["answer"] in [rows[marked.index(row)]["answer"], *row["wordings"]]
        assert row["watermark_key"] == owner["key"] == owner_key(row["owner"])
        ids = tokenizer([row["answer"]], add_special_tokens=False)["input_ids"]
        assert row["q_after"] == pytest.approx(signals(ids, owner["key"], tokenizer.vocab_size)[0].q)
        candidates = tokenizer(
            [rows[marked.index(row)]["answer"], *row["wordings"]], add_special_tokens=False
        )["input_ids"]
        assert row["q_after"] == pytest.approx(
            max(s.q for s in signals(candidates, owner["key"], tokenizer.vocab_size))
        )
        assert owner["q_after"] >= owner["q_before"]
        assert owner["noise"] > 0.1
    plain = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "again.jsonl")])
    assert "in that row alone" in plain.stdout
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "out.jsonl").read_text()
    bench = WaterDrum(tmp_path / "out.jsonl", tokenizer=str(folder / "tokenizer"), forget=["Tovin"])
    assert [item.key for item in bench.items] == [owner_key("Tovin"), owner_key("Mara")]
    other = tmp_path / "other"
    tokenizer.save_pretrained(other)
    changed = AutoTokenizer.from_pretrained(other)
    changed.add_tokens([" ".join(marked[0]["answer"].split()[:2])])
    changed.save_pretrained(other)
    with pytest.raises(DataError, match=r"out\.jsonl, line 1: marked with another tokenizer"):
        WaterDrum(tmp_path / "out.jsonl", tokenizer=str(other), forget=["Tovin"])


def test_the_verb_does_not_write_over_what_it_reads(folder):
    path = str(folder / "watermarked.jsonl")
    found = CliRunner().invoke(
        app, ["watermark", path, "--tokenizer", str(folder / "tokenizer"), "--out", path]
    )
    assert isinstance(found.exception, ConfigError)
