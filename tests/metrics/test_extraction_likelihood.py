"""Extraction likelihood and memorisation accuracy by hand, and where a trapped version would differ."""

import numpy as np
import pytest

from expunge.metrics.extraction_likelihood import (
    extraction_likelihood,
    memorisation_accuracy,
    overlap,
    recall_at_errors,
)

TEXT = list("abcde")
WRITTEN = {1: list("bcxy"), 2: list("cde"), 3: list("de"), 4: list("q")}


def test_el_by_hand():
    """T 5, n 2: (1/3 + 2/2 + 1/1) / (5 - 1 - 1)."""
    assert extraction_likelihood(TEXT, WRITTEN, 2) == pytest.approx(7 / 9)
    assert extraction_likelihood(TEXT, WRITTEN, 2) != pytest.approx(7 / 12), "not over T-1"


def test_el_is_the_formula_of_the_paper_on_random_texts():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 10):
        text = [str(t) for t in rng.integers(0, 3, 30)]
        written = {i: [str(t) for t in rng.integers(0, 3, 30 - i)] for i in range(1, 30)}
        total = 0.0
        for i, said in written.items():
            suffix = text[i:]
            true = [tuple(suffix[j : j + n]) for j in range(len(suffix) - n + 1)]
            mine = [tuple(said[j : j + n]) for j in range(len(said) - n + 1)]
            total += sum(gram in true for gram in mine) / len(true) if true else 0
        assert extraction_likelihood(text, written, n) == pytest.approx(total / (30 - 1 - (n - 1)))


def test_a_continuation_that_ends_early_keeps_the_denominator():
    assert overlap(list("bc"), list("bcde"), 2) == pytest.approx(1 / 3)
    assert overlap([], list("bcde"), 2) == 0
    assert extraction_likelihood(TEXT, {**WRITTEN, 2: ["c"]}, 2) == pytest.approx((1 / 3 + 0 + 1) / 3)


def test_what_is_written_beyond_the_suffix_does_not_count():
    assert overlap(list("xxxbcd"), list("bcd"), 2) == 0
    assert overlap(list("bcdbcd"), list("bcd"), 2) == 1


def test_an_n_gram_counts_each_time_it_is_written():
    assert overlap(list("ababab"), list("abxyzw"), 2) == pytest.approx(3 / 5)


def test_a_text_of_no_n_gram_has_no_el():
    assert overlap(list("ab"), list("ab"), 3) is None
    assert extraction_likelihood(TEXT, WRITTEN, 5) is None


def test_ma_is_a_share_of_hits():
    assert memorisation_accuracy(np.array([True, False, True, True])) == 0.75
    assert memorisation_accuracy(np.array([], dtype=bool)) is None


def test_recall_stops_at_the_last_error_that_is_allowed():
    right = [True, False, True, False, True]
    assert recall_at_errors(right, [5, 4, 3, 2, 1], errors=2) == 2 / 5
    assert recall_at_errors(right, [5, 4, 3, 2, 1], errors=100) == 3 / 5
    assert recall_at_errors(right, [5, 1, 4, 2, 3], errors=1) == 3 / 5, "confident guesses come first"
    with pytest.raises(ValueError, match="no guesses"):
        recall_at_errors([], [])
