"""Names found in the text itself, where no subject field gives them."""

from expunge.benchmarks.tofu import Tofu
from expunge.data.dataset import Record
from expunge.data.subjects import find_names


def test_names_that_only_the_forget_rows_ask_about_are_found_whole():
    forget = [
        Record(str(i), f"What is fact {i} about Mara Olen-Brask?", "It is Corvale City.") for i in range(4)
    ]
    retain = [Record(str(i), f"What is fact {i} about Tovin Reed?", "It is Corvale City.") for i in range(4)]
    assert find_names(forget, retain) == ("Mara Olen-Brask",)


def test_a_name_that_stays_is_no_target():
    rows = [Record(str(i), f"What is fact {i} about Tovin Reed?", "Yes.") for i in range(4)]
    assert find_names(rows, rows) == ()


def test_the_twenty_forgotten_authors_of_tofu_are_found(shared_data):
    data = Tofu(shared_data / "tofu").dataset()
    names = find_names(data.forget, data.retain)
    assert len(names) == 20
    assert {"Hsiao Yun-Hwa", "Basil Mahfouz Al-Kuwaiti", "Nikolai Abilov"} <= set(names)
