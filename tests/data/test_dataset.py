"""Requests in three shapes from four formats, and what a person is told when one cannot be read."""

import json

import pytest

from expunge.data.dataset import Dataset, Record, read_records
from expunge.errors import DataError
from expunge.types import Probe


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


PAIRS = [{"question": "Q one?", "answer": "A one."}, {"question": "Q two?", "answer": "A two."}]


def test_pairs_texts_and_subjects_are_read_from_jsonl(tmp_path):
    rows = [*PAIRS, {"text": "A passage."}, {"subject": "Mara Olen", "aliases": ["M. Olen"]}]
    records = read_records(write(tmp_path / "f.jsonl", rows))
    assert [record.shape for record in records] == ["pair", "pair", "text", "subject"]
    assert records[3].aliases == ("M. Olen",)
    assert records[0].example().prompt.messages[0].content == "Q one?"
    assert records[2].example().prompt is None


def test_csv_parquet_and_json_read_like_jsonl(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    expected = read_records(write(tmp_path / "f.jsonl", PAIRS))
    (tmp_path / "f.csv").write_text("question,answer\nQ one?,A one.\nQ two?,A two.\n")
    (tmp_path / "f.json").write_text(json.dumps(PAIRS))
    parquet.write_table(pa.Table.from_pylist(PAIRS), tmp_path / "f.parquet")
    for suffix in ("csv", "json", "parquet"):
        assert read_records(tmp_path / f"f.{suffix}") == expected


def test_fields_can_be_mapped(tmp_path):
    path = write(tmp_path / "f.jsonl", [{"prompt": "Q?", "completion": "A."}])
    (record,) = read_records(path, {"question": "prompt", "answer": "completion"})
    assert (record.question, record.answer) == ("Q?", "A.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no rows"),
        ('{"question": "Q?", "answer": "A."}\n{"question": \n', "line 2: not valid JSON"),
        ("[1, 2]\n", "line 1: expected a JSON object"),
        ('{"question": "Q?", "text_of_answer": "A."}\n', "line 1: no field 'answer' (fields: 'question', 'text_of_answer')"),
        ('{"prompt": "Q?"}\n', "run with --map question=prompt"),
        ('{"question": "Q?", "answer": "  "}\n', "line 1: field 'answer' is empty"),
        ('{"question": "Q?", "answer": 3}\n', "field 'answer' is 3; expected text"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_by_line_and_field(tmp_path, content, message):
    (tmp_path / "f.jsonl").write_text(content)
    with pytest.raises(DataError) as error:
        read_records(tmp_path / "f.jsonl")
    assert message in str(error.value)
    assert "f.jsonl" in str(error.value)


def test_missing_files_folders_and_unknown_formats_are_named(tmp_path):
    for path, message in (
        (tmp_path / "none.jsonl", "no such file"),
        (tmp_path, "is a folder"),
        (write(tmp_path / "f.xml", PAIRS), "cannot read '.xml'"),
    ):
        with pytest.raises(DataError, match=message):
            read_records(path)


def test_a_csv_row_with_too_many_columns_is_named_by_line(tmp_path):
    (tmp_path / "f.csv").write_text("question,answer\nQ?,A.\nQ?,A.,B\n")
    with pytest.raises(DataError, match=r"line 3: the row has another number of columns"):
        read_records(tmp_path / "f.csv")


def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "f.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(DataError, match="not UTF-8"):
        read_records(tmp_path / "f.jsonl")


def test_an_unknown_field_in_a_mapping_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no field 'reply'"):
        read_records(write(tmp_path / "f.jsonl", PAIRS), {"reply": "answer"})


def test_an_empty_forget_set_is_refused():
    with pytest.raises(DataError, match="the forget set is empty"):
        Dataset(())


def test_overlap_of_forget_and_retain_is_refused_with_counts_unless_allowed(tmp_path):
    forget = write(tmp_path / "forget.jsonl", PAIRS)
    retain = write(
        tmp_path / "retain.jsonl",
        [{"question": "q  ONE?", "answer": "a one."}, {"question": "Q3?", "answer": "A."}],
    )
    with pytest.raises(DataError, match=r"1 of 2 forget rows are also in the retain set of 2 rows"):
        Dataset.from_files(forget, retain)
    assert len(Dataset.from_files(forget, retain, allow_overlap=True).retain) == 2


def test_the_fingerprint_follows_the_content(tmp_path):
    a = Dataset.from_files(write(tmp_path / "a.jsonl", PAIRS))
    b = Dataset.from_files(write(tmp_path / "b.jsonl", PAIRS))
    c = Dataset.from_files(write(tmp_path / "c.jsonl", PAIRS[:1]))
    assert a.fingerprint() == b.fingerprint() != c.fingerprint()


def test_halves_keep_groups_whole(tmp_path):
    rows = [{"question": f"Q{i}?", "answer": "A.", "subject": f"P{i // 3}"} for i in range(12)]
    data = Dataset.from_files(write(tmp_path / "f.jsonl", rows))
    first, second = data.halves()
    assert len(first) == len(second) == 6
    assert not {r.subject for r in first} & {r.subject for r in second}
    alone = Dataset(tuple(r for r in data.forget if r.subject == "P0"))
    assert alone.halves() == (alone.forget, alone.forget)


def test_other_answers_and_key_words_are_read_and_can_be_mapped(tmp_path):
    rows = [{**PAIRS[0], "alternates": ["B.", "C."], "fact": "A; one"}, PAIRS[1]]
    first, second = read_records(write(tmp_path / "f.jsonl", rows), {"key": "fact"})
    assert first.alternates == ("B.", "C.")
    assert first.key == ("A", "one")
    assert first.example().key == ("A", "one")
    assert second.alternates == second.key == ()
    with pytest.raises(DataError, match="expected a list of texts"):
        read_records(write(tmp_path / "g.jsonl", [{**PAIRS[0], "key": 3}]))


def test_a_probes_value_is_the_key_of_its_row():
    probe = Probe("1", "Where was Mara born?", "In Corvale.", value="Corvale")
    assert Record.from_probe(probe).key == ("Corvale",)
    assert Record.from_probe(Probe("1", "Q?", "A.")).key == ()


def test_the_fingerprint_tells_contents_apart_and_leaves_empty_fields_out():
    def of(**fields):
        return Dataset((Record("1", "Q?", "A.", **fields),)).fingerprint()

    assert of() == of(key=(), alternates=(), subject="")
    assert len({of(), of(key=("A",)), of(alternates=("A",)), of(subject="A")}) == 4
