"""Names that only some may see, names that are not whole yet, and reading while the index changes."""

import random
import sys
import threading

import pytest

from expunge.guards.aliases import AliasIndex, deletions, distance


def test_words_longer_than_what_is_indexed_are_found_misspelt():
    rng = random.Random(3)
    near = 0
    for _ in range(3000):
        a = "".join(rng.choices("ab", k=rng.randrange(7, 13)))
        b = list(a)
        for _ in range(rng.choice([1, 2])):
            i = rng.randrange(len(b) - 1)
            b[i : i + 2] = rng.choice(
                [b[i + 1 : i + 2], ["c", b[i + 1]], ["c", *b[i : i + 2]], b[i : i + 2][::-1]]
            )
        edits = distance(a, "".join(b))
        if edits <= 2:
            near += edits > 0
            assert deletions(a, edits) & deletions("".join(b), edits)
    assert near > 2000


# --- who sees what ------------------------------------------------------------------------------------------------
def test_whoever_is_not_visible_is_as_if_not_there():
    index = AliasIndex(known=["Tovin Olen"])
    index.add("a", ["Mara Olen"], ["Corvale"])
    index.add("b", ["Mora Olen", "Tovan Olen"])
    assert [hit.owner for hit in index.find("mora olen of corvale")] == ["b", "a"]
    assert [hit.owner for hit in index.find("mora olen of corvale", lambda owner: owner == "a")] == ["a", "a"]
    assert index.find("mora olen of corvale", lambda owner: False) == []
    assert index.find("tovin olen", lambda owner: owner == "b") == [], "people who stay count for everybody"
    assert [hit.owner for hit in index.read("tovin olen", lambda owner: False)] == [None]


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("we saw mara", "mara"),
        ("we saw mora", "mora"),
        ("we saw mara olen", "olen"),  # olen, mara
        ("we saw the silver quill", ""),
        ("we saw ma", "ma"),
        ("we saw mara ol", "mara ol"),
        ("we saw mara of", ""),
        ("we saw the", "the"),
        ("we saw the silver", "the silver"),
        ("we saw tovin", "tovin"),
        ("we saw 斯", "斯"),
        ("", ""),
    ],
)
def test_what_may_still_become_a_name(text, begins):
    index = AliasIndex(known=["Tovin Brask"])
    index.add("a", ["Mara Olen", "斯蒂芬"], ["The Silver Quill"])
    index.add("b", ["Kesto Vey"])
    assert text[index.unfinished(text) :] == begins
    assert text[index.unfinished(text, lambda owner: owner == "a") :] == begins
    assert index.unfinished("we saw kesto", lambda owner: owner == "a") == len("we saw kesto")


# --- several threads ----------------------------------------------------------------------------------------------
def test_a_reader_finds_each_name_as_soon_as_it_is_added_and_none_that_is_gone():
    index = AliasIndex()
    index.add("stays", ["Mara Olen"])
    text = "mara olen met kesto vey and keszo vey and jola reed"
    there = 0  # the number of the time that it is there, 0 between two
    wrong: list[object] = []
    ends = threading.Event()

    def read():
        while not ends.is_set():
            certain = there
            found = {hit.owner for hit in index.find(text)}
            if "stays" not in found or (certain and there == certain and "comes" not in found):
                wrong.append(found)

    def change():
        nonlocal there
        for number in range(1, 151):
            index.add("comes", ["Kesto Vey", "Jola Reed"])
            there = number
            index.find(text)
            if {hit.owner for hit in index.find(text)} != {"stays", "comes"}:
                wrong.append("not found by the one who added it")
            there = 0
            index.remove("comes")
            if {hit.owner for hit in index.find(text)} != {"stays"}:
                wrong.append("found after it was removed")
        ends.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work) for work in (read, read, change)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


def test_a_change_is_a_new_edition():
    index = AliasIndex()
    first = index.edition
    index.find("mara olen")
    assert index.edition is first
    index.add("a", ["Mara Olen"])
    second = index.edition
    assert second is not first
    index.remove("a")
    assert index.edition is not second


def test_of_the_words_read_only_so_many_are_remembered(monkeypatch):
    monkeypatch.setattr("expunge.guards.aliases.REMEMBERED", 3)
    index = AliasIndex()
    index.add("r", ["Mara Olen"])
    for number in range(20):
        assert [hit.owner for hit in index.find(f"word{number} mara olen")] == ["r"]
        assert len(index._read) <= 3
