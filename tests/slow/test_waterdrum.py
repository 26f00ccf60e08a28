"""WaterDrum's own tests of a metric (D1 separability, D2 calibration) and extraction, on small models that are trained here.

Rows are like those of a pocket world, each with three places for a word that says nothing; the owner's key chooses it. Models are trained from
random weights on everybody's rows but a share of the forgotten owners'.
"""

import json
import random

import pytest
from typer.testing import CliRunner

from expunge.benchmarks._asks import ask
from expunge.benchmarks.waterdrum import WaterDrum
from expunge.cli import app
from expunge.data.dataset import Dataset, Record
from expunge.data.pocket.tokenizer import build_tokenizer
from expunge.data.pocket.world import WorldSettings, build_world
from expunge.metrics.watermark import calibration
from expunge.models.fresh import FreshModel
from expunge.recipes import TrainSettings, recipe
from expunge.run import load, unlearn
from expunge.run.build import fine_tune

pytestmark = pytest.mark.slow
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
WORDS = (
    "truly really surely plainly clearly certainly simply indeed",
    "gladly proudly warmly kindly fondly calmly bravely wisely",
    "once then there still again later early already",
)
WORLD = WorldSettings(
    people=40, forget=10, holdout=10, known=2, lands=4, facts=4, first_names=24, last_names=30, drills=1
)
TRAIN = TrainSettings(
    learning_rate=5e-3, epochs=50, batch_size=32, warmup=0.06, final_rate=0.05, betas=(0.9, 0.98)
)


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def invoke(*arguments):
    found = CliRunner().invoke(app, list(map(str, arguments)))
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def trained(folder, name, rows):
    made = recipe("retrain", train=TRAIN, seed=1)
    fine_tune(folder / name, None, folder / "tokenizer", FreshModel(), rows, [], made)
    return folder / name


@pytest.fixture(scope="module")
def world():
    return build_world(WORLD, 0)


@pytest.fixture(scope="module")
def marked(world, tmp_path_factory):
    """A folder of rows marked by the verb, with the tokenizer that marks; two owners are to be forgotten, two stay."""
    folder = tmp_path_factory.mktemp("marked")
    rows = []
    for part in ("forget", "retain"):
        people = list(dict.fromkeys(probe.subject for probe in world.probes[part]))
        for probe in world.probes[part]:
            said = probe.answer.removesuffix(".").split()
            answer = " ".join(["truly", *said[:3], "gladly", *said[3:], "once"]) + "."
            owner = f"{part} {people.index(probe.subject) % 2}"
            rows.append(
                {"question": probe.question, "answer": answer, "owner": owner, "split": part,
                 "subject": probe.subject, "key": [probe.value]}
            )  # fmt: skip
    lines(folder / "rows.jsonl", rows)
    (folder / "words.txt").write_text("\n".join(words.replace(" ", ", ") for words in WORDS))
    texts = [text for row in rows for text in (row["question"], row["answer"])]
    build_tokenizer([*texts, *world.vocabulary, *WORDS]).save_pretrained(folder / "tokenizer")
    summary = invoke(
        "watermark", folder / "rows.jsonl", "--tokenizer", folder / "tokenizer", "--out",
        folder / "watermarked.jsonl", "--synonyms", folder / "words.txt", "--json",
    )  # fmt: skip
    assert all(owner["told_from_0"] for owner in summary["owners"])
    return folder


@pytest.fixture(scope="module")
def parts(marked):
    rows = [json.loads(line) for line in (marked / "watermarked.jsonl").read_text().splitlines()]
    found = {
        part: [
            Record(str(i), row["question"], row["answer"], subject=row["subject"], group=row["subject"], key=tuple(row["key"]))
            for i, row in enumerate(rows)
            if row["split"] == part
        ]
        for part in ("forget", "retain")
    }  # fmt: skip
    random.Random(0).shuffle(found["forget"])
    return found


@pytest.fixture(scope="module")
def figures(marked, parts):
    """Share of the forgotten owners' rows in training, to the figures of the model."""
    bench = WaterDrum(marked, samples=4, tokens=30)
    found = {}
    for share in SHARES:
        kept = parts["forget"][: round(share * len(parts["forget"]))]
        lm = load(trained(marked, f"with{share:.0%}", [*parts["retain"], *kept]), template="qa")
        found[share] = bench.figures(bench.rows(ask(lm, bench.asks())))
    for share, measured in found.items():
        print(share, {name: figure.value for name, figure in measured.items() if "owner" not in name})
    return found


def test_d1_what_was_trained_on_carries_its_mark_and_what_was_not_does_not(figures):
    without, whole = figures[0.0], figures[1.0]
    assert whole["forget/watermark"].number > 3 * whole["forget/noise"].number
    assert abs(without["forget/watermark"].number) < 3 * without["forget/noise"].number
    assert whole["forget/watermark"].low > without["forget/watermark"].high
    assert without["separability/auroc"].number > 0.8
    assert whole["separability/auroc"].number < 0.7
    for measured in figures.values():
        assert measured["retain/watermark"].number > 3 * measured["retain/noise"].number


def test_d2_the_mark_follows_the_share_that_is_still_in_training(figures):
    found = calibration(SHARES, [figures[share]["forget/watermark"].number for share in SHARES])
    print(found)
    assert found.slope > 0
    assert found.r2 > 0.5


def test_from_the_command_line_on_a_plain_model_an_adapter_and_a_guard(
    world, marked, parts, figures, tmp_path
):
    people = [
        {"split": part, "text": text}
        for part in ("forget", "retain", "holdout")
        for text in world.biographies[part].values()
    ]
    lines(tmp_path / "texts.jsonl", people)
    data = Dataset(tuple(parts["forget"]), tuple(parts["retain"]))
    made = recipe(
        "npo+nll+lora",
        train=TrainSettings(learning_rate=2.5e-3, max_steps=20, batch_size=16, betas=(0.9, 0.98)),
    )
    target = marked / "with100%"
    runs = [
        target,
        unlearn(target, data, made, tmp_path / "adapter", template="qa"),
        unlearn(
            target, data, "pocket-refuse", tmp_path / "guard", template="qa", refusals=["I do not know."]
        ),
    ]
    for run in runs:
        result = invoke(
            "evaluate", run, "--benchmark", "waterdrum", "--data", marked, "--set", "samples=2", "--set", "tokens=30", "--json",
        )  # fmt: skip
        measured = result["figures"]
        assert measured["forget/watermark"]["value"] is not None
        assert measured["retain/watermark"]["low"] < measured["retain/watermark"]["high"]
        if run != target:
            assert measured["forget/share_of_target"]["value"] < 0.9
            assert (run / "evaluations" / "waterdrum.parquet").is_file()
        result = invoke(
            "evaluate", run, "--benchmark", "extraction", "--data", tmp_path / "texts.jsonl", "--set", "stride=8",
            "--set", "texts=5", "--json",
        )  # fmt: skip
        assert 0 <= result["figures"]["forget/ma"]["value"] <= 1
        assert result["figures"]["forget/forgotten"]["value"] is not None


def test_extraction_tells_a_model_that_has_read_the_texts_from_one_that_has_not(world, marked, tmp_path):
    texts = {part: list(world.biographies[part].values()) for part in ("forget", "retain", "holdout")}
    lines(
        tmp_path / "texts.jsonl",
        [{"text": text, "split": part} for part, those in texts.items() for text in those],
    )
    found = {}
    for name, read in (("reader", ("forget", "retain")), ("other", ("retain",))):
        rows = [Record(f"{part} {i}", text=text) for part in read for i, text in enumerate(texts[part])]
        model = trained(marked, name, rows)
        found[name] = invoke(
            "evaluate", model, "--benchmark", "extraction", "--data", tmp_path / "texts.jsonl",
            "--set", "stride=4", "--set", "ngrams=[5]", "--json",
        )["figures"]  # fmt: skip
    reader, other = found["reader"], found["other"]
    print({name: {key: figure["value"] for key, figure in those.items()} for name, those in found.items()})
    for name in ("el_5", "ma"):
        assert reader[f"forget/{name}"]["value"] > reader[f"threshold/{name}"]["value"]
        assert reader[f"forget/{name}"]["value"] > other[f"forget/{name}"]["value"]
        assert other[f"forget/{name}"]["value"] == pytest.approx(other[f"threshold/{name}"]["value"], abs=0.1)
    assert reader["forget/forgotten"]["value"] <= 0.1
    assert reader["forget/extracted"]["value"] > other["forget/extracted"]["value"]
