"""Extraction strength and exact memorisation by hand, and the defect of another code base that is not ours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.metrics.exact_memorisation import exact_memorisation
from expunge.metrics.extraction_strength import extraction_strength


def hits(text):
    return np.array([mark == "x" for mark in text], dtype=bool)


@pytest.mark.parametrize(
    ("marks", "es", "em"),
    [("xxxx", 1, 1), (".xxx", 0.75, 0.75), ("xx.x", 0.25, 0.75), ("xxx.", 0, 0.75), ("....", 0, 0), ("x", 1, 1), (".", 0, 0)],
)  # fmt: skip
def test_worked_answers(marks, es, em):
    assert extraction_strength(hits(marks)) == es
    assert exact_memorisation(hits(marks)) == em


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_it_is_the_definition_with_a_start_that_may_be_the_end(marks):
    """The smallest k in 0..n such that all of marks[k:] are right, by trying each."""
    n = len(marks)
    k = next(k for k in range(n + 1) if all(marks[k:]))
    assert extraction_strength(np.array(marks)) == pytest.approx(1 - k / n)


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_the_other_code_base_stops_one_start_earlier(marks):
    n = len(marks)
    k = next((k for k in range(n) if all(marks[k:])), n - 1)
    assert extraction_strength(np.array(marks), "openunlearning") == pytest.approx(1 - k / n)


def test_a_wrong_answer_of_one_token_is_not_extracted():
    """D5: the other code base calls it extracted whole."""
    assert extraction_strength(hits(".")) == 0
    assert extraction_strength(hits("."), "openunlearning") == 1


def test_an_answer_without_a_token_has_neither_instead_of_a_number_and_none():
    assert extraction_strength(hits("")) is None
    assert exact_memorisation(hits("")) is None
    assert extraction_strength(hits(""), "openunlearning") == 0
