"""Answers in a thread of their own: whenever they are asked for, each is what `generate` writes alone."""

import random
import threading
import time

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from expunge.data.tokenize import Encoded
from expunge.errors import DataError
from expunge.models import running as running_module
from expunge.models.continuous import (
    PATIENCE,
    Continuous,
    QueueFullError,
    StoppedError,
    WritingError,
)
from expunge.models.corrupted import CorruptedInputs
from expunge.models.language_model import TransformerLM
from expunge.models.subtracted import Subtracted
from expunge.types import Example, GenerationParams, Prompt
from tests.conftest import make_family, make_model
from tests.models.cases import PARAMS, PROMPTS, alone, texts


def test_sampled_answers_do_not_depend_on_company(lm, start):
    params = GenerationParams(max_new_tokens=12, sample=True, temperature=1.3, top_p=0.95, seed=7)
    by_itself = start(lm)
    expected = [texts(lm, by_itself.submit(prompt, params)) for prompt in PROMPTS]
    together = start(lm, rows=3)
    jobs = [together.submit(prompt, params) for prompt in PROMPTS]
    assert [texts(lm, job) for job in jobs] == expected
    assert len({answer.text for answer in expected}) == len(PROMPTS)
    assert texts(lm, together.submit(PROMPTS[0], params, copy=1)) != expected[0]
    other = GenerationParams(max_new_tokens=12, sample=True, temperature=1.3, top_p=0.95, seed=8)
    assert texts(lm, together.submit(PROMPTS[0], other)) != expected[0]


def test_answers_asked_for_at_any_time_are_those_of_generate(lm, start, corruption):
    continuous = start(lm, rows=4, prompt_tokens=40)
    changes = [None, CorruptedInputs(corruption)]
    chance = random.Random(0)
    asked = []
    for number in range(40):
        prompt, change = chance.choice(PROMPTS), changes[number % 2]
        params = GenerationParams(max_new_tokens=chance.randint(1, 16))
        asked.append((continuous.submit(prompt, params, change), prompt, params, change))
        time.sleep(chance.choice([0, 0, 0.004]))
    for job, prompt, params, change in asked:
        assert texts(lm, job) == alone(lm, prompt, params, change)
    assert continuous.continuous


def test_prompts_are_read_together_up_to_a_size(lm, start, monkeypatch):
    lengths = [len(row.ids) for row in lm.encoder.prompts(PROMPTS)]
    continuous = start(lm, prompt_tokens=2 * max(lengths))
    read, sizes = continuous._running.read, []
    monkeypatch.setattr(continuous._running, "read", lambda rows: sizes.append(len(rows)) or read(rows))
    with lm._lock:
        jobs = [continuous.submit(prompt, PARAMS) for prompt in [PROMPTS[2], *PROMPTS]]
    for job in jobs:
        job.wait()
    assert sum(sizes) == len(jobs)
    assert len(sizes) < len(jobs)
    assert max(sizes[1:]) > 1


def test_a_prompt_that_is_longer_than_what_is_read_together_is_read_by_itself(lm, start):
    continuous = start(lm, prompt_tokens=1)
    jobs = [continuous.submit(prompt, PARAMS) for prompt in PROMPTS[:3]]
    for job, prompt in zip(jobs, PROMPTS, strict=False):
        assert job._over.wait(30), "it never joined"
        assert texts(lm, job) == alone(lm, prompt, PARAMS)


def test_a_bias_is_that_of_generate(lm, start):
    params = GenerationParams(max_new_tokens=8, bias=(("Corvale", 30.0), ("", -5.0)))
    job = start(lm).submit(PROMPTS[0], params)
    assert texts(lm, job) == alone(lm, PROMPTS[0], params)


def test_log_probabilities_are_those_of_the_score(lm, start, corruption):
    change = CorruptedInputs(corruption)
    continuous = start(lm)
    for found in (None, change):
        job = continuous.submit(PROMPTS[0], PARAMS, found, logprobs=True)
        beside = continuous.submit(PROMPTS[2], PARAMS, None if found else change)
        job.wait()
        beside.wait()
        assert len(job.logprobs) == len(job.written)
        assert beside.logprobs is None
        prompt = lm.encoder.prompts([PROMPTS[0]])[0]
        read = Encoded([*prompt.ids, *job.written], len(prompt.ids), prompt.text, prompt.offsets, prompt.head)
        lm.encoder.examples = lambda examples, read=read: [read]
        score = lm.score([Example(PROMPTS[0], "as written")], found, [True])[0]
        del lm.encoder.examples
        np.testing.assert_allclose(job.logprobs, score.token_logprobs, atol=1e-4)


def test_another_intervention_is_written_by_generate(lm, start, tokenizer):
    change = Subtracted(make_model(tokenizer, num_hidden_layers=1), 0.75, 0.5, [2])
    continuous = start(lm)
    calls = []
    generate = lm.generate
    lm.generate = lambda prompts, *more: calls.append(len(prompts)) or generate(prompts, *more)
    plain = [continuous.submit(prompt, PARAMS) for prompt in PROMPTS[:2]]
    changed = [continuous.submit(prompt, PARAMS, change) for prompt in PROMPTS]
    found = [texts(lm, job) for job in [*plain, *changed]]
    lm.generate = generate
    expected = [alone(lm, prompt, PARAMS) for prompt in PROMPTS[:2]]
    assert found == expected + [alone(lm, prompt, PARAMS, change) for prompt in PROMPTS]
    assert sum(calls) == len(PROMPTS)


def test_interventions_that_wait_together_are_not_mixed_up(lm, start, tokenizer):
    small = make_model(tokenizer, num_hidden_layers=1)
    changes = [Subtracted(small, weight, 0.5, [2]) for weight in (0.75, 0.1)]
    continuous = start(lm)
    with continuous._changed:
        jobs = [
            (prompt, change, continuous.submit(prompt, PARAMS, change))
            for prompt in PROMPTS
            for change in changes
        ]
    found = [texts(lm, job) for _, _, job in jobs]
    assert found == [alone(lm, prompt, PARAMS, change) for prompt, change, _ in jobs]
    assert found[::2] != found[1::2], "the interventions differ"


def test_a_stream_of_other_interventions_does_not_keep_the_rows_from_their_tokens(lm, start, tokenizer):
    change = Subtracted(make_model(tokenizer, num_hidden_layers=1), 0.75, 0.5, [2])
    continuous = start(lm, queue=1000)
    continuous.lm._end_ids.clear()
    params = GenerationParams(max_new_tokens=60, sample=True)
    job = continuous.submit(PROMPTS[0], params)
    others = [continuous.submit(PROMPTS[1], params, change) for _ in range(40)]
    job.wait()
    done = sum(other.done for other in others)
    assert done <= 60 // PATIENCE + 1
    for other in others:
        other.cancel()


@pytest.mark.parametrize("family", ["gemma2", "mamba"])
def test_a_model_whose_rows_cannot_join_is_answered_in_static_batches(tokenizer, family, start):
    if family == "mamba":
        settings = dict(vocab_size=len(tokenizer), hidden_size=32, state_size=8, num_hidden_layers=2)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("mamba", **settings)).eval()
    else:
        model = make_family(family, tokenizer)
    lm = TransformerLM(model, tokenizer)
    continuous = start(lm)
    assert not continuous.continuous
    jobs = [continuous.submit(prompt, PARAMS) for prompt in PROMPTS]
    sampled = GenerationParams(max_new_tokens=6, sample=True, seed=3)
    drawn = continuous.submit(PROMPTS[0], sampled, logprobs=True)
    for job, prompt in zip(jobs, PROMPTS, strict=True):
        assert texts(lm, job) == alone(lm, prompt, PARAMS)
    assert texts(lm, drawn) == alone(lm, PROMPTS[0], sampled)
    assert all(logprob <= 0 for _, logprob in drawn.spoken)


def test_a_cancelled_answer_frees_its_row(lm, start):
    lm._end_ids.clear()
    continuous = start(lm, rows=1)
    endless, next_one = (
        continuous.submit(PROMPTS[0], GenerationParams(max_new_tokens=n)) for n in (100_000, 3)
    )
    waiting = continuous.submit(PROMPTS[0], PARAMS)
    endless.limit = 100_000  # beyond the context, for as long as it takes
    waiting.cancel()
    endless.cancel()
    for job in (endless, waiting):
        with pytest.raises(StoppedError):
            job.wait()
    next_one.wait()
    assert len(next_one.written) == 3
    assert continuous.load == (0, 0)


def test_a_full_queue_says_so_and_cancelled_ones_make_room(lm, start):
    continuous = start(lm, rows=1, queue=2)
    with lm._lock:  # nothing moves
        first = continuous.submit(PROMPTS[0], PARAMS)
        while continuous.load[1]:
            time.sleep(0.001)
        jobs = [continuous.submit(PROMPTS[1], PARAMS) for _ in range(2)]
        with pytest.raises(QueueFullError):
            continuous.submit(PROMPTS[1], PARAMS)
        jobs[0].cancel()
        last = continuous.submit(PROMPTS[1], PARAMS)
    for job in (first, jobs[1], last):
        job.wait()


def test_a_failing_forward_ends_the_rows_of_its_batch_and_no_others(lm, start, monkeypatch):
    continuous = start(lm)
    forward, broken = lm.model.forward, threading.Event()

    def fails(*arguments, **more):
        if broken.is_set():
            raise RuntimeError("the secret prompt")
        return forward(*arguments, **more)

    monkeypatch.setattr(lm.model, "forward", fails)
    broken.set()
    job = continuous.submit(PROMPTS[0], PARAMS)
    with pytest.raises(WritingError, match="RuntimeError") as caught:
        job.wait()
    assert "secret" not in str(caught.value)
    broken.clear()
    assert texts(lm, continuous.submit(PROMPTS[0], PARAMS)) == alone(lm, PROMPTS[0], PARAMS)


def test_rows_that_run_outlive_a_prompt_that_cannot_be_read(lm, start, monkeypatch):
    """A prompt whose reading fails takes nobody with it."""
    continuous = start(lm)
    lm._end_ids.clear()
    read = continuous._running.read
    longest = len(lm.encoder.prompts([PROMPTS[2]])[0].ids)

    def fails(rows):
        if any(len(row.encoded.ids) == longest for row in rows):
            raise torch.OutOfMemoryError
        return read(rows)

    monkeypatch.setattr(continuous._running, "read", fails)
    good = continuous.submit(PROMPTS[0], GenerationParams(max_new_tokens=60))
    while not good.written:
        time.sleep(0.001)
    bad = continuous.submit(PROMPTS[2], PARAMS)
    with pytest.raises(WritingError):
        bad.wait()
    good.wait()
    assert len(good.written) == 60


def test_a_prompt_beyond_the_context_fails_alone_and_answers_end_with_it(lm, start):
    continuous = start(lm)
    with pytest.raises(DataError, match="at most 128"):
        continuous.submit(Prompt.ask("Mara Olen " * 200), PARAMS)
    lm._end_ids.clear()
    job = continuous.submit(PROMPTS[0], GenerationParams(max_new_tokens=4096))
    job.wait()
    assert len(job.encoded.ids) + len(job.written) == lm.encoder.max_tokens


def test_rows_half_put_together_are_given_up(lm, start, monkeypatch):
    """A join that breaks between two layers leaves a batch that nobody may go on with."""
    continuous = start(lm)
    lm._end_ids.clear()
    good = continuous.submit(PROMPTS[0], GenerationParams(max_new_tokens=100))
    good.limit = 100_000
    while not good.written:
        time.sleep(0.001)

    def breaks(cache, other):
        cache.layers[0].keys = torch.cat([cache.layers[0].keys, cache.layers[0].keys])
        raise torch.OutOfMemoryError

    monkeypatch.setattr(running_module, "put_beside", breaks)
    bad = continuous.submit(PROMPTS[1], PARAMS)
    for job in (good, bad):
        with pytest.raises(WritingError):
            job.wait()
    job = continuous.submit(PROMPTS[1], PARAMS)
    job.wait()
    assert len(job.written) == 12


def test_closing_ends_what_runs_and_what_waits(lm):
    lm._end_ids.clear()
    continuous = Continuous(lm, rows=1)
    jobs = [continuous.submit(PROMPTS[0], GenerationParams(max_new_tokens=100)) for _ in range(3)]
    jobs[0].limit = 100_000
    continuous.close()
    for job in jobs:
        with pytest.raises(StoppedError):
            job.wait()
    with pytest.raises(StoppedError):
        continuous.submit(PROMPTS[0], PARAMS)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_thread_that_has_died(lm, start, monkeypatch):
    continuous = start(lm)

    def dies():
        raise MemoryError

    monkeypatch.setattr(continuous, "_joining", dies)
    with pytest.raises(StoppedError):
        continuous.submit(PROMPTS[0], PARAMS).wait()
    with pytest.raises(StoppedError):
        continuous.submit(PROMPTS[0], PARAMS)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nor_for_one_that_dies_while_a_prompt_is_read(lm, start, monkeypatch):
    continuous = start(lm)

    def dies(rows):
        raise SystemExit

    monkeypatch.setattr(continuous._running, "read", dies)
    job = continuous.submit(PROMPTS[0], PARAMS)
    assert job._over.wait(30), "it was left behind"
    with pytest.raises(StoppedError):
        job.wait()


def test_scores_get_in_between_the_tokens(lm, start):
    lm._end_ids.clear()
    continuous = start(lm)
    job = continuous.submit(PROMPTS[0], PARAMS)
    job.limit = 100_000
    expected = lm.score([Example(PROMPTS[0], "Mara")])[0].logprob
    for _ in range(5):
        assert lm.score([Example(PROMPTS[0], "Mara")])[0].logprob == expected
    assert not job.done
    job.cancel()


def test_listeners_hear_once_a_step_of_all_their_answers(lm, start):
    lm._end_ids.clear()
    continuous = start(lm)
    heard = []
    with lm._lock:
        blocker = continuous.submit(PROMPTS[1], GenerationParams(max_new_tokens=1))
        while continuous.load[1]:
            time.sleep(0.001)
        jobs = [continuous.submit(prompt, PARAMS, listener=heard.append) for prompt in PROMPTS[:3]]
    for job in (blocker, *jobs):
        job.wait()
    continuous.close()
    assert [len(told) for told in heard] == [3] * 12


def test_no_more_answers_are_written_at_once_than_there_are_rows(lm, start):
    lm._end_ids.clear()
    continuous = start(lm, rows=2)
    loads = []

    def hears(told):
        loads.append(len(continuous._running.rows))

    jobs = []
    for prompt in PROMPTS:
        jobs.append(continuous.submit(prompt, PARAMS, listener=hears))
        while not (len(jobs) > 2 or jobs[-1].written):
            time.sleep(0.001)
    for job in jobs:
        job.wait()
    assert max(loads) == 2


def test_answers_with_and_without_log_probabilities_are_not_written_together(lm, start, tokenizer):
    change = Subtracted(make_model(tokenizer, num_hidden_layers=1), 0.75, 0.5, [2])
    continuous = start(lm)
    asked = [False, True, True, False]
    with continuous._changed:
        jobs = [
            continuous.submit(prompt, PARAMS, change, logprobs=wanted)
            for prompt, wanted in zip(PROMPTS, asked, strict=False)
        ]
    found = [texts(lm, job) for job in jobs]
    assert found == [alone(lm, prompt, PARAMS, change) for prompt in PROMPTS[: len(jobs)]]
    assert [bool(job.spoken) for job in jobs] == asked


def test_an_answer_whose_listener_fails_is_ended_and_no_other(lm, start):
    lm._end_ids.clear()
    continuous = start(lm)

    def fails(told):
        raise RuntimeError("the loop is closed")

    with lm._lock:
        unheard, heard = (
            continuous.submit(PROMPTS[0], GenerationParams(max_new_tokens=60), listener=listener)
            for listener in (fails, lambda told: None)
        )
    with pytest.raises(StoppedError):
        unheard.wait()
    heard.wait()
    assert len(unheard.written) < len(heard.written) == 60
