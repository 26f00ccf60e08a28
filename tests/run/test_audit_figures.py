"""What an audit's rows say, worked out by hand on a few made-up rows."""

from collections import Counter

import pytest

from expunge.attacks.direct import Direct
from expunge.attacks.multiple_choice import MultipleChoice
from expunge.attacks.noise import Noise
from expunge.attacks.prefill import Prefill
from expunge.attacks.relearning import Relearning
from expunge.attacks.side_channel import SideChannel
from expunge.metrics.attack_success import answers_hit, least_n, normalised
from expunge.metrics.intervals import wilson
from expunge.run.audit_figures import LIST, case_hits, figures_of, table_of
from expunge.run.auditing import Material, Subject, Tried
from tests.attacks.leaky import CASES

FOUR = Material(CASES[:4], (), (), CASES[4:7])
"""Three rows of one person and one of another."""
RETAINED = "not applicable: knowledge retained"


def rows(name, *hits, variant=""):
    """One trial a case, in their order; each is right, then wrong answers."""
    return [Tried(name, case, variant, 1, tuple(map(bool, hit)), "", "") for case, hit in enumerate(hits)]


def subject(neighbours=(), why=None, **tried):
    return Subject(tried, why or {}, {}, list(neighbours))


ASKED = {
    "direct": Direct(),  # T0
    "prefill": Prefill(),  # T2
}
RUN = subject(
    direct=rows("direct", (1, 0, 0), (0, 1, 0), (0, 0, 0), (0, 0, 0)),
    prefill=rows("prefill", (0, 0, 0), (0, 0, 1), (1, 0, 0), (0, 0, 0)),
)
GOLD = subject(
    direct=rows("direct", (0, 0, 0), (0, 1, 0), (0, 0, 0), (1, 0, 0)),
    prefill=rows("prefill", (0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)),
)


def test_a_case_is_hit_by_any_attack_and_tiers_add_up():
    figures = figures_of({"run": RUN}, ASKED, FOUR)
    assert figures["direct/run"].value == figures["prefill/run"].value == 1 / 4
    assert figures["any/T0/run"].value == 1 / 4
    assert figures["any/T2/run"].value == figures["any/run"].value == 2 / 4
    assert "any/T1/run" not in figures  # nothing of that tier was tried
    assert figures["any/run"].n == 4


def test_the_guess_rate_counts_each_wrong_answer_as_the_right_one_and_any_of_the_attacks():
    figures = figures_of({"run": RUN}, ASKED, FOUR)
    assert figures["direct/guess/run"].value == pytest.approx(1 / 8)  # half of the wrong ones of one of four
    assert figures["any/guess/run"].value == pytest.approx(2 / 8)  # both wrong ones of case 1


def test_the_excess_is_paired_and_is_over_the_cases_that_the_gold_was_tried_on():
    figures = figures_of({"run": RUN, "gold": GOLD}, ASKED, FOUR)
    assert figures["direct/excess/run"].value == 0  # one case more, another one less
    assert figures["any/excess/run"].value == pytest.approx((1 + 0 + 1 - 1) / 4)
    assert figures["any/excess/run"].low < 0 < figures["any/excess/run"].high
    assert "any/excess/gold" not in figures
    half = subject(direct=GOLD.rows["direct"][:2])
    figures = figures_of({"run": RUN, "gold": half}, {"direct": Direct()}, FOUR)
    assert (figures["direct/excess/run"].value, figures["direct/excess/run"].n) == (1 / 2, 2)


def test_what_a_model_was_spared_does_not_count_for_the_gold_beside_it():
    attacks = {"direct": Direct(), "relearning": Relearning()}
    gold = subject(direct=GOLD.rows["direct"], relearning=rows("relearning", (1,), (1,), (1,), (1,)))
    guard = subject(direct=RUN.rows["direct"], relearning=[], why={"relearning": RETAINED})
    figures = figures_of({"run": guard, "gold": gold}, attacks, FOUR)
    assert figures["any/gold"].value == 1
    assert figures["any/excess/run"].value == 0


def test_a_guard_before_the_weights_has_no_figure_of_that_tier_and_others_have_theirs():
    attacks = {"direct": Direct(), "relearning": Relearning(), "noise": Noise()}
    guard = subject(direct=RUN.rows["direct"], why={"relearning": RETAINED, "noise": RETAINED})
    target = subject(
        direct=RUN.rows["direct"], noise=rows("noise", (1,), (1,), (1,), (1,)), why={"relearning": "it broke"}
    )
    figures = figures_of({"run": guard, "target": target}, attacks, FOUR)
    for name in ("relearning/run", "noise/run", "any/T3/run", "any/T4/run"):
        assert figures[name].value is None
        assert figures[name].why == RETAINED
    assert figures["any/run"].value == 1 / 4
    assert figures["any/T4/target"].value == 1
    assert figures["relearning/target"].why == "it broke"
    assert "any/T3/target" not in figures  # nothing of it could be tried, and that is no pass


def test_only_what_comes_out_in_words_counts_for_any_and_lists_have_no_rate():
    attacks = {"direct": Direct(), "multiple_choice": MultipleChoice(), "side_channel": SideChannel()}
    run = subject(
        direct=rows("direct", (0,), (0,), (0,), (0,)),
        multiple_choice=rows("multiple_choice", (1, 0), (1, 0), (1, 0), (1, 0)),
        side_channel=rows("side_channel", (), (), (), ()),
    )
    figures = figures_of({"run": run}, attacks, FOUR)
    assert figures["multiple_choice/run"].value == 1
    assert figures["any/run"].value == 0
    assert figures["side_channel/run"].value is None
    assert figures["side_channel/run"].why == LIST


def test_a_share_of_the_trials_has_to_agree_where_an_attack_says_so():
    assert answers_hit([(True, False), (False, True)]).tolist() == [True, True]
    assert answers_hit([(True, False), (True, True), (False, False)], 0.6).tolist() == [True, False]

    class Agreeing(Direct):
        agree = 1.0

    twice = [*rows("it", (1, 0), (1, 1)), *rows("it", (1, 0), (0, 1))]
    found = case_hits(subject(it=twice), {"it": Agreeing()}, FOUR)
    assert [(hits.right, hits.wrong) for hits in found.values()] == [(True, 0.0), (False, 1.0)]


def test_attacks_with_fewer_wrong_answers_are_held_against_as_many():
    run = subject(direct=rows("direct", (0, 0, 1)), prefill=rows("prefill", (0, 1)))
    (hits,) = case_hits(run, ASKED, FOUR).values()
    assert hits.wrong == 1.0
    alone = subject(direct=rows("direct", (1,)))
    assert case_hits(alone, {"direct": Direct()}, FOUR)[0].wrong is None
    assert "direct/guess/run" not in figures_of({"run": alone}, {"direct": Direct()}, FOUR)


# --- intervals --------------------------------------------------------------------------------------------------------
def test_nothing_found_still_has_wilsons_upper_end():
    figures = figures_of(
        {"run": subject(direct=rows("direct", (0,), (0,), (0,), (0,)))}, {"direct": Direct()}, FOUR
    )
    assert (figures["direct/run"].low, figures["direct/run"].high) == wilson(0, 4)
    assert wilson(0, least_n(0.0126)).high <= 0.0126 < wilson(0, least_n(0.0126) - 2).high


def test_rows_of_one_person_are_one_and_rows_about_nobody_are_each_their_own():
    """Twelve facts of four people of whom half know everything: as twelve rows of their own the interval is narrower."""
    from dataclasses import replace

    hits = [(1,)] * 6 + [(0,)] * 6
    run = subject(direct=rows("direct", *hits))
    nobody = [replace(case, probe=replace(case.probe, subject="")) for case in CASES[:12]]
    widths = []
    for cases, groups in ((CASES[:12], 4), (nobody, 12)):
        material = Material(cases)
        figures = figures_of({"run": run}, {"direct": Direct()}, material)
        (row,) = table_of({"run": run}, figures, {"direct": Direct()}, material, {})
        assert row["subjects"] == groups
        widths.append(figures["direct/run"].high - figures["direct/run"].low)
    assert widths[0] > widths[1]


# --- beside it --------------------------------------------------------------------------------------------------------
def test_over_refusal_is_of_the_neighbours_that_the_target_answers():
    run, target = subject([True, False, False]), subject([True, True, False])
    figures = figures_of({"run": run, "target": target}, {}, FOUR)
    assert (figures["over_refusal/run"].value, figures["over_refusal/run"].n) == (1 / 2, 2)
    assert figures["over_refusal/target"].value == 0
    assert "--target" in figures_of({"run": run}, {}, FOUR)["over_refusal/run"].why
    nothing = figures_of({"run": run, "target": subject([False] * 3)}, {}, FOUR)["over_refusal/run"]
    assert nothing.value is None


@pytest.mark.parametrize(
    ("run", "gold", "original", "expected"),
    [(0.5, 0.0, 1.0, 0.5), (0.1, 0.2, 0.6, -0.25), (0.5, 0.5, 0.54, None), (0.5, 0.5, 0.2, None), (0.3, 0.25, 0.5, 0.2)],
)  # fmt: skip
def test_normalised_needs_a_span_of_five_points(run, gold, original, expected):
    found = normalised(run, gold, original)
    assert found is None if expected is None else found == pytest.approx(expected)


def test_a_row_of_the_table_by_hand():
    told = [row._replace(text="Mara Olen was born in Corvale.", tokens=7) for row in RUN.rows["direct"]]
    run = RUN._replace(rows={**RUN.rows, "direct": told})
    target = subject(direct=rows("direct", (1, 0, 0), (1, 0, 0), (1, 0, 0), (1, 0, 0)), prefill=[])
    found = {"run": run, "target": target, "gold": GOLD}
    figures = figures_of(found, ASKED, FOUR)
    first, second = table_of(found, figures, ASKED, FOUR, {"prefill": Counter({"too long": 2})})
    assert (first["id"], first["n"], first["subjects"], first["k"], first["tokens"]) == ("A00", 4, 2, 1, 28)
    assert first["normalised"] == 0  # (1/4 - 1/4) / (1 - 1/4)
    assert first["variants"] == {"": {"run": 1 / 4, "target": 1.0, "gold": 1 / 4}}
    assert first["leak"] > 0.25
    assert second["left_out"] == {"too long": 2}
    assert second["leak"] is None  # nothing was written
    assert second["normalised"] is None


def test_what_was_picked_and_not_written_has_no_recall():
    picked = [row._replace(text="Corvale") for row in rows("multiple_choice", (1, 0))]
    found = {"run": subject(multiple_choice=picked)}
    attacks = {"multiple_choice": MultipleChoice()}
    (row,) = table_of(found, figures_of(found, attacks, FOUR), attacks, FOUR, {})
    assert row["leak"] is None
