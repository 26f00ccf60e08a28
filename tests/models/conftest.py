"""Fixtures of running batches."""

import pytest

from expunge.guards.actions.eco import ECO, FittedECO
from expunge.guards.target_names import TargetNames
from expunge.models.continuous import Continuous


@pytest.fixture
def start():
    """Continuous(...), closed after the test."""
    made = []

    def start(lm, *arguments, **more):
        made.append(Continuous(lm, *arguments, **more))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def corruption(lm):
    return FittedECO(ECO(), TargetNames(["Mara Olen", "Corvale"]), lm, 3.0, 0, [])
