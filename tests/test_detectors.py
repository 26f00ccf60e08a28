"""The table of all detectors: counts of several worlds add up, and a detector that cannot be fitted is left out with its reason."""

from pathlib import Path

import pytest

from expunge.errors import DataError
from expunge.run.detection import Counted

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import detectors

    monkeypatch.setattr(detectors, "build_pocket", lambda size, seed, tell: Path(f"world-{seed}"))
    return detectors


def test_counts_of_all_seeds_add_up_and_who_cannot_be_fitted_is_left_out(script, monkeypatch):
    def count(world, name, seed, out):
        if name == "absent":
            raise DataError("no masked model here\nGive one.")
        return [
            Counted("as it is", "forget", True, 60, 60),
            Counted("typo", "forget", True, 60, 60 - 10 * seed),
            Counted("alias", "forget", True, 0, 0),
            Counted("typo", "retain", False, 300, 0),
            Counted("as it is", "holdout", False, 120, seed),
        ]

    monkeypatch.setattr(script, "count", count)
    found, skipped = script.gather(["names", "absent"], [1, 2], "tiny", Path("out"), lambda what: None)
    assert found == {
        "names": {
            ("as it is", "forget"): (0, 120),
            ("typo", "forget"): (30, 120),
            ("alias", "forget"): (0, 0),
            ("typo", "retain"): (0, 600),
            ("as it is", "holdout"): (3, 240),
        }
    }
    assert skipped == {"absent": "no masked model here"}
    page = script.markdown(found, skipped, "Detectors")
    assert "| typo | 120 | 0.25 (0.18–0.33) |" in page
    assert "None by any of them in 120 prompts each (at most 0.031): as it is." in page
    assert "None by any of them in 600 prompts each (at most 0.006): typo." in page
    assert "| holdout | 240 | 0.01 (0.00–0.04) |" in page
    assert "alias" not in page, "nobody had one"
    assert "Left out: absent: no masked model here" in page
