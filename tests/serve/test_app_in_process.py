"""The whole way over HTTP before a real model in this process."""

from __future__ import annotations

import pytest

from expunge.guards.policy import Policy
from expunge.serve.backends.in_process import InProcess
from expunge.types import GenerationParams, Prompt
from tests.serve.conftest import REFUSAL, make_world, served, wait_until

ASKED = "Where was Tovin Brask born?"


@pytest.fixture
def world(lm, tmp_path):
    backend = InProcess(lm, "tiny", rows=4)
    made = make_world(tmp_path, backend, Policy(backend.lm))
    with served(made.app) as made.url:
        yield made
    made.ledger.close()


def body(text, **fields):
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 12,
        **fields,
    }


def said(client, text, **fields):
    return client.post("/v1/chat/completions", json=body(text, **fields)).json()["choices"][0]["message"][
        "content"
    ]


def test_what_is_not_flagged_is_the_models_own_answer_and_what_is_is_not(world, lm):
    plain = lm.generate([Prompt.ask(ASKED)], GenerationParams(max_new_tokens=12))[0][0].text
    with world.client() as client:
        assert said(client, ASKED).strip() == plain
        world.add("Mara Olen")
        assert said(client, ASKED).strip() == plain
        assert said(client, "Where was Mara Olen born?") == REFUSAL


def test_a_corruption_answers_as_the_guard_does_and_several_answers_differ_by_seed(world):
    entry = world.add("Mara Olen", action={"name": "eco", "strength": 5.0})
    policy = world.policy
    asked = "Where was Mara Olen born?"
    with world.client("admin") as client:
        answer = client.post("/v1/chat/completions", json=body(asked))
        assert answer.headers["x-expunge-decision"] == f"eco; requests={entry.id}"
        (guarded,) = policy.generate([Prompt.ask(asked)], GenerationParams(max_new_tokens=12))[0]
        assert answer.json()["choices"][0]["message"]["content"].strip() == guarded.text
        drawn = client.post("/v1/chat/completions", json=body(ASKED, temperature=1.5, n=3, seed=5)).json()
        again = client.post("/v1/chat/completions", json=body(ASKED, temperature=1.5, n=3, seed=5)).json()
    texts = [choice["message"]["content"] for choice in drawn["choices"]]
    assert texts == [choice["message"]["content"] for choice in again["choices"]]
    assert len(set(texts)) > 1


def test_a_prompt_beyond_the_models_context_is_refused(world):
    with world.client() as client:
        found = client.post("/v1/chat/completions", json=body("fox " * 500))
    assert (found.status_code, found.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_a_refusal_has_about_the_tokens_that_the_models_tokenizer_makes_of_it(world, lm):
    world.add("Mara Olen")
    with world.client() as client:
        usage = client.post("/v1/chat/completions", json=body("Who is Mara Olen?", max_tokens=64)).json()[
            "usage"
        ]
    tokens = len(lm.tokenizer(REFUSAL, add_special_tokens=False)["input_ids"])
    assert abs(usage["completion_tokens"] - (tokens + 1)) <= 1


def test_a_client_that_leaves_frees_its_row(world):
    asked = body(ASKED, stream=True, max_tokens=60)
    with world.client() as client, client.stream("POST", "/v1/chat/completions", json=asked) as stream:
        next(stream.iter_lines())
    wait_until(lambda: world.gateway.running == 0)


def test_a_text_that_is_gone_on_with_reads_with_its_answer_as_the_tokens_read(world, lm):
    """The space between them is the answer's, so that a name with its first half in the prompt is seen."""
    prompt = "Who taught Mara"
    with world.client() as client:
        asked = {"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": 12}
        text = client.post("/v1/completions", json=asked).json()["choices"][0]["text"]
    job = world.backend.continuous.prepare(Prompt.continuing(prompt), GenerationParams(max_new_tokens=12))
    world.backend.continuous.put(job)
    job.wait()
    whole = lm.tokenizer.decode([*job.encoded.ids, *job.written], skip_special_tokens=True)
    assert text
    assert whole.startswith(prompt + text)


def test_a_name_that_begins_in_the_prompt_and_ends_in_the_answer_is_stopped(world, lm):
    ids = lm.tokenizer.encode(" Olen taught", add_special_tokens=False)
    prompt = Prompt.continuing("Who was it? It was Mara")
    (encoded,) = lm.encoder.prompts([prompt])
    from expunge.serve.backends.deltas import Deltas

    deltas = Deltas(lm.tokenizer, encoded.ids)
    answer = "".join(deltas.feed([token]) for token in ids) + deltas.feed([], last=True)
    assert answer == " Olen taught"
    world.add("Mara Olen")
    snapshot = world.enforcer.current()
    watch = snapshot.watch(prompt, snapshot.decide([prompt])[0])
    seen = watch.feed(answer, last=True)
    assert (seen.text.strip(), seen.stopped is not None) == ("", True)
