"""MUSE from end to end on a small book: models that learn it by heart, a method six ways, and folds."""

import json

import pytest

from expunge.run.bench import bench_muse

pytestmark = pytest.mark.slow
WORDS, OPENING, PASSAGE = 320, 30, 60


def part(shared_data, folder):
    """The beginnings of two chapters of each split of muse_mini, with openings and passages from all over them."""
    source = shared_data / "muse_mini"
    rows = [json.loads(line) for line in (source / "raw.jsonl").read_text().splitlines()]
    raw = []
    for split in ("forget", "retain1", "retain2", "holdout"):
        chapters = [row for row in rows if row["split"] == split][:2]
        raw += [{**row, "text": " ".join(row["text"].split()[:WORDS])} for row in chapters]

    def windows(split, length, count):
        for row in raw:
            if row["split"] == split:
                words = row["text"].split()
                for start in range(0, len(words) - length, (len(words) - length) // count):
                    yield " ".join(words[start : start + length])

    openings = [text.split() for text in windows("forget", 2 * OPENING, 6)]
    tables = {
        "raw": raw,
        "verbmem": [{"prompt": " ".join(w[:OPENING]), "gt": " ".join(w[OPENING:])} for w in openings],
        "privleak": [
            {"split": split, "text": text}
            for split, of in (("forget", "forget"), ("retain", "retain2"), ("holdout", "holdout"))
            for text in windows(of, PASSAGE, 10)
        ],
        "knowmem": [json.loads(line) for line in (source / "knowmem.jsonl").read_text().splitlines()],
        "scal_sust": [
            {"criterion": criterion, "fold": fold, "forget_chapters": chapters}
            for criterion, folds in (("scal", [[1], [1, 2]]), ("sust", [[1], [2]]))
            for fold, chapters in enumerate(folds, start=1)
        ],
    }
    kept = {"forget_qa": 4, "retain_qa": 6, "forget_qa_icl": 2, "retain_qa_icl": 2}
    found = []
    for split, count in kept.items():
        found += [row for row in tables["knowmem"] if row["split"] == split][:count]
    tables["knowmem"] = found
    folder.mkdir()
    for name, table in tables.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    return str(folder)


def values(figures):
    return {name: figure["value"] for name, figure in figures.items()}


def test_a_small_book_is_learned_by_heart_and_forgotten_six_ways(shared_data, tmp_path, monkeypatch):
    data, said = part(shared_data, tmp_path / "data"), []
    page = bench_muse(tmp_path / "runs", data=data, methods=("graddiff",), tell=said.append)
    found = json.loads((tmp_path / "runs" / "graddiff" / "evaluations" / "muse.json").read_text())
    run, target, gold = (
        values(f) for f in (found["figures"], found["beside"]["target"], found["beside"]["gold"])
    )
    assert target["forget/verbmem"] >= gold["forget/verbmem"] + 30
    assert target["forget/knowmem"] >= gold["forget/knowmem"] + 50
    assert target["privleak/min_k_40"] <= -90
    assert 0.25 <= gold["membership/min_k_40"] <= 0.75
    assert target["retain/knowmem"] >= 80
    assert gold["retain/knowmem"] >= 80
    assert run["forget/verbmem"] < target["forget/verbmem"]
    assert run["privleak/min_k_40"] > target["privleak/min_k_40"]
    assert "graddiff" in page.read_text()

    options = {"data": data, "methods": ("graddiff",), "tell": said.append}
    out = bench_muse(tmp_path / "runs", protocol="sustainability", **options)
    folds = json.loads((out / "graddiff" / "sustainability" / "folds.json").read_text())["folds"]
    assert len(folds) == 2
    assert all(fold["figures"]["retain/knowmem"]["value"] is not None for fold in folds)
    assert folds[1]["figures"]["forget/verbmem"]["value"] < target["forget/verbmem"]

    monkeypatch.setattr(
        "expunge.run.build_texts.train_models", lambda *_, **__: pytest.fail("trained for nothing")
    )
    bench_muse(tmp_path / "runs", protocol="sustainability", **options)
    assert said[-1].endswith("done before")
