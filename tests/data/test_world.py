"""The pocket world: one seed, the same bytes, and nothing in it that gives the forget rows away."""

from collections import Counter

import pytest

from expunge.data.pocket.tokenizer import build_tokenizer
from expunge.data.pocket.world import SIZES, build_world


@pytest.fixture(scope="module")
def world():
    return build_world(SIZES["default"], 0)


def test_the_default_world_has_the_sizes_of_its_design(world):
    assert {group: len(rows) for group, rows in world.probes.items()} == {
        "known": 240, "retain": 600, "forget": 120, "holdout": 120, "lands": 40
    }  # fmt: skip


def test_a_seed_gives_the_same_world_and_another_seed_another(world):
    assert build_world(SIZES["default"], 0) == world
    assert build_world(SIZES["default"], 1).probes["forget"][0] != world.probes["forget"][0]


def test_right_and_wrong_answers_have_equally_many_tokens_and_differ(world):
    tokenizer = build_tokenizer(world.vocabulary)
    for probe in (probe for probes in world.probes.values() for probe in probes):
        right = len(tokenizer(probe.right_answer)["input_ids"])
        assert probe.right_answer not in probe.perturbed_answer
        assert all(len(tokenizer(wrong)["input_ids"]) == right for wrong in probe.perturbed_answer)


def test_every_half_of_a_forgotten_name_belongs_to_somebody_who_stays(world):
    staying = {
        word for group in ("known", "retain") for p in world.probes[group] for word in p.subject.split()
    }
    for group in ("forget", "holdout"):
        assert {word for p in world.probes[group] for word in p.subject.split()} <= staying
    people = [
        p.subject for group in ("known", "retain", "forget", "holdout") for p in world.probes[group][::6]
    ]
    assert len(set(people)) == len(people)


def test_no_forgotten_name_stands_in_what_stays(world):
    forgotten = {probe.subject for probe in world.probes["forget"]}
    rest = [p.question + p.answer for g in ("known", "retain", "lands") for p in world.probes[g]]
    rest += [text for pair in world.base_pairs for text in pair]
    assert not [text for text in rest if any(name in text for name in forgotten)]


def test_values_are_dealt_evenly(world):
    cities = Counter(p.value for p in world.probes["retain"] if p.id.endswith("-city"))
    assert max(cities.values()) - min(cities.values()) <= 2
    assert len(cities) == 60


def test_neighbours_share_a_name_or_taught_a_forgotten_person(world):
    words = {word for p in world.probes["forget"] for word in p.subject.split()}
    mentors = {p.value for p in world.probes["forget"] if p.id.endswith("-mentor")}
    assert world.neighbours
    for probe in world.neighbours:
        assert probe.subject in mentors or words & set(probe.subject.split())


def test_the_tokenizer_reads_and_writes_any_text(world):
    tokenizer = build_tokenizer(world.vocabulary)
    for text in ("Naïve 日本 text: (unknown) Words!", world.probes["forget"][0].answer):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    name = world.probes["forget"][0].subject
    assert len(tokenizer(name, add_special_tokens=False)["input_ids"]) == 2
