"""The overall score by hand: each composition, what is named, and the utility that one part cannot sink."""

import numpy as np
import pytest

from expunge.metrics import overall


def test_memorisation_is_the_harmonic_mean_of_what_is_not_memorised():
    """1 / (1/0.5 + 1/0.4 + 1/0.8 + 1/0.25) · 4 = 4 / 9.75."""
    parts = overall.memorisation_parts(*(np.array([x]) for x in (0.5, 0.6, 0.2, 0.75)))
    found = overall.harmonic({name: float(values[0]) for name, values in parts.items()})
    assert found.value == pytest.approx(4 / 9.75)
    assert found.worst == "1 - truth_ratio"
    assert found.least == 0.25


@pytest.mark.parametrize(
    ("auc", "gold", "expected"), [(0.5, 0.5, 1), (1, 0.5, 0), (0, 0.5, 0), (1, 0.4, 0), (0, 0.4, 1 / 3), (0.7, 0.4, 0.5), (0.4, 0.4, 1)]
)  # fmt: skip
def test_closeness_falls_from_the_gold_to_both_sides(auc, gold, expected):
    """At gold 0.4 the farthest AUC is 1, 0.6 away; 0 is 0.4 away, so a third is left."""
    assert overall.closeness(auc, gold) == pytest.approx(expected)


def test_privacy_takes_each_attack_beside_the_golds():
    parts = overall.privacy_parts({"loss": 0.75, "zlib": 0.5}, {"loss": 0.5, "zlib": 0.5})
    assert parts == {"loss": 0.5, "zlib": 1.0}
    assert overall.harmonic(parts).value == pytest.approx(2 / 3)


def test_one_zero_makes_the_harmonic_mean_zero_and_is_named():
    found = overall.harmonic({"memorisation": 0.9, "privacy": 0.0, "utility": 0.8})
    assert found == (0, "privacy", 0)


def test_the_robust_utility_loses_a_ninth_for_a_part_that_is_gone_and_names_it():
    reference = {f"part {i}": 0.5 + i / 20 for i in range(9)}
    assert overall.robust_utility(reference, reference).mean == 1
    gone = overall.robust_utility({**reference, "part 3": 0.0}, reference)
    assert gone.mean == pytest.approx(8 / 9)
    assert (gone.worst, gone.worst_share) == ("part 3", 0)


def test_a_gain_makes_up_for_no_loss():
    found = overall.robust_utility({"a": 1.0, "b": 0.25}, {"a": 0.5, "b": 0.5})
    assert found.mean == pytest.approx(0.75)
    assert found.worst == "b"


def test_a_part_that_the_reference_never_had_is_left_out_and_said():
    found = overall.robust_utility({"a": 0.4, "b": 0.0}, {"a": 0.5, "b": 0.001})
    assert found.mean == pytest.approx(0.8)
    assert found.left_out == ("b",)
    with pytest.raises(ValueError, match="no utility to keep"):
        overall.robust_utility({"b": 0.0}, {"b": 0.0})
