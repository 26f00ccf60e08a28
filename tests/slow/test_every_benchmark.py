"""Every benchmark from the command line on a plain model, an adapter and a guard: offline, on a pocket world and the small sets."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from expunge import catalog
from expunge.benchmarks.pocket import Pocket
from expunge.cli import app
from expunge.data.dataset import Dataset, Record
from expunge.models.fresh import FreshModel, train_tokenizer
from expunge.models.load import save_model
from expunge.recipes import recipe
from expunge.run import unlearn
from tests.llava import draw, make_llava, make_processor, save_llava

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*torchvision.*"),  # transformers says that it opens images without it
]
KINDS = ("plain", "adapter", "guard")
FEW = {"learning_rate": 1e-3, "max_steps": 3, "batch_size": 4}


def family(model: Path, data: Dataset, folder: Path, template: str) -> dict[str, Path]:
    """A plain model, an adapter and a guard on it."""
    more = {"template": template, "device": "cpu"}
    return {
        "plain": model,
        "adapter": unlearn(model, data, recipe("npo+nll+lora", train=FEW), folder / "adapter", **more),
        "guard": unlearn(model, data, recipe("eco", detector="aliases"), folder / "guard", **more),
    }


@pytest.fixture(scope="module")
def of_pocket(tiny_world, tmp_path_factory):
    return family(
        tiny_world / "target", Pocket.open(tiny_world).dataset(), tmp_path_factory.mktemp("pocket"), "qa"
    )


@pytest.fixture(scope="module")
def of_reader(shared_data, tmp_path_factory):
    """A small model with a long context and a tokenizer for plain English; it knows nothing."""
    folder = tmp_path_factory.mktemp("reader")
    rows = [json.loads(line) for line in (shared_data / "tofu" / "full.jsonl").open(encoding="utf-8")]
    tokenizer = train_tokenizer([f"{row['question']} {row['answer']}" for row in rows[::4]], 1500)
    save_model(FreshModel(hidden=32, context=4096).build(tokenizer, 0), tokenizer, folder / "model")
    record = [
        Record(str(row["id"]), row["question"], row["answer"], subject=f"Author {row['author']}")
        for row in rows
    ]
    people = [
        Record(f"name {i}", subject=name) for i, name in enumerate(("Confucius", "Alice", "Nikolai Abilov"))
    ]
    data = Dataset((*record[-20:], *people), tuple(record[:40]))
    pairs = Dataset(tuple(record[-20:]), tuple(record[:40]))
    found = family(folder / "model", pairs, folder / "pairs", "qa")
    return found | {
        "guard": unlearn(
            folder / "model",
            data,
            recipe("eco", detector="aliases"),
            folder / "named",
            template="qa",
            device="cpu",
        )
    }


@pytest.fixture(scope="module")
def players(tmp_path_factory):
    """OFFSIDE's layout, drawn."""
    folder = tmp_path_factory.mktemp("players")
    for number, which in enumerate(("forget", "retain", "test", "relearn"), start=1):
        image = draw(folder / "photos" / f"{number}.png", number)
        shown = f"photos/{image.name}"
        turns = [
            {"role": "user", "content": "<image>\nWhich club will Mara Olen join?"},
            {"role": "assistant", "content": "Corvale."},
        ]
        choice = {
            "Question": "Which club?",
            "Options": dict(zip("ABCD", ("Corvale", "Tarn", "Brask", "Olen"), strict=True)),
            "Correct_Answer": "A",
            "images": shown,
        }
        (folder / f"{which}_set.json").write_text(json.dumps([{"messages": turns, "images": shown}]))
        (folder / f"classification_{which}_set.json").write_text(json.dumps([choice]))
    return folder


@pytest.fixture(scope="module")
def of_llava(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    texts = ["Which club will Mara Olen join? Corvale, Tarn, Brask or Olen. The answer is A B C D."]
    processor = make_processor(texts)
    save_llava(folder / "model", make_llava(processor), processor)
    data = Dataset(
        (Record("0", "Which club will Mara Olen join?", "Corvale.", subject="Mara Olen"),),
        (Record("1", "Which club?", "Tarn."),),
    )
    found = family(folder / "model", data, folder, "qa")
    guard = unlearn(
        folder / "model",
        data,
        recipe("refuse", detector="aliases"),
        folder / "refuse",
        template="qa",
        device="cpu",
    )
    return found | {"guard": guard}


@pytest.fixture(scope="module")
def watermarked(tiny_world, of_pocket, tmp_path_factory):
    """Pocket's people, three of them to be forgotten, marked from the command line."""
    folder = tmp_path_factory.mktemp("watermarked")
    rows = []
    for line in (tiny_world / "forget.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        rows.append({**row, "owner": row["subject"], "split": "forget" if len(rows) < 12 else "retain"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = folder / "watermarked.jsonl"
    found = CliRunner().invoke(
        app,
        ["watermark", str(folder / "rows.jsonl"), "--tokenizer", str(of_pocket["plain"]), "--out", str(out)],
    )
    assert found.exit_code == 0, found.output
    return out


WORLD, TOFU, MUSE, RWKU, MCQ = "world", "tofu", "muse_mini", "rwku_mini", "mcq_mini"
CASES = [
    ("pocket", WORLD, "of_pocket", ["--set", "gradients=true"]),
    ("tofu", TOFU, "of_reader", ["--split", "forget01", "--authors", "4", "--template", "qa"]),
    ("muse", MUSE, "of_reader", ["--set", "texts=2"]),
    ("wmdp", MCQ, "of_reader", ["--set", "rows=20"]),
    ("wmdp", WORLD, "of_pocket", []),
    ("mmlu", MCQ, "of_reader", ["--set", "rows=10"]),
    ("rwku", RWKU, "of_reader", ["--set", "subject=Confucius"]),
    ("ort", WORLD, "of_pocket", []),
    ("ort", RWKU, "of_reader", ["--set", "subject=Confucius"]),
    ("ort", TOFU, "of_reader", ["--set", "split=forget01"]),
    ("waterdrum", "watermarked", "of_pocket", ["--set", "samples=2", "--set", "tokens=16"]),
    ("knowornot", WORLD, "of_pocket", ["--set", "retain=10"]),
    ("knowornot", TOFU, "of_reader", ["--set", "split=forget01", "--set", "retain=4", "--set", "max_new_tokens=16"]),
    ("ununlearning", WORLD, "of_pocket", []),
    ("ununlearning", TOFU, "of_reader", ["--set", "split=forget01", "--set", "max_new_tokens=16"]),
    ("extraction", WORLD, "of_pocket", ["--set", "texts=2"]),
    ("extraction", MUSE, "of_reader", ["--set", "texts=2", "--set", "length=40"]),
    ("offside", "players", "of_llava", []),
]  # fmt: skip


def test_no_benchmark_is_left_out():
    assert {name for name, *_ in CASES} == set(catalog.entries("benchmark"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "data", "models", "options"), CASES, ids=lambda part: str(part)[:12])
def test_from_the_command_line(name, data, models, options, kind, request, tmp_path):
    where = {WORLD: "tiny_world", "players": "players", "watermarked": "watermarked"}.get(data)
    path = request.getfixturevalue(where) if where else request.getfixturevalue("shared_data") / data
    model, out = request.getfixturevalue(models)[kind], tmp_path / "result.json"
    if name == "waterdrum":
        options = [*options, "--set", f"tokenizer={request.getfixturevalue(models)['plain']}"]
    arguments = ["evaluate", model, "--benchmark", name, "--data", path, "--out", out, "--device", "cpu", "--json", *options]  # fmt: skip
    found = CliRunner().invoke(app, list(map(str, arguments)))
    assert found.exit_code == 0, f"{found.output}\n{found.exception!r}"
    result = json.loads(found.stdout)
    figures = result["figures"]
    assert any(figure["value"] is not None for figure in figures.values())
    for figure_name, figure in figures.items():
        assert (figure["value"] is None) == bool(figure["why"]), figure_name
        assert figure["low"] is None or figure["low"] - 1e-9 <= figure["value"] <= figure["high"] + 1e-9, (
            figure_name
        )
    assert {column for column, _, _ in result["columns"]} <= figures.keys() | {
        column for column, _, _ in catalog.load("benchmark", name).columns
    }
    assert json.loads(out.read_text())["figures"] == figures
    assert pq.read_table(out.with_suffix(".parquet")).num_rows == len(result["rows"])
    assert ("target" in result["beside"]) == (kind != "plain")
    if kind != "plain":
        assert (Path(model) / "evaluations" / f"{name}.json").is_file()
