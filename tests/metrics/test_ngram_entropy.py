"""RWKU's fluency by hand and against scipy's entropy."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.metrics.ngram_entropy import entropy, ngram_entropy, words_entropy


def test_a_text_by_hand():
    """a b a b a: bigrams ab, ba twice each: 1 bit. Trigrams aba twice, bab once: log2 3 - 2/3 = 0.9183 bit. (2/3 + 4/3 · 0.9183) / 2 = 0.9455."""
    assert ngram_entropy("a b a b a") == pytest.approx((2 / 3 * 1 + 4 / 3 * 0.9182958) / 2)
    assert ngram_entropy("a b a b a") == pytest.approx(0.9455, abs=1e-4)


def test_repetition_and_nothing_have_no_entropy():
    assert ngram_entropy("no no no no no no") == 0
    assert ngram_entropy("") == 0
    assert ngram_entropy("one") == 0


def test_distinct_words_reach_the_largest_entropy_of_their_length():
    """Ten words: nine bigrams, eight trigrams, all different: (2/3 log2 9 + 4/3 · 3) / 2."""
    assert ngram_entropy("a b c d e f g h i j") == pytest.approx((2 / 3 * 3.169925 + 4) / 2)


def test_punctuation_is_a_word():
    assert ngram_entropy("a, b") == words_entropy(["a", ",", "b"])


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 4))
def test_the_entropy_of_n_grams_is_scipys(words, n):
    from scipy.stats import entropy as scipys

    grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    expected = scipys(list(grams.values()), base=2) if grams else 0
    assert entropy(words, n) == pytest.approx(expected, abs=1e-9)
