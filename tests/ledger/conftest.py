"""A ledger with a clock that tests turn."""

import pytest

from expunge.ledger import Ledger, Pair, RemovalRequest

KEY = bytes(range(32))
START = 1_900_000_000.0


class Clock:
    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now


def wanted(name="Mara Olen", **more):
    return RemovalRequest(
        subject=name, aliases=(f"Dr {name}",), pairs=(Pair(question=f"Where was {name} born?", answer="Corvale"),), **more
    )  # fmt: skip


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.ledger"


@pytest.fixture
def ledger(path, clock):
    with Ledger.open(path, key=KEY, create=True, clock=clock) as opened:
        yield opened
