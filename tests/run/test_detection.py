"""The detector table counts what it says it counts, on benchmarks and on plain rows; decisions say which part saw what."""

import numpy as np
import pytest

from expunge.attacks._prompts import OFF_DOMAIN
from expunge.attacks._rewrites import REWRITES
from expunge.benchmarks.pocket import Pocket
from expunge.benchmarks.tofu import Tofu
from expunge.data.dataset import Dataset, Record
from expunge.data.pocket.world import SIZES
from expunge.guards.calibration import fixed_threshold
from expunge.guards.detection import Detection
from expunge.guards.detectors.aliases import Aliases, FittedAliases, Watched
from expunge.guards.detectors.union import FittedUnion, Scaled, Union
from expunge.run.detection import FORGET, RETAIN, Counted, decisions, detector_table
from tests.guards.cases import ASKED, OTHERS, TARGETS

SHORT = {name: REWRITES[name] for name in REWRITES if not name[0].isdigit() or name == "200 words around"}


class Watch:
    """Flags by a rule, and remembers what it was shown."""

    def __init__(self, rule):
        self.rule, self.seen = rule, []

    def flags(self, texts):
        self.seen += texts
        return [self.rule(text) for text in texts]


def rows(names, side, **more):
    return tuple(
        Record(f"{side}{i}{k}", question.format(name), f"{name} did {k}.", subject=name, **more)
        for i, name in enumerate(names)
        for k, question in enumerate(ASKED)
    )


FILES = Dataset(rows(TARGETS[:3], "f"), rows(OTHERS[:12], "r"))


@pytest.fixture(autouse=True)
def _fewer(monkeypatch):
    """Long prompts are tried at one place only: they take time and add nothing here."""
    monkeypatch.setattr("expunge.run.detection.REWRITES", SHORT)


def by_kind(table):
    return {(counted.rewrite, counted.rows): counted for counted in table}


def test_who_flags_everything_misses_nothing_and_alarms_always():
    for flag in (True, False):
        table = detector_table(Watch(lambda text, flag=flag: flag), FILES)
        assert {counted.rewrite for counted in table} == set(SHORT)
        for counted in table:
            assert counted.in_scope == (counted.rows == FORGET)
            assert counted.flagged == (counted.n if flag else 0)
            assert counted.wrong == (counted.n if flag != counted.in_scope else 0)


def test_a_rate_comes_with_wilsons_interval_and_is_absent_without_prompts():
    none = Counted("typo", FORGET, True, 40, 40)
    assert none.rate == 0
    assert none.interval == pytest.approx((0, 0.0876), abs=1e-4)
    assert Counted("typo", RETAIN, False, 400, 2).interval == pytest.approx((0.00137, 0.01805), abs=1e-5)
    empty = Counted("alias", FORGET, True, 0, 0)
    assert (empty.rate, empty.interval, empty.describe()["interval"]) == (None, None, None)


def test_whole_names_are_found_in_frames_and_other_spellings_and_not_when_nobody_is_named():
    detection = Detection.uncalibrated(Aliases(), FittedAliases(Watched(list(TARGETS))))
    found = by_kind(detector_table(detection, FILES))
    for name in ("as it is", "role", "few shot", "200 words around", "French", "pronoun in a second turn"):
        assert (found[name, FORGET].n, found[name, FORGET].wrong) == (15, 0), name
    for name in ("typo", "last name first", "run together", "spaced", "leet", "homoglyphs", "base64"):
        assert (found[name, FORGET].n, found[name, FORGET].wrong) == (15, 0), name
    for name in ("reverse", "initial", "split over turns"):
        assert (found[name, FORGET].n, found[name, FORGET].wrong) == (15, 15), name
    assert not any(counted.flagged for counted in found.values() if counted.rows != FORGET)
    assert found["as it is", RETAIN].n == 60
    assert found["as it is", "off-domain"].n > 40


def test_look_alikes_share_half_a_name_with_a_target_and_are_nobody():
    watch = Watch(lambda text: False)
    table = by_kind(detector_table(watch, FILES))
    count = table["as it is", "look-alikes"].n
    assert count > 0
    everybody = (*TARGETS[:3], *OTHERS[:12])
    first, last = ({name.split()[i] for name in TARGETS[:3]} for i in (0, 1))
    shown = watch.seen[-count - len(OFF_DOMAIN) :][:count]
    assert not any(name in text for text in shown for name in everybody)
    assert all(any(f"{half} " in text or f" {half}" in text for half in first | last) for text in shown)


def test_rows_without_a_question_or_a_name_are_asked_as_they_are():
    data = Dataset(
        (
            Record("a", text="Mara Olen keeps bees in Corvale.", subject="Mara Olen"),
            Record("b", subject="Jola Reed", aliases=("the Bard",)),
            Record("c", question="What was she paid?", answer="Nothing."),
        )
    )
    watch = Watch(lambda text: "Mara Olen" in text or "Jola Reed" in text)
    found = by_kind(detector_table(watch, data))
    assert "Mara Olen keeps bees in Corvale." in watch.seen
    assert "Who is Jola Reed?" in watch.seen
    assert "Who is the Bard?" in watch.seen
    assert (found["as it is", FORGET].n, found["as it is", FORGET].wrong) == (3, 1)
    assert found["typo", FORGET].n == 2, "the third row names nobody"
    assert found["few shot", FORGET].n == 0, "there are no retain rows to solve beforehand"
    assert found["as it is", RETAIN].n == 0


def test_pocket_counts_its_half_of_the_forget_people_and_shows_people_that_nobody_met():
    for half, subjects in (("report", 3), ("all", 5)):
        world = Pocket(SIZES["tiny"], 0, half)
        watch = Watch(lambda text: False)
        found = by_kind(detector_table(watch, world))
        assert found["as it is", FORGET].n == len(world.forget_probes()) == 4 * subjects
        assert found["as it is", "holdout"].n == len(world.world.probes["holdout"])
        assert found["as it is", "neighbours"].n == len(world.world.neighbours) > 0
        assert found["other words", FORGET].n == 4 * subjects
        assert world.forget_probes()[0].paraphrased_question in watch.seen


def test_tofu_finds_its_names_in_the_text(shared_data):
    table = by_kind(
        detector_table(Watch(lambda text: "Basil" in text), Tofu(shared_data / "tofu", "forget01"))
    )
    assert table["as it is", FORGET].n == 40
    assert table["typo", FORGET].n == 38, "two questions name nobody"
    assert (table["as it is", RETAIN].n, table["as it is", "retain, all of them"].n) == (300, 400)
    assert table["as it is", "world_facts"].n == 117


def test_a_decision_says_which_part_saw_the_prompt():
    class Doubt:
        def scores(self, texts):
            return np.array([np.nan if "?" in text else 0.0 for text in texts])

    parts = {
        "aliases": Scaled(Detection.uncalibrated(Aliases(), FittedAliases(Watched(["Mara Olen"]))), 0.0, 1.0),
        "doubt": Scaled(Detection(Aliases(), Doubt(), fixed_threshold(0.5)), 0.0, 1.0),
    }
    union = Detection(Union(), FittedUnion(parts), fixed_threshold(0.5))
    seen, unsure, out = decisions(union, ["About Mara Olen", "Who?", "Nobody"])
    assert (seen["score"], seen["in_scope"], seen["threshold"]) == (1.0, True, 0.5)
    assert seen["parts"] == {
        "aliases": {"score": 1.0, "in_scope": True},
        "doubt": {"score": 0.0, "in_scope": False},
    }
    assert (unsure["score"], unsure["in_scope"]) == (None, True)
    assert unsure["parts"]["doubt"] == {"score": None, "in_scope": True}
    assert not out["in_scope"]
    assert decisions(parts["aliases"].detection, ["x"])[0]["parts"] == {}
