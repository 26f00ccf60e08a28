"""The model behind a running batch as a LanguageModel: the answers of the model itself, and an end to them."""

import threading
import time

import pytest
import torch

from expunge.guards.actions.redact import FittedRedact
from expunge.guards.phrases import Phrases
from expunge.models.batched import BatchedLM, Stop
from expunge.models.continuous import (
    StoppedError,
    WritingError,
)
from expunge.models.corrupted import CorruptedInputs
from expunge.types import Example, GenerationParams
from tests.models.cases import PARAMS, PROMPTS


def test_the_batched_model_answers_as_the_model_does(lm, start, corruption):
    batched = BatchedLM(start(lm, rows=2, queue=2))
    change, flags = CorruptedInputs(corruption), [True, False] * 3
    assert batched.generate(PROMPTS, PARAMS) == lm.generate(PROMPTS, PARAMS)
    assert batched.generate(PROMPTS, PARAMS, change, flags) == lm.generate(PROMPTS, PARAMS, change, flags)
    several = batched.generate(PROMPTS[:2], GenerationParams(max_new_tokens=8, sample=True, copies=3))
    assert [len({answer.text for answer in answers}) for answers in several] == [3, 3]
    beams = GenerationParams(max_new_tokens=6, beams=2)
    assert batched.generate(PROMPTS[:2], beams) == lm.generate(PROMPTS[:2], beams)
    examples = [Example(PROMPTS[0], "Corvale")]
    assert batched.score(examples)[0].logprob == lm.score(examples)[0].logprob
    assert (batched.encoder, batched.tokenizer, batched.capabilities) == (
        lm.encoder,
        lm.tokenizer,
        lm.capabilities,
    )


def test_an_action_answers_before_the_batched_model_as_before_the_model(lm, start):
    action = FittedRedact(Phrases(["Mara Olen", "Corvale"]), "[redacted]")
    batched = BatchedLM(start(lm))
    flags = [True] * len(PROMPTS)
    assert action.generate(batched, PROMPTS, PARAMS, flags) == action.generate(lm, PROMPTS, PARAMS, flags)


def test_what_an_action_has_under_way_can_be_stopped(lm, start):
    continuous = start(lm)
    lm._end_ids.clear()
    batched, stop, ended = BatchedLM(continuous), Stop(), []

    def ask():
        with batched.until(stop):
            for _ in range(2):
                try:
                    batched.generate(PROMPTS, GenerationParams(max_new_tokens=120))
                except StoppedError:
                    ended.append(True)
        ended.append(len(batched.generate(PROMPTS[:1], PARAMS)))  # what comes after is another's

    with lm._lock:
        thread = threading.Thread(target=ask)
        thread.start()
        while not sum(continuous.load):
            time.sleep(0.001)
        stop.set()
    thread.join()
    assert ended == [True, True, 1]
    assert batched.generate(PROMPTS[:1], PARAMS)


def test_answers_that_wait_are_ended_where_one_of_them_fails(lm, start, monkeypatch):
    lm._end_ids.clear()
    continuous = start(lm, rows=1)
    read, put, jobs = continuous._running.read, continuous.put, []
    longest = len(lm.encoder.prompts([PROMPTS[2]])[0].ids)

    def fails(rows):
        if any(len(row.encoded.ids) == longest for row in rows):
            raise torch.OutOfMemoryError
        return read(rows)

    def endless(job, **more):
        job.limit = 100_000
        jobs.append(job)
        put(job, **more)

    monkeypatch.setattr(continuous._running, "read", fails)
    monkeypatch.setattr(continuous, "put", endless)
    with pytest.raises(WritingError):
        BatchedLM(continuous).generate([PROMPTS[2], *PROMPTS[:2]], PARAMS)
    for job in jobs[1:]:
        assert job._over.wait(10), "nobody reads it, and it is written on"
        with pytest.raises(StoppedError):
            job.wait()
