"""LEACE: what the label leaves behind, what stays, and the authors' package as a second opinion."""

import numpy as np
import pytest

from expunge.guards.erasure import Moments


def world(rows=400, hidden=12, classes=2, seed=0):
    """States that lean on their label in several directions, and are far from round."""
    rng = np.random.default_rng(seed)
    label = rng.integers(classes, size=rows)
    one_hot = np.eye(classes)[label]
    mixed = rng.normal(size=(rows, hidden)) @ rng.normal(size=(hidden, hidden))
    return mixed + one_hot @ rng.normal(size=(classes, hidden)) * 3 + 5, one_hot


def cross_covariance(x, z):
    return (x - x.mean(0)).T @ (z - z.mean(0)) / len(x)


@pytest.mark.parametrize("classes", [2, 4])
def test_nothing_linear_is_left_and_the_mean_is_kept(classes):
    x, z = world(classes=classes)
    eraser = Moments.of(x, z).eraser()
    erased = eraser(x)
    assert eraser.read.shape == (12, classes - 1)
    scale = np.abs(cross_covariance(x, z)).max()
    assert scale > 0.1
    assert np.abs(cross_covariance(erased, z)).max() < 1e-6 * scale
    assert np.allclose(erased.mean(0), x.mean(0))
    assert np.allclose(eraser(erased), erased, atol=1e-9), "a second time changes nothing"


def test_a_fresh_probe_finds_no_more_than_the_majority():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    x, z = world(rows=1000)
    label = z[:, 1]
    majority = max(label.mean(), 1 - label.mean())
    before, after = (
        cross_val_score(LogisticRegression(max_iter=2000), states, label, cv=5).mean()
        for states in (x, Moments.of(x, label).eraser()(x))
    )
    assert before > 0.9
    assert after <= majority + 0.02


def test_where_the_label_does_not_show_nothing_changes():
    x, _ = world()
    pairs = np.concatenate([x, x])  # each state once with each label
    eraser = Moments.of(pairs, np.repeat([0, 1], len(x))).eraser()
    assert eraser.read.shape[1] == 0
    assert np.array_equal(eraser(x), x)


def test_no_smaller_change_removes_the_label():
    """Optimality: another projection along the same label direction costs more."""
    x, z = world()
    moved = ((Moments.of(x, z[:, 1]).eraser()(x) - x) ** 2).sum()
    direction = cross_covariance(x, z[:, 1:])[:, 0]
    for seed in range(5):
        read = np.random.default_rng(seed).normal(size=12)
        other = -np.outer((x - x.mean(0)) @ read, direction) / (direction @ read)
        assert np.abs(cross_covariance(x + other, z)).max() < 1e-9
        assert (other**2).sum() > moved


def test_states_without_full_rank_are_erased_too():
    x, z = world(rows=8, hidden=12)
    erased = Moments.of(x, z).eraser()(x)
    assert np.abs(cross_covariance(erased, z)).max() < 1e-6


def test_what_was_added_can_be_taken_out_again():
    x, z = world()
    first, withdrawn = Moments.of(x[:300], z[:300]), Moments.of(x[300:], z[300:])
    assert np.allclose((first + withdrawn).eraser()(x), Moments.of(x, z).eraser()(x))
    left = first + withdrawn - withdrawn
    assert left.n == 300
    assert np.allclose(left.eraser()(x), first.eraser()(x), atol=1e-6)


def few():
    i = np.arange(1, 13.0)
    return np.stack([np.sin(i), np.cos(2 * i), np.sin(3 * i) + i / 6], 1), (i > 6).astype(float)


def test_golden_numbers_of_the_authors_package():
    """Made once with concept-erasure 0.2.4: LeaceEraser.fit(x, z, shrinkage=False, svd_tol=1e-8) in float64, first three rows."""
    x, z = few()
    assert np.allclose(
        Moments.of(x, z).eraser()(x[:3]),
        [
            [0.847508141, -0.421948452, 0.774416219],
            [0.918484393, -0.662472157, 0.764005451],
            [0.141427308, 0.959874976, 0.935870629],
        ],
        atol=1e-8,
    )


def test_the_authors_package_gives_the_same():
    package = pytest.importorskip(
        "concept_erasure", reason="an independent second opinion: pip install --no-deps concept-erasure"
    )
    import torch

    for classes in (2, 3):
        x, z = world(classes=classes)
        theirs = package.LeaceEraser.fit(
            torch.tensor(x), torch.tensor(z), shrinkage=False, constrain_cov_trace=False, svd_tol=1e-8
        )
        assert np.allclose(Moments.of(x, z).eraser()(x), theirs(torch.tensor(x)).numpy(), atol=1e-6)
