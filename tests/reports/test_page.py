"""What the page says of a detector's threshold: its promise, or that there is none."""

import pytest

from expunge.benchmarks.pocket import Pocket
from expunge.data.dataset import Dataset
from expunge.guards.calibration import calibrate, fixed_threshold
from expunge.recipes import recipe
from expunge.reports.words import calibration_sentence
from expunge.run import evaluate, report, unlearn


def test_a_calibrated_threshold_is_a_promise_with_its_counts():
    told = calibration_sentence(calibrate([1.0] * 19, [0.0] * 39, 0.05).describe())
    assert "promises a rate of 0.05" in told
    assert "missed 0 of 19 forget prompts (95 % up to 0.168)" in told
    assert "false alarms 0 of 39 retain prompts (95 % up to 0.090)" in told
    assert "cannot keep both" not in told
    assert "not for an attacker's" in told


def test_a_threshold_that_cannot_keep_both_promises_says_so():
    told = calibration_sentence(calibrate([0.1, *[1.0] * 18], [0.5] * 39, 0.05).describe())
    assert "misses are held, false alarms are not" in told
    assert "false alarms 39 of 39 retain prompts (95 % up to 1.000)" in told


def test_a_fixed_threshold_promises_nothing_and_missing_rows_have_no_interval():
    told = calibration_sentence(fixed_threshold(0.5).counted([1.0, 0.0], []).describe())
    assert told == (
        "Detector: a fixed threshold, which promises no rate. On the prompts given: missed 1 of 2 forget prompts (95 % up to 0.905)."
    )
    assert "no prompts to count on" in calibration_sentence(fixed_threshold(0.5).describe())


@pytest.mark.parametrize(
    ("detector", "retain", "says"),
    [
        ("aliases", True, "a fixed threshold, which promises no rate"),
        ("aliases", False, "missed 0 of 20 forget prompts"),
        ("ngram", True, "promises a rate of"),
    ],
)
def test_the_page_of_a_guard_is_written_with_and_without_a_promise(
    tiny_world, tmp_path, detector, retain, says
):
    world = Pocket.open(tiny_world)
    data = world.dataset()
    data = data if retain else Dataset(data.forget)
    out = unlearn(
        tiny_world / "target",
        data,
        recipe("refuse", detector=detector),
        tmp_path / "run",
        template="qa",
        device="cpu",
    )
    evaluate(out, world, gold=tiny_world / "gold", device="cpu")
    page = report(out).read_text()
    assert says in page.replace("&#39;", "'")
    assert "None" not in page[page.index("Detector:") :][:400]
