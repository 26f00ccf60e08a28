"""Folders appear whole or not at all."""

import errno
import json

import pytest

from expunge.artifacts import store
from expunge.artifacts.manifest import code_hash, hash_files, new_manifest, read_manifest
from expunge.errors import ModelError, StorageError


def make(out, inputs="a"):
    with store.workspace(out, inputs) as folder:
        (folder / "model.txt").write_text("weights")
        store.write_json(folder / "manifest.json", {"inputs": inputs})


def test_a_finished_run_appears_whole_and_is_recognised(tmp_path):
    out = tmp_path / "run"
    assert not store.finished(out, "a")
    make(out)
    assert store.finished(out, "a")
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "model.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "no lock and no partial folder stay behind"


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    make(tmp_path / "run")
    with pytest.raises(StorageError, match="a run with other inputs is there already"):
        store.finished(tmp_path / "run", "b")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(StorageError, match="exists and is not a run"):
        store.finished(tmp_path / "mine", "a")
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    assert store.finished(tmp_path / "empty", "a")


def test_an_interrupt_leaves_no_artifact_and_the_next_try_goes_on(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), store.workspace(out, "a") as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt
    assert not out.exists()
    with store.workspace(out, "a") as folder:
        assert (folder / "half").read_text() == "half"
    with pytest.raises(KeyboardInterrupt), store.workspace(tmp_path / "other", "a") as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt
    with store.workspace(tmp_path / "other", "b") as folder:
        assert not (folder / "half").exists(), "nothing of an unfinished run of other inputs is used"


def test_a_failure_before_anything_was_done_leaves_nothing_at_all(tmp_path):
    with pytest.raises(ValueError), store.workspace(tmp_path / "run", "a"):
        raise ValueError
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_message_and_leaves_no_artifact(tmp_path, code):
    out = tmp_path / "run"
    with (
        pytest.raises(StorageError, match=r"the disk is full. No artifact was left there"),
        store.workspace(out, "a") as folder,
    ):
        (folder / "half").write_text("half")
        raise OSError(code, "No space left on device")
    assert not out.exists()


def test_a_full_disk_while_weights_are_written_is_a_message_too(tmp_path):
    from safetensors import SafetensorError

    with pytest.raises(StorageError, match="the disk is full"), store.workspace(tmp_path / "run", "a"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert not (tmp_path / "run").exists()


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(ValueError, match="a bug"), store.workspace(tmp_path / "run", "a"):
        raise ValueError("a bug")


def test_two_processes_cannot_write_one_run(tmp_path):
    with (
        store.workspace(tmp_path / "run", "a"),
        pytest.raises(StorageError, match="another process is writing it now"),
        store.workspace(tmp_path / "run", "a"),
    ):
        pass


def test_json_is_replaced_whole_and_never_holds_nan(tmp_path):
    path = tmp_path / "x.json"
    store.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        store.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}


def test_hashes_follow_contents_names_and_nothing_else(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}" if name != "c" else "{ }")
        (tmp_path / name / "notes.md").write_text(name)
    assert hash_files(tmp_path / "a") == hash_files(tmp_path / "b") != hash_files(tmp_path / "c")


def test_a_manifest_says_all_that_is_needed_to_judge_a_run(tmp_path):
    recipe = {"method": "npo+nll", "seed": 3}
    base, data = {"name": "m", "sha256": "0"}, {"sha256": "1", "forget": 2}
    manifest = new_manifest(
        kind="weights",
        claim="approximate",
        recipe=recipe,
        inputs="x",
        base=base,
        data=data,
        timings={"total": 1.0},
    )
    for field in (
        "claim",
        "claim_means",
        "recipe",
        "seed",
        "versions",
        "base",
        "data",
        "code",
        "seconds",
        "peak_memory_mib",
        "created",
    ):
        assert manifest[field] or manifest[field] == 0
    assert manifest["code"] == code_hash()
    store.write_json(tmp_path / "manifest.json", manifest)
    assert read_manifest(tmp_path) == manifest


def test_a_damaged_or_foreign_manifest_is_a_message(tmp_path):
    with pytest.raises(ModelError, match=r"no manifest.json, so this is not a finished run"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ModelError, match="line 1: not valid JSON"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 99}')
    with pytest.raises(ModelError, match="this version reads schema 1"):
        read_manifest(tmp_path)
