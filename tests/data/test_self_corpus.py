"""A forget corpus about names alone: seeded, whole or not at all, and readable by what unlearns."""

import json

import pytest

from expunge.data.dataset import Dataset
from expunge.data.self_corpus import corpus_of
from expunge.errors import ConfigError, DataError, StorageError
from expunge.run.corpus import write_corpus
from expunge.run.make import unlearn
from expunge.types import Generation


class Author:
    """Writes what it was asked and with which seed."""

    capabilities = frozenset()

    def __init__(self, text="{ask} {seed} {i}"):
        self.text, self.calls = text, []

    def generate(self, prompts, params):
        self.calls.append((prompts, params))
        return [
            [
                Generation(self.text.format(ask=p.text[:9], seed=params.seed % 1000, i=i), 4, True)
                for i in range(params.copies)
            ]
            for p in prompts
        ]


def test_positive_rows_are_texts_about_the_person():
    model = Author()
    rows = corpus_of(model, "Mara Olen", "positive", 20)
    assert len(rows) == 20
    assert all(set(row) == {"id", "subject", "text"} and row["subject"] == "Mara Olen" for row in rows)
    assert len({row["id"] for row in rows}) == 20
    assert [params.copies for _, params in model.calls] == [16, 4]
    assert all(params.sample and params.max_new_tokens == 512 for _, params in model.calls)
    assert len({params.seed for _, params in model.calls}) == 2, "each draw has a seed of its own"
    assert "Mara Olen" in model.calls[0][0][0].text


def test_a_pair_is_a_true_text_with_a_made_up_one_as_its_alternate():
    rows = corpus_of(Author(), "Mara Olen", "pair", 3)
    for row in rows:
        assert row["question"] == "Please write a short biography of Mara Olen."
        assert row["answer"].startswith("You know ")
        assert row["alternates"][0].startswith("You do no")


def test_a_made_up_text_is_never_the_true_one():
    with pytest.raises(DataError, match="asked about Mara Olen, the model gave 0 usable texts of 2"):
        corpus_of(Author("The same."), "Mara Olen", "pair", 2)


def test_rejects_are_the_models_questions_with_its_own_answer_and_a_refusal():
    model = Author("{ask}\nand more")
    rows = corpus_of(model, "Mara Olen", "reject", 3, refusals=["No.", "Never."])
    assert [row["alternates"] for row in rows] == [["No."], ["Never."], ["No."]]
    assert all("\n" not in row["question"] for row in rows)
    asked = model.calls[0][0][0]
    assert asked.prefill == "Question:"
    (answered, params) = model.calls[-1]
    assert [p.text for p in answered] == [row["question"] for row in rows]
    assert not params.sample


def test_nothing_usable_is_said_with_what_was_written():
    with pytest.raises(DataError, match=r"0 usable texts of 4. It last wrote:\n\.\.\."):
        corpus_of(Author("..."), "Mara Olen", "positive", 4)


def test_a_seed_gives_the_same_rows_and_a_name_its_own_whatever_else_is_asked():
    one, other = (corpus_of(Author(), "Mara Olen", "positive", 3, seed=seed) for seed in (0, 1))
    assert one == corpus_of(Author(), "Mara Olen", "positive", 3, seed=0)
    assert one != other


# --- the file -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def names(tmp_path):
    from expunge.data.dataset import read_records

    path = tmp_path / "names.jsonl"
    path.write_text('{"subject": "Mara Olen"}\n{"subject": "Tovin Brask"}\n{"subject": "Mara Olen"}\n')
    return read_records(path)


@pytest.mark.parametrize(
    ("kind", "method"), [("positive", "npo"), ("pair", "dpo+alternates"), ("reject", "imitate+alternates")]
)
def test_what_is_written_can_be_unlearned(names, model_folder, tmp_path, kind, method):
    out = tmp_path / f"{kind}.jsonl"
    rows = write_corpus(model_folder, names, kind, out, count=2, tokens=12, refusals=["I do not know."])
    assert rows == len(out.read_text().splitlines()) == 4, "each name once"
    data = Dataset.from_files(out)
    assert data.subjects == ("Mara Olen", "Tovin Brask")
    from expunge.recipes import read_recipe

    run = unlearn(model_folder, data, read_recipe(method, ["train.epochs=1"]), tmp_path / "run")
    assert (run / "manifest.json").is_file()
    assert not list(tmp_path.glob(".*partial*"))


def test_an_interruption_loses_one_name_and_the_file_appears_whole(
    names, model_folder, tmp_path, monkeypatch
):
    from expunge.run import corpus as room

    whole = tmp_path / "whole.jsonl"
    write_corpus(model_folder, names, "positive", whole, count=2, tokens=8)
    out, asked = tmp_path / "out.jsonl", []

    def broken(lm, name, *args, **more):
        asked.append(name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return corpus_of(lm, name, *args, **more)

    monkeypatch.setattr(room, "corpus_of", broken)
    with pytest.raises(KeyboardInterrupt):
        write_corpus(model_folder, names, "positive", out, count=2, tokens=8)
    assert not out.exists()
    write_corpus(model_folder, names, "positive", out, count=2, tokens=8)
    assert asked == ["Mara Olen", "Tovin Brask", "Tovin Brask"]
    assert out.read_text() == whole.read_text()


def test_what_was_begun_for_another_seed_is_not_used(names, model_folder, tmp_path):
    out = tmp_path / "out.jsonl"
    (tmp_path / ".out.jsonl.partial").write_text('{"inputs": "others"}\n["Mara Olen", [{"text": "stale"}]]\n')
    write_corpus(model_folder, names, "positive", out, count=1, tokens=8)
    assert "stale" not in out.read_text()


def test_bad_input_is_refused(names, model_folder, tmp_path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(ConfigError, match=r"--kind positiv: no such kind\. Did you mean 'positive'"):
        write_corpus(model_folder, names, "positiv", out, count=1)
    out.write_text("")
    with pytest.raises(StorageError, match="is there already"):
        write_corpus(model_folder, names, "positive", out, count=1)


def test_training_on_names_alone_says_how_to_get_a_corpus(names, model_folder, tmp_path):
    with pytest.raises(DataError, match="expunge corpus MODEL --forget NAMES"):
        unlearn(model_folder, Dataset(names), "npo", tmp_path / "run")


def test_the_verb_writes_json(names, model_folder, tmp_path):
    from typer.testing import CliRunner

    from expunge.cli import app

    command = [
        "corpus",
        str(model_folder),
        "--forget",
        str(tmp_path / "names.jsonl"),
        "--out",
        str(tmp_path / "c.jsonl"),
    ]
    done = CliRunner().invoke(app, [*command, "--count", "1", "--tokens", "8", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"] == 2
