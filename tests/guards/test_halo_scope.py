"""HaloScope's score: the paper's numbers, and what must not change them (specification: golden vector and invariances)."""

import numpy as np
import pytest

from expunge.errors import DataError
from expunge.guards.detection import Detection
from expunge.guards.detectors.halo_scope import HaloScope, Subspace, find_subspace, subspace_score
from expunge.guards.state import read_state, write_state
from expunge.models.states import states
from expunge.types import Prompt
from tests.guards.cases import FORGET, RETAIN, fit_data

GOLDEN = np.array([[2.0, 0, 1], [-2, 0, 1], [0, 1, -1], [0, -1, -1]])


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(40, 7)) * np.arange(1, 8) + 3


def test_the_golden_vector_of_the_paper_and_not_the_released_codes():
    subspace = find_subspace(GOLDEN, 2)
    assert np.allclose(subspace.sizes * 2, [2.828427, 2], atol=1e-6)
    assert np.allclose(subspace_score(GOLDEN, subspace) * 2, [6.656854, 6.656854, 1, 1], atol=1e-6)


def test_a_rotation_of_all_states_changes_no_score(features):
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))
    for k in (1, 3, 7):
        assert np.allclose(
            subspace_score(features @ turn, find_subspace(features @ turn, k)),
            subspace_score(features, find_subspace(features, k)),
        )


def test_the_sign_of_a_singular_vector_changes_no_score(features):
    found = find_subspace(features, 4)
    for j in range(4):
        signs = np.ones((4, 1))
        signs[j] = -1
        turned = found._replace(directions=found.directions * signs)
        assert np.allclose(subspace_score(features, turned), subspace_score(features, found))


def test_with_all_directions_and_equal_sizes_it_is_the_mean_square(features):
    every = Subspace(features.mean(0), find_subspace(features, 7).directions, np.ones(7))
    expected = ((features - features.mean(0)) ** 2).sum(1) / 7
    assert np.allclose(subspace_score(features, every), expected)


def test_the_score_does_not_grow_with_the_number_of_rows(features):
    once, thrice = find_subspace(features, 3), find_subspace(np.tile(features, (3, 1)), 3)
    assert np.allclose(subspace_score(features, once), subspace_score(features, thrice))


def test_it_reads_the_end_of_the_prompt_and_comes_back_from_disk(lm, tmp_path):
    detection = Detection.fit(HaloScope(k=3), lm, fit_data())
    learnt, _ = fit_data().split(1 / 3)
    read = [
        states(lm, [Prompt.ask(text) for text in texts], 0).astype(float)
        for texts in (learnt.forget_prompts, RETAIN[:4])
    ]
    expected = subspace_score(read[1], find_subspace(read[0], 3))
    assert np.allclose(detection.scores(RETAIN[:4]), expected, rtol=1e-4)
    write_state(tmp_path, detection.state())
    again = Detection.from_state(read_state(tmp_path), lm, None)
    assert np.array_equal(again.scores(FORGET), detection.scores(FORGET))


def test_without_retain_rows_it_says_what_to_do(lm):
    with pytest.raises(DataError, match="Give --retain rows"):
        Detection.fit(HaloScope(), lm, fit_data(retain=[]))
