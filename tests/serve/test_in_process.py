"""A model in this process as a backend: pieces of text that join to the answer, and answers that end when nobody reads them."""

import asyncio
import random
import threading

import pytest

from expunge.errors import ConfigError, DataError
from expunge.guards.actions.eco import ECO, FittedECO
from expunge.guards.actions.redact import FittedRedact
from expunge.guards.actions.refuse import FittedRefuse
from expunge.guards.guard import Guard
from expunge.guards.phrases import Phrases
from expunge.guards.target_names import TargetNames
from expunge.models.fresh import train_tokenizer
from expunge.models.subtracted import Subtracted
from expunge.recipes import recipe
from expunge.serve.backend import Ask, BackendError, BusyError
from expunge.serve.backends import deltas as deltas_module
from expunge.serve.backends.deltas import Deltas
from expunge.serve.backends.in_process import InProcess
from expunge.types import GenerationParams, Prompt
from tests.conftest import TEXTS, make_model
from tests.guards.cases import fit_data, nothing_to_open

PROMPT = Prompt.ask("Where was Mara Olen born?")
PARAMS = GenerationParams(max_new_tokens=24)
TOKENS = 12


def with_backend(lm, use, **more):
    """`use(backend)` on an event loop of its own; the backend is stopped after it."""

    async def whole():
        backend = InProcess(lm, "tiny", **more)
        await backend.start()
        try:
            return await use(backend)
        finally:
            await backend.stop()

    return asyncio.run(whole())


async def pieces(backend, ask):
    return [piece async for piece in backend.stream(ask)]


def said(found):
    return "".join(piece.text for piece in found)


@pytest.fixture
def eco(lm):
    return FittedECO(ECO(), TargetNames(["Mara Olen", "Corvale"]), lm, 3.0, 0, [])


@pytest.fixture
def endless(lm):
    """Answers that only their length ends."""
    lm._end_ids.clear()
    return lm


# --- text as it grows -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
@pytest.mark.parametrize("seed", range(8))
def test_the_parts_of_a_text_join_to_what_its_tokens_read(tokenizer, kind, seed, monkeypatch):
    """Tokens at random, so that many are parts of characters; with spaces and line ends between, before and behind them."""
    if kind == "metaspace":
        tokenizer = metaspace()
    single = [
        i
        for i, token in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
        if token[:3] != "<0x"
    ]
    if seed % 2:
        monkeypatch.setattr(deltas_module, "LONG", 20)
        monkeypatch.setattr(deltas_module, "KEPT", 8)
    chance = random.Random(seed)
    words = tokenizer(" née 日本語 😀 naïve\n\n  x  \u00a0y. ", add_special_tokens=False)["input_ids"]
    ids = []
    while len(ids) < 150:
        ids += words if chance.random() < 0.3 else [chance.choice(single)]
        if kind == "bytes" and chance.random() < 0.3:
            ids += [tokenizer.convert_tokens_to_ids("Ġ")] * chance.randint(1, 3)
    deltas, found = Deltas(tokenizer), []
    for at in range(len(ids)):
        found.append(deltas.feed(ids[at : at + 1], last=at == len(ids) - 1))
    assert "".join(found) == tokenizer.decode(ids, skip_special_tokens=True).strip()


def metaspace():
    """A tokenizer as of Llama 2: spaces are marks that stand before words, unknown characters are single bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    words = ["▁", "▁Mara", "▁Olen", "▁na", "ve", ".", "x", "▁x", "\n"]
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    model = models.BPE(
        {token: i for i, token in enumerate(vocabulary)}, [], unk_token="<unk>", byte_fallback=True
    )
    made = Tokenizer(model)
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def test_half_a_character_and_a_space_at_the_end_are_held_back():
    tokenizer = train_tokenizer(TEXTS * 4, 400)
    smile = tokenizer(" 😀", add_special_tokens=False)["input_ids"]
    assert len(smile) > 2
    deltas = Deltas(tokenizer)
    assert deltas.feed(tokenizer("  Mara ", add_special_tokens=False)["input_ids"]) == "Mara"
    given = [deltas.feed([i]) for i in smile]
    assert given[:-1] == [""] * (len(smile) - 1)
    assert given[-1].strip() == "😀"
    assert given[-1].startswith(" ")
    assert deltas.feed(tokenizer(" \n", add_special_tokens=False)["input_ids"], last=True) == ""


# --- answers ----------------------------------------------------------------------------------------------------------------
def test_the_pieces_of_an_answer_join_to_the_answer_of_the_model(lm, eco):
    async def use(backend):
        return await asyncio.gather(
            *(pieces(backend, Ask(PROMPT, PARAMS, action)) for action in (None, eco, None))
        )

    for found, change in zip(with_backend(lm, use), (None, eco.change, None), strict=True):
        expected = lm.generate([PROMPT], PARAMS, change, [True])[0][0]
        assert said(found) == expected.text
        assert found[-1].tokens == expected.tokens
        assert found[-1].finish == ("stop" if expected.finished else "length")
        assert [piece.finish for piece in found[:-1]] == [""] * (len(found) - 1)
        assert len(found) > 1


def test_every_token_has_its_log_probability_where_they_are_asked_for(lm):
    async def use(backend):
        return await pieces(backend, Ask(PROMPT, PARAMS, logprobs=True)), await pieces(
            backend, Ask(PROMPT, PARAMS)
        )

    found, without = with_backend(lm, use)
    logprobs = [pair for piece in found for pair in piece.logprobs]
    assert "".join(text for text, _ in logprobs).strip() == said(found)
    assert len(logprobs) == found[-1].tokens - (found[-1].finish == "stop")
    assert all(logprob <= 0 for _, logprob in logprobs)
    assert not any(piece.logprobs for piece in without)


def test_any_other_action_answers_in_one_piece(lm):
    change = Subtracted(make_model(lm.tokenizer, num_hidden_layers=1), 0.75, 0.5, [2])
    redact = FittedRedact(Phrases(["Mara Olen", "Corvale"]), "[redacted]")

    async def use(backend):
        actions = (FittedRefuse("I do not know."), redact, inside(change))
        return [await pieces(backend, Ask(PROMPT, PARAMS, action, logprobs=True)) for action in actions]

    refused, redacted, subtracted = with_backend(lm, use)
    assert [(piece.text, piece.finish) for piece in refused] == [("I do not know.", "stop")]
    assert [piece.text for piece in redacted] == [redact.generate(lm, [PROMPT], PARAMS, [True])[0][0].text]
    assert [piece.text for piece in subtracted] == [lm.generate([PROMPT], PARAMS, change, [True])[0][0].text]
    assert subtracted[0].logprobs


def inside(change):
    from expunge.guards.inside import InsideAction

    action = InsideAction()
    action.change = change
    return action


def test_guards_and_policies_stand_before_the_backends_model(lm, eco, tmp_path):
    from expunge.data.dataset import Record
    from expunge.guards.policy import Policy

    async def use(backend):
        made = recipe("eco", detector={"name": "aliases"}, action={"strength": 3.0})
        Guard.fit(backend.lm, fit_data(names=["Mara Olen"]), made).save(tmp_path / "guard")
        guard = Guard.load(tmp_path / "guard", backend.lm, made, nothing_to_open)
        policy = Policy(backend.lm)
        policy.add("corvale", [Record("f", subject="Corvale")], ECO(strength=3.0))
        policy.add_guard("mara", guard)
        decided = policy.decide([PROMPT.text, "Who?"])
        found = [await pieces(backend, Ask(PROMPT, PARAMS, decision.action)) for decision in decided]
        answers = await asyncio.to_thread(policy.generate, [PROMPT, Prompt.ask("Who?")], PARAMS)
        return guard, decided, found, answers

    guard, decided, found, answers = with_backend(lm, use)
    assert [decision.requests for decision in decided] == [("mara",), ()]
    assert said(found[0]) == answers[0][0].text
    assert said(found[0]) == lm.generate([PROMPT], PARAMS, guard.action.change, [True])[0][0].text
    assert answers[1] == lm.generate([Prompt.ask("Who?")], PARAMS)[0]


def test_closing_a_stream_ends_its_work(endless):
    async def use(backend):
        stream = backend.stream(Ask(PROMPT, GenerationParams(max_new_tokens=100)))
        await anext(stream)
        (job,) = backend._bridge.news
        job.limit = 100_000
        await stream.aclose()
        while not job.done:
            await asyncio.sleep(0.001)
        assert not backend._bridge.news
        assert backend.continuous.load == (0, 0)
        return job

    assert with_backend(endless, use).cancelled


def test_an_action_whose_reader_has_gone_asks_the_model_nothing_more(endless):
    asked = []

    class Agent:
        def generate(self, model, prompts, params, flagged):
            for _ in range(100):
                asked.append(True)
                answers = model.generate(prompts, params)
            return answers

    async def use(backend):
        reading = asyncio.create_task(
            pieces(backend, Ask(PROMPT, GenerationParams(max_new_tokens=100), Agent()))
        )
        while not asked:
            await asyncio.sleep(0.001)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.to_thread(backend._workers.shutdown)

    with_backend(endless, use)
    assert len(asked) < 100


def test_a_full_queue_is_busy(endless):
    async def use(backend):
        long = GenerationParams(max_new_tokens=100)
        with endless._lock:
            asked = [asyncio.create_task(pieces(backend, Ask(PROMPT, long))) for _ in range(4)]
            for _ in range(200):
                await asyncio.sleep(0.005)
                if any(task.done() for task in asked):
                    break
        return await asyncio.gather(*asked, return_exceptions=True)

    found = with_backend(endless, use, rows=1, queue=2)
    assert sum(isinstance(one, BusyError) for one in found) in (1, 2)
    assert sum(isinstance(one, list) for one in found) in (2, 3)


def test_stopping_ends_what_is_under_way(endless):
    async def use(backend):
        stream = backend.stream(Ask(PROMPT, GenerationParams(max_new_tokens=100)))
        await anext(stream)
        next(iter(backend._bridge.news)).limit = 100_000
        await backend.stop()
        with pytest.raises(BackendError, match="stopping"):
            async for _ in stream:
                pass
        with pytest.raises(BackendError, match="stopping"):
            await pieces(backend, Ask(PROMPT, PARAMS))

    with_backend(endless, use)


def test_what_fails_says_so_without_a_word_of_the_prompt(lm, monkeypatch):
    class Broken:
        def generate(self, *arguments):
            raise ValueError(PROMPT.text)

    def broken(*arguments, **more):
        raise RuntimeError(PROMPT.text)

    async def use(backend):
        monkeypatch.setattr(lm.model, "forward", broken)
        for action, kind in ((None, "RuntimeError"), (Broken(), "ValueError")):
            with pytest.raises(BackendError, match=kind) as caught:
                await pieces(backend, Ask(PROMPT, PARAMS, action))
            assert "Mara" not in str(caught.value)

    with_backend(lm, use)


def test_a_prompt_beyond_the_context_is_the_askers_mistake(lm):
    async def use(backend):
        assert backend.context == 128
        assert backend.count(PROMPT) == len(lm.encoder.prompts([PROMPT])[0].ids)
        with pytest.raises(DataError, match="at most 128"):
            await pieces(backend, Ask(Prompt.ask("Mara Olen " * 200), PARAMS))

    with_backend(lm, use)


def test_what_is_no_fitted_action_is_refused(lm, eco):
    async def use(backend):
        backend.refuse_action(eco)
        backend.refuse_action(FittedRefuse("no"))
        with pytest.raises(ConfigError, match="no fitted guard action"):
            backend.refuse_action(ECO())

    with_backend(lm, use)


def test_many_answers_wake_the_event_loop_once_a_step(endless):
    woken = []

    async def use(backend):
        asks = [pieces(backend, Ask(PROMPT, GenerationParams(max_new_tokens=TOKENS))) for _ in range(6)]
        bridge = backend._bridged()
        wake = bridge._wake
        bridge._wake = lambda jobs: woken.append(len(jobs)) or wake(jobs)
        return await asyncio.gather(*asks)

    found = with_backend(endless, use)
    assert sum(woken) == 6 * TOKENS
    assert len(woken) < sum(woken)
    assert len({said(one) for one in found}) == 1
    assert threading.active_count() < 50


def test_a_backend_whose_writing_has_ended_says_so(lm):
    async def use(backend):
        before = await backend.check()
        backend.continuous.close()
        return before, await backend.check()

    before, after = with_backend(lm, use)
    assert (before, bool(after)) == ("", True)
