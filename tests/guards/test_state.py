"""What a guard writes comes back as it was; what is broken is refused whole."""

import numpy as np
import pytest

from expunge.errors import ModelError
from expunge.guards.state import read_state, write_state

STATE = {
    "a": [1, 2.5, None, "x"],
    "deep": {"rows": [{"m": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"m": np.array([True, False])}]},
}


def test_values_and_arrays_come_back_with_their_types(tmp_path):
    write_state(tmp_path / "guard", STATE)
    found = read_state(tmp_path / "guard")
    assert found["a"] == STATE["a"]
    for got, given in zip(found["deep"]["rows"], STATE["deep"]["rows"], strict=True):
        assert got["m"].dtype == given["m"].dtype
        assert np.array_equal(got["m"], given["m"])


def test_without_arrays_there_is_one_file(tmp_path):
    write_state(tmp_path, {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["guard.json"]


@pytest.mark.parametrize("harm", ["cut", "gone", "arrays cut", "arrays gone"])
def test_broken_or_missing_files_are_refused(tmp_path, harm):
    write_state(tmp_path, STATE)
    path = tmp_path / ("guard.safetensors" if "arrays" in harm else "guard.json")
    if "gone" in harm:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelError, match="missing or broken"):
        read_state(tmp_path)
