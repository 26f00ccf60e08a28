"""Stop strings: cut before the one that is complete first, held back exactly as long as one may still come."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.serve.stops import Stops

TEXTS = st.text("ab\n", max_size=24)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4)


def expected(stops, text):
    """By the definition: whichever is complete first, and of those the longest."""
    for end in range(1, len(text) + 1):
        whole = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if whole:
            return text[: end - max(whole)], True
    return text, False


@given(stops=STOPS, text=TEXTS, cuts=st.lists(st.integers(0, 24), max_size=6))
def test_every_way_of_cutting_a_text_releases_what_stands_before_the_first_stop(stops, text, cuts):
    watch, released = Stops(stops), ""
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for a, b in pairwise(places):
        part, stopped = watch.feed(text[a:b])
        released += part
        if not stopped:
            begun = [n for stop in stops for n in range(1, len(stop)) if text[:b].endswith(stop[:n])]
            assert len(released) == b - max(begun, default=0), "the longest ending that a stop begins with"
    part, stopped = watch.feed("", last=True)
    assert (released + part, stopped) == expected(stops, text)
    assert Stops(stops).feed(text, last=True) == expected(stops, text)


def test_nothing_follows_a_stop():
    watch = Stops(["END"])
    assert watch.feed("one EN") == ("one ", False)
    assert watch.feed("D two") == ("", True)
    assert watch.feed("three", last=True) == ("", True)
    assert watch.stopped


@pytest.mark.parametrize("stops", [[], [""], ("",)])
def test_without_stop_strings_everything_passes(stops):
    assert Stops(stops).feed("text") == ("text", False)


def test_what_is_held_at_the_end_is_released():
    watch = Stops(["\n\n", "###"])
    assert watch.feed("a ##") == ("a ", False)
    assert watch.feed("", last=True) == ("##", False)


def test_of_two_that_are_complete_at_once_the_longer_ends_the_answer():
    for stops in (["bc", "abc"], ["abc", "bc"]):
        assert Stops(stops).feed("xabcd") == ("x", True)
