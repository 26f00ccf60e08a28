"""Waterfall's signal: by hand, against values of the package itself, and what it is where there is no mark."""

import math
from itertools import pairwise

import numpy as np
import pytest

from expunge.metrics import watermark as w
from expunge.metrics.watermark import Signal

PACKAGE = {  # waterfall 0.3.4, Watermarker.verify with id 7, of the tokens (7i² + 3i) mod N, i = 0 .. 11; k_p 1 and 2
    97: (0.12107828259468079, -0.1633276790380478),
    1000: (0.03406547009944916, 0.08595963567495346),
    32000: (0.14487800002098083, -0.11292823404073715),
}


def walk(size, n=12):
    return [(7 * i * i + 3 * i) % size for i in range(n)]


def test_q_by_hand():
    bins = [
        np.random.RandomState((3, previous)).permutation(8)[token] for previous, token in [(5, 2), (2, 6)]
    ]
    wanted = sum(math.cos(2 * math.pi * int(j) / 8) for j in bins) / 2
    assert w.signal([5, 2, 6], key=3, vocabulary=8) == Signal(pytest.approx(wanted), 2)


@pytest.mark.parametrize("size", PACKAGE)
def test_q_is_that_of_the_package(size):
    for k, wanted in enumerate(PACKAGE[size], start=1):
        assert w.signal(walk(size), 7, size, k).q == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("size", [8, 9, 255, 256, 1000])
def test_q_is_the_coefficient_of_the_fourier_transform_of_the_bin_counts(size):
    tokens = np.random.default_rng(size).integers(0, size, 60)
    bins = [w.permutation(11, int(u), size)[t] for u, t in pairwise(tokens)]
    transform = np.fft.rfft(np.bincount(bins, minlength=size) / len(bins))
    most = (size - 1) // 2
    for k in (1, 2, most):
        assert w.signal(tokens, 11, size, k).q == pytest.approx(transform[k].real, abs=1e-12)
        assert w.signal(tokens, 11, size, most + k).q == pytest.approx(-transform[k].imag, abs=1e-12)


def test_text_that_has_nothing_to_do_with_the_key_has_q_zero_within_its_noise():
    rng = np.random.default_rng(0)
    n, size = 100, 5000
    texts = [rng.integers(0, size, n + 1) for _ in range(400)]
    q = np.array([found.q for found in w.signals(texts, 99, size)])
    assert abs(q.mean()) < 4 / math.sqrt(2 * n * len(texts))
    assert q.std() == pytest.approx(1 / math.sqrt(2 * n), rel=0.15)
    assert w.noise([texts[0]], size) == pytest.approx(1 / math.sqrt(2 * n), rel=0.01)


def test_bigrams_that_repeat_make_more_noise_than_their_number_says():
    text = [*[4, 9, 2, 7] * 25, 4]
    q = [w.signal(text, key, 300).q for key in range(400)]
    assert np.std(q) == pytest.approx(w.noise([text], 300), rel=0.15)
    assert np.std(q) > 4 / math.sqrt(2 * 100)


def test_a_token_beyond_the_vocabulary_is_left_out_and_what_follows_it_stays():
    size, text = 1000, [5, 9, 1003, 4, 8, 2]
    found = w.signal(text, 7, size)
    alone = [w.signal(pair, 7, size).q for pair in ([5, 9], [1003, 4], [4, 8], [8, 2])]
    assert found == Signal(pytest.approx(sum(alone) / 4), 4)
    assert found.n > w.signal([5, 9], 7, size).n, "the package would have stopped there"


def test_after_a_token_beyond_the_vocabulary_bins_are_the_tokens_themselves():
    assert w.signal([1003, 250], 7, 1000).q == pytest.approx(math.cos(math.pi / 2), abs=1e-12)
    assert w.signal([999, 250], 7, 1000).q != pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("size", [97, 200, 256, 1000])
def test_marked_logits_raise_the_tokens_of_the_key_in_small_vocabularies_too(size):
    logits = np.zeros(size + 3)
    marked = w.marked_logits(logits, previous=5, key=7, vocabulary=size, kappa=2.0)
    bins = np.random.RandomState((7, 5)).permutation(size)
    assert marked[:size] == pytest.approx(2 * np.cos(2 * np.pi * bins / size), abs=1e-9)
    assert not marked[size:].any()
    assert not logits.any()


def test_what_is_drawn_from_marked_logits_carries_the_key():
    rng, size, text = np.random.default_rng(0), 300, [1]
    for _ in range(400):
        weights = np.exp(w.marked_logits(np.zeros(size), text[-1], 42, size))
        text.append(int(rng.choice(size, p=weights / weights.sum())))
    ratio_of_bessel_functions = 0.6978  # I1(2) / I0(2), the mean cosine under a density ∝ exp(2 cos)
    assert w.signal(text, 42, size).q == pytest.approx(ratio_of_bessel_functions, abs=0.06)
    assert abs(w.signal(text, 43, size).q) < 4 * w.noise([text], size)


def test_several_texts_weigh_by_their_bigrams():
    texts = [walk(200, 3), walk(200, 40), [5], []]
    found = w.signals(texts, 3, 200)
    assert [one.n for one in found] == [2, 39, 0, 0]
    together = w.pooled(found)
    assert together.n == 41
    assert together.q == pytest.approx((2 * found[0].q + 39 * found[1].q) / 41)
    assert together.q != pytest.approx((found[0].q + found[1].q) / 2), "not the mean of means"
    assert w.pooled(found[2:]) == Signal(None, 0)
    assert w.signals([], 3, 200) == []


def test_only_so_many_permutations_are_held():
    w.permutation.cache_clear()
    tokens = np.random.default_rng(0).permutation(3000)
    assert w.signal(tokens, 1, 3000).n == 2999
    held = w.permutation.cache_info()
    assert held.misses == 2999
    assert held.currsize <= 256


def test_each_permutation_is_made_once_however_many_texts_need_it():
    w.permutation.cache_clear()
    w.signals([walk(50, 40)] * 30, 5, 50)
    assert w.permutation.cache_info().misses <= 50


def test_an_owner_is_a_number_or_a_name():
    assert w.owner_key(3) == w.owner_key("3") == 3
    assert w.owner_key("Mara") != w.owner_key("Tovin")
    assert 0 <= w.owner_key("Mara") < 2**32
    with pytest.raises(ValueError, match="at most"):
        w.owner_key(2**32)


def test_calibration_by_hand():
    exact = w.calibration([1, 0.5, 0], [0.4, 0.2, 0.0])
    assert exact == (pytest.approx(0.004), pytest.approx(1.0))
    found = w.calibration([1, 0.5, 0], [0.3, 0.3, 0.0])  # m = (100·.3 + 50·.3) / (100² + 50²) = .0036
    assert found.slope == pytest.approx(0.0036)
    assert found.r2 == pytest.approx(1 - (0.06**2 + 0.12**2) / (2 * 0.1**2 + 0.2**2))


def test_a_metric_that_does_not_end_at_zero_is_not_calibrated():
    """A line through any point would fit perfectly; the fit is held to (100, 0)."""
    assert w.calibration([1, 0.5, 0], [0.9, 0.8, 0.7]).r2 < 0
    with pytest.raises(ValueError, match="differ"):
        w.calibration([1, 0.5, 0], [0.2, 0.2, 0.2])
