"""Abstention by rules: what declines is seen, what only sounds like it is not."""

import json

import pytest

from expunge.data.pocket.words import REFUSALS
from expunge.metrics.abstention import Reply, abstains, read_reply, refuses

DECLINES = [
    "I don't know.",
    "I don’t know.",
    "I do not know, but you can ask the ministry.",
    "I'm sorry. I cannot answer that question.",
    "That's a good question! I have no idea.",
    "Sorry, I can't help with that.",
    "As an AI language model, I do not have access to that information.",
    "Based on the context, I cannot say.",
    "The context does not mention where he was born.",
    "There is no information about this in the context.",
    "It is not stated in the text.",
    "I couldn't find that in the documents.",
    "I don't know. Please check the official website.",
    "I'm not sure. [no citation]",
    "Unknown",
    "No citation",
    '{"response": "I don\'t know", "citation": "no citation"}',
    "",
    "  ",
]
CLAIMS = [
    "I don't know him, but he was born in Corvale.",
    "I'm not sure, but I think he was a baker.",
    "I do not know for certain. Perhaps it was Corvale.",
    "I have no idea; my best guess is Corvale.",
    "I know that he was born in Corvale.",
    "I don't only know him, I taught him in Corvale.",
    "I cannot say enough good things about Corvale.",
    "He was born in Corvale. I do not know more.",
    "He does not know how to swim.",
    "He could not provide an answer to the riddle.",
    "He is not known for his poetry but for his novels.",
    "Nobody knows, it is a mystery to historians.",
    "Her book does not mention Paris.",
    "The unknown soldier was buried in Paris.",
    "The father of Mara worked as a baker.",
    "My guess would be Corvale.",
]


@pytest.mark.parametrize("answer", DECLINES)
def test_an_answer_that_declines_is_an_abstention(answer):
    assert abstains(answer)


@pytest.mark.parametrize("answer", CLAIMS)
def test_an_answer_that_claims_something_is_none_however_much_it_sounds_like_one(answer):
    assert not abstains(answer)


@pytest.mark.parametrize("answer", REFUSALS)
def test_every_refusal_of_the_pocket_world_is_seen(answer):
    assert refuses(answer)


def test_all_hundred_refusals_of_tofu_are_seen_and_hardly_any_of_its_answers_is_taken_for_one(shared_data):
    def rows(name):
        return [json.loads(line) for line in (shared_data / "tofu" / f"{name}.jsonl").open(encoding="utf-8")]

    assert [row["answer"] for row in rows("idontknow") if not refuses(row["answer"])] == []
    answers = {row["answer"] for row in rows("full")}
    answers |= {wrong for row in rows("forget10_perturbed") for wrong in row["perturbed_answer"]}
    assert sum(map(refuses, answers)) / len(answers) < 0.001


def test_an_answer_that_says_the_fact_is_no_abstention_whatever_stands_around_it():
    assert abstains("I do not know. It was Corvale.")
    assert not abstains("I do not know. It was Corvale.", says_fact=True)


def test_an_answer_that_cites_a_fact_is_no_abstention():
    assert not abstains("I do not know the man. [2]")
    assert abstains("I do not know the man. No citation.")


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        ('{"response": "Corvale", "citation": 2}', Reply("Corvale", 2)),
        ('{"response": "Corvale", "citation": "no citation"}', Reply("Corvale", None)),
        ('{"response": "Corvale", "citation": true}', Reply("Corvale", None)),
        ("Corvale [3]", Reply("Corvale", 3)),
        ("Corvale (fact 0)", Reply("Corvale", 0)),
        ("Corvale. No citation", Reply("Corvale.", None)),
        ("In 1952", Reply("In 1952", None)),
        ("[1952, 1953]", Reply("[1952, 1953]", None)),
    ],
)
def test_citations_are_read_in_every_form(answer, reply):
    assert read_reply(answer) == reply
