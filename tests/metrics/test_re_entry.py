"""Re-entry: what counts as coming back."""

import numpy as np
import pytest

from expunge.metrics.intervals import wilson
from expunge.metrics.re_entry import Response, re_enters, re_entry


def response(*scores, at=1, confirmed=True):
    return Response(np.array(scores), at, confirmed)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (response(0.2, 0.9, 0.1, 0.8), True),
        (response(0.2, 0.9, 0.8, 0.7), False),
        (response(0.2, 0.9, 0.1, 0.2), False),
        (response(0.2, 0.9, 0.1, 0.8, confirmed=False), False),
        (response(0.2, 0.9, 0.1, 0.8, at=None), False),
        (response(0.2, 0.1, 0.9, at=2), False),
        (response(0.2, 0.9, 0.5, 0.5), False),
        (response(0.9, at=0), False),
        (response(0.0, 0.9, 0.8, 0.5, 0.4, 0.9), True),
    ],
    ids=["comes back", "never left", "stays away", "not confirmed", "no intervention", "before it", "at τ is low", "at the end", "later"],
)  # fmt: skip
def test_it_has_to_leave_after_the_intervention_and_come_back(found, expected):
    assert re_enters(found, 0.5) is expected


def test_the_share_is_of_all_responses_with_wilsons_interval():
    back, away = response(0.9, 0.9, 0.1, 0.8), response(0.1, 0.1, 0.1, at=None)
    found = re_entry([back, away, away, back], 0.5)
    assert (found.share, found.n, found.intervened) == (0.5, 4, 2)
    assert (found.low, found.high) == wilson(2, 4)
    with pytest.raises(ValueError, match="no responses"):
        re_entry([], 0.5)
