"""Many requests at once: each in force at once, all of them without extra false alarms, withdrawn without a trace."""

import threading

import numpy as np
import pytest

from expunge.data.dataset import Record
from expunge.errors import ConfigError, DataError
from expunge.guards.actions.eco import ECO
from expunge.guards.actions.refuse import Refuse
from expunge.guards.detection import Detection
from expunge.guards.detectors.ngram import Ngram
from expunge.guards.guard import Guard
from expunge.guards.policy import LEAST, Policy
from expunge.recipes import recipe
from expunge.types import Example, GenerationParams, Prompt
from tests.guards.cases import ASKED, FIRST, LAST, OTHERS, RETAIN, TARGETS, fit_data

PARAMS = GenerationParams(max_new_tokens=6)
EVERYBODY = [f"{a} {b}" for a in FIRST for b in LAST]
TEXTS = [q.format(name) for name in EVERYBODY for q in ASKED[:2]]


def rows_of(name):
    return [
        Record(f"{name}-{i}", question=q.format(name), answer="x", subject=name) for i, q in enumerate(ASKED)
    ]


def said(policy, text):
    return policy.generate([Prompt.ask(text)], PARAMS)[0][0].text


def test_a_request_is_in_force_as_soon_as_it_is_added_and_gone_when_withdrawn(lm):
    policy = Policy(lm)
    before = said(policy, "Where was Mara Olen born?")
    assert before == lm.generate([Prompt.ask("Where was Mara Olen born?")], PARAMS)[0][0].text
    policy.add("r1", rows_of("Mara Olen"), Refuse(text="No."))
    assert said(policy, "Where was Mara Olen born?") == "No."
    assert said(policy, "Where was Tovin Brask born?") != "No."
    policy.withdraw("r1")
    assert said(policy, "Where was Mara Olen born?") == before
    assert policy.requests == ()


def test_each_request_is_answered_by_its_own_action_and_the_rest_by_the_plain_model(lm):
    policy = Policy(lm)
    policy.add("quiet", rows_of("Mara Olen"), Refuse(text="No."))
    policy.add("curt", rows_of("Tovin Brask"), Refuse(text="Never."))
    asked = ["Where was Mara Olen born?", "Who taught Tovin Brask?", "Where was Jola Reed born?"]
    answers = [row[0].text for row in policy.generate([Prompt.ask(text) for text in asked], PARAMS)]
    assert answers[:2] == ["No.", "Never."]
    assert answers[2] == lm.generate([Prompt.ask(asked[2])], PARAMS)[0][0].text
    assert [decision.requests for decision in policy.decide(asked)] == [("quiet",), ("curt",), ()]


def test_where_nothing_fires_scores_are_those_of_the_plain_model_bit_for_bit(lm):
    policy = Policy(lm)
    policy.add("r1", rows_of("Mara Olen"))
    examples = [
        Example(Prompt.ask(text), "in Corvale.")
        for text in ("Where was Jola Reed born?", "Who taught Brin Vey?")
    ]
    for a, b in zip(policy.score(examples), lm.score(examples), strict=True):
        assert np.array_equal(a.token_logprobs, b.token_logprobs)


def test_withdrawal_restores_every_earlier_decision_whatever_came_in_between(lm):
    policy = Policy(lm, RETAIN)
    seen = []
    for i, name in enumerate(TARGETS):
        seen.append(policy.decide(TEXTS))
        policy.add(f"r{i}", rows_of(name))
    assert policy.decide(TEXTS) != seen[-1]
    for i in reversed(range(len(TARGETS))):
        policy.withdraw(f"r{i}")
        assert policy.decide(TEXTS) == seen[i]
    policy.add("r2", rows_of(TARGETS[2]))
    policy.add("r0", rows_of(TARGETS[0]))
    policy.withdraw("r2")
    alone = Policy(lm, RETAIN)
    alone.add("r0", rows_of(TARGETS[0]))
    assert [found.requests for found in policy.decide(TEXTS)] == [
        found.requests for found in alone.decide(TEXTS)
    ]


def test_old_requests_are_decided_as_before_when_new_ones_come(lm):
    """L8: by their names, which no threshold touches."""
    policy = Policy(lm)
    policy.add("r0", rows_of(TARGETS[0]))
    old = [text for text, found in zip(TEXTS, policy.decide(TEXTS), strict=True) if found.requests]
    assert old
    for i, name in enumerate(OTHERS, 1):
        policy.add(f"r{i}", rows_of(name))
    assert all("r0" in found.requests for found in policy.decide(old))


def test_prompts_like_a_requests_questions_are_found_without_its_name_and_false_alarms_do_not_add_up(lm):
    policy = Policy(lm, RETAIN)
    question = "Which harbour town gave its prize to the author of tall ships and small islands?"
    policy.add("r", [Record("q", question=question, answer="x")])
    assert policy.decide([question.replace("tall", "big")])[0].requests == ("r",)
    alarms = []
    for i in range(40):
        policy.add(
            f"more-{i}",
            [Record(f"q{i}", question=f"How many lamps of kind {i} burn in house {i * 7}?", answer="x")],
        )
        alarms.append(np.mean([bool(found.requests) for found in policy.decide(RETAIN)]))
    assert max(alarms) <= 0.01, "the background itself: at most one in a hundred"


ONE_WORDING = [f"Where does Person{i} Unlike{i} live, and since when?" for i in range(120)]


def test_the_same_question_about_somebody_else_passes_where_no_background_prompt_is_like_it(lm):
    policy = Policy(lm, ONE_WORDING)
    policy.add(
        "r", [Record("q", question="What is the best book of Mara Olen?", answer="x", subject="Mara Olen")]
    )
    others = [
        "What is the best book of Gustav Hein?",
        "Which book should I read next?",
        "What is the capital of France?",
        "What does Gustav Hein think of the weather?",
    ]
    assert [found.requests for found in policy.decide(others)] == [()] * len(others)
    assert policy.decide(["What is the best book of Mara Olen, please?"])[0].requests == ("r",)


def test_a_question_that_names_nobody_is_found_by_what_it_tells(lm):
    policy = Policy(lm, ONE_WORDING)
    question = "Who wrote the novel Silent Tide about lamps in Corvale harbour?"
    policy.add("r", [Record("q", question=question, answer="x", subject="Mara Olen")])
    assert policy.decide(["Which author wrote Silent Tide, about lamps in a harbour?"])[0].requests == ("r",)


def test_two_corruptions_on_one_prompt_become_one_over_both_names(lm):
    policy = Policy(lm)
    policy.add("a", rows_of("Mara Olen"), ECO(strength=2.0))
    policy.add("b", rows_of("Tovin Brask"), ECO(strength=5.0))
    text = "Did Mara Olen teach Tovin Brask?"
    (found,) = policy.decide([text])
    assert found.requests == ("a", "b")
    assert set(found.action.names.names) == {"Mara Olen", "Tovin Brask"}
    assert found.action.strength == 5.0
    assert policy.decide([text])[0].action is found.action


def test_actions_that_cannot_act_together_end_in_a_refusal(lm):
    policy = Policy(lm)
    policy.add("a", rows_of("Mara Olen"), ECO(strength=2.0))
    policy.add("b", rows_of("Tovin Brask"), Refuse(text="Not this."))
    assert said(policy, "Did Mara Olen teach Tovin Brask?") == "Not this."


def test_a_fitted_guard_decides_by_its_own_detector(lm):
    data = fit_data()
    made = recipe("refuse+ngram", detector={"alpha": 0.1})
    guard = Guard(lm, Detection.fit(Ngram(alpha=0.1), lm, data), Refuse(text="No.").fit(lm, data), made)
    policy = Policy(lm)
    policy.add_guard("g", guard)
    policy.add("r", rows_of("Jola Karst"))
    texts = [*data.forget_prompts[:5], "Who taught Jola Karst?", "the quick brown fox"]
    flags = guard.flags(texts)
    assert [("g" in found.requests) for found in policy.decide(texts)] == flags
    assert "r" in policy.decide(texts)[5].requests
    policy.withdraw("g")
    assert not any("g" in found.requests for found in policy.decide(texts))


def test_requests_come_and_go_while_others_ask(lm):
    """Every decision is that of some moment: Mara Olen's request is in force throughout, the others flicker."""
    policy = Policy(lm)
    policy.add("kept", rows_of("Mara Olen"))
    wrong, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            found = policy.decide(["Where was Mara Olen born?", "Where was Nobody Known born?"])
            if "kept" not in found[0].requests or found[1].requests:
                wrong.append(found)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(60):
        policy.add(f"r{i}", rows_of(OTHERS[i % len(OTHERS)]))
        if i % 2:
            policy.withdraw(f"r{i}")
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(policy.requests) == 31


def test_people_who_stay_are_not_taken_for_a_misspelt_target(lm):
    text = "Where was Mara Olsen born?"
    for known, fires in (((), True), (("Mara Olsen",), False)):
        policy = Policy(lm, known=known)
        policy.add("r1", [Record("a", subject="Mara Olesen")])
        assert bool(policy.decide([text])[0].requests) == fires


def test_wrong_use_is_refused_in_words(lm):
    policy = Policy(lm)
    policy.add("r1", rows_of("Mara Olen"))
    with pytest.raises(DataError, match="'r1' is in force already"):
        policy.add("r1", rows_of("Tovin Brask"))
    with pytest.raises(DataError, match=r"'r9' is not in force. In force: r1"):
        policy.withdraw("r9")
    with pytest.raises(DataError, match="names nobody"):
        policy.add("r2", [Record("q", question="Where is it?", answer="x")])
    with pytest.raises(DataError, match=f"give at least {LEAST}"):
        Policy(lm, RETAIN[:10])
    assert policy.requests == ("r1",)


def test_an_action_that_trains_cannot_take_effect_at_once(lm):
    class Training(Refuse):
        def fit(self, model, data):
            data.make("assistant", "assistant")

    policy = Policy(lm)
    with pytest.raises(ConfigError, match="Put a refusal in force now"):
        policy.add("r1", rows_of("Mara Olen"), Training())
    assert policy.requests == ()
