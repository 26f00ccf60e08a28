"""What a real vLLM answers through the backend, against transformers: token for token."""

import asyncio
import re
from contextlib import aclosing
from dataclasses import replace
from unittest.mock import patch

import httpx2
import numpy as np
import pytest
import torch

from expunge.models.corrupted import CorruptedInputs
from expunge.models.embedding_table import EmbeddingTable
from expunge.models.scaled_adapters import ScaledAdapters
from expunge.run import load
from expunge.serve.backend import Ask, BackendError
from expunge.serve.backends.vllm import RESERVED, VLLM
from expunge.serve.vllm_plugin import FOLDERS, GUARD
from expunge.types import GenerationParams, Message, Prompt
from tests.serve.cases import Mixed, PromptOnly, answers, eco, made_adapters, text
from tests.vllm.conftest import KEY, RANK

PROMPTS = [
    Prompt.ask("Where was Mara Olen born?"),
    Prompt(
        (
            Message("system", "Be short."),
            Message("user", "Who taught Mara Brask?"),
            Message("assistant", "Tovin."),
            Message("user", "Who?"),
        )
    ),
    Prompt.ask("What did Mara Olen do in Corvale?"),
    Prompt.continuing("Mara Olen was"),
]
PARAMS = GenerationParams(max_new_tokens=24, seed=5)


class Recorded(VLLM):
    """Keeps the tokens of each answer."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.written: list[list[int]] = []

    def _settings(self, params):
        return {**super()._settings(params), "return_token_ids": True}

    async def _events(self, path, body):
        ids: list[int] = []
        self.written.append(ids)
        async with aclosing(super()._events(path, body)) as events:
            async for event in events:
                for choice in event.get("choices") or ():
                    ids += choice.get("token_ids") or ()
                yield event


@pytest.fixture
def backend(engine, folder, forbidding):
    return Recorded(engine.url, "tiny", folder, guards=[forbidding.parent], max_lora_rank=RANK)


def asked_for(backend, action=None, params=PARAMS):
    """Text and tokens of each answer through the engine."""
    backend.written.clear()
    found = answers(backend, *(Ask(prompt, params, action) for prompt in PROMPTS))
    return found, list(backend.written)


def inside(lm, change=None, params=PARAMS):
    """The tokens that transformers writes, end token included."""

    def read(ids):
        end = next((i for i, token in enumerate(ids) if token in lm._end_ids), len(ids))
        return ids[: end + 1]

    with patch.object(lm, "_read", read):
        return [ids for (ids,) in lm.generate(PROMPTS, params, change, [change is not None] * len(PROMPTS))]


def same_text(found, expected):
    """Text, number of tokens and reason of the end, answer by answer. Where an answer is cut within a character, the engine leaves it out."""
    told = [(_whole(text(pieces)), pieces[-1].tokens, pieces[-1].finish == "stop") for pieces in found]
    assert told == [(_whole(answer.text), answer.tokens, answer.finished) for (answer,) in expected]


def _whole(said):
    return re.sub(r"[\s\ufffd]+$", "", said.strip())


def test_clean_prompts(backend, lm):
    found, written = asked_for(backend)
    assert written == inside(lm)
    same_text(found, lm.generate(PROMPTS, PARAMS))
    assert len(found[0]) > 3
    assert backend.context == 256


def test_clean_embeddings(backend, lm):
    action = eco(backend.model)
    action.strength = 0.0
    assert asked_for(backend, action)[1] == inside(lm)


@pytest.mark.parametrize(
    "settings", [{}, {"corruption": "noise", "dims": 0.5}, {"tokens": "prompt"}], ids=str
)
def test_corrupted_embeddings(backend, lm, settings):
    expected = inside(lm, CorruptedInputs(eco(lm, PromptOnly, **settings)))
    assert expected != inside(lm)
    assert asked_for(backend, eco(backend.model, **settings))[1] == expected


def test_half_precision_on_the_wire(engine, lm, folder):
    """The engine casts to its own precision."""
    from expunge.models.embedding_table import to_text

    (encoded,) = lm.encoder.prompts(PROMPTS[:1])
    table = EmbeddingTable(folder)
    with torch.inference_mode():
        entering = table.model.get_input_embeddings()(torch.tensor(encoded.ids)).bfloat16()
        expected = lm.model.generate(inputs_embeds=entering[None].float(), max_new_tokens=8, do_sample=False)[
            0
        ]
    reply = complete(
        engine, {"prompt_embeds": to_text(entering, 128, 200), "max_tokens": 8, "return_token_ids": True}
    )
    assert reply.json()["choices"][0]["token_ids"] == expected.tolist()


def complete(engine, body):
    headers = {"authorization": f"Bearer {KEY}"}
    return httpx2.post(
        f"{engine.url}/completions",
        json={"model": "tiny", "temperature": 0, **body},
        headers=headers,
        timeout=60,
    )


def test_restricted_writing(backend, lm, forbidding, monkeypatch):
    monkeypatch.setenv(FOLDERS, str(forbidding.parent))
    params = replace(PARAMS, max_new_tokens=40)
    change = load(forbidding, before=lm).action.change
    expected = lm.generate(PROMPTS, params, change, [True] * len(PROMPTS))
    assert expected != lm.generate(PROMPTS, params)
    same_text(asked_for(backend, load(forbidding, before=backend.model).action, params)[0], expected)


def test_restricted_and_other_requests_in_one_batch(backend, lm, forbidding, monkeypatch):
    """Rows join, leave and move while the processor follows them."""
    monkeypatch.setenv(FOLDERS, str(forbidding.parent))
    action = load(forbidding, before=backend.model).action
    params = [replace(PARAMS, max_new_tokens=n) for n in (40, 7, 25, 13)]
    asks = [
        Ask(prompt, p, action if (i + j) % 2 else None)
        for j, p in enumerate(params)
        for i, prompt in enumerate(PROMPTS)
    ]

    async def one(ask):
        async with aclosing(backend.stream(ask)) as pieces:
            return [piece async for piece in pieces]

    async def together():
        await backend.start()
        try:
            return await asyncio.gather(*map(one, asks))
        finally:
            await backend.stop()

    change = load(forbidding, before=lm).action.change
    expected = [lm.generate([ask.prompt], ask.params, change, [ask.action is not None])[0] for ask in asks]
    same_text(asyncio.run(together()), expected)


def test_arguments_that_are_not_the_gateways(engine):
    reply = complete(engine, {"prompt": "x", "vllm_xargs": {GUARD: "unknown"}})
    assert reply.status_code == 400
    assert "vllm_xargs: not what the gateway sends" in reply.text


def test_adapters(backend, lm, folder, tmp_path):
    adapters = made_adapters(folder, tmp_path / "adapter")
    for weights in ((1.0, 0.0), (0.25, 1.0)):
        expected = inside(
            lm, ScaledAdapters(adapters, {prompt.text: np.array(weights) for prompt in PROMPTS})
        )
        assert expected != inside(lm)
        assert asked_for(backend, Mixed(adapters, weights))[1] == expected
        backend = Recorded(backend.url, "tiny", folder, max_lora_rank=RANK)
    assert asked_for(backend)[1] == inside(lm)


def test_a_rank_that_the_engine_was_not_started_for(engine, folder, tmp_path):
    """The engine refuses it too, and then there is no answer."""
    adapters = made_adapters(folder, tmp_path / "adapter") * 3
    backend = VLLM(engine.url, "tiny", folder, max_lora_rank=512)
    with pytest.raises(BackendError, match="load_lora_adapter: refused with"):
        answers(backend, Ask(PROMPTS[0], PARAMS, Mixed(adapters, (1.0,) * 6)))


def test_the_reserved_word(backend, engine):
    """Sent as it is, the engine refuses the whole chat."""
    asked = [{"role": "user", "content": f"What is {RESERVED}?"}]
    headers = {"authorization": f"Bearer {KEY}"}
    reply = httpx2.post(
        f"{engine.url}/chat/completions",
        json={"model": "tiny", "messages": asked},
        headers=headers,
        timeout=60,
    )
    assert reply.status_code == 400
    assert answers(backend, Ask(Prompt.ask(asked[0]["content"]), PARAMS))[0][-1].finish


def test_what_the_engine_itself_takes(engine):
    """Why embeddings are checked before they leave: the engine looks at shape and type, and answers to NaN."""
    import base64
    import io

    def sent(tensor):
        file = io.BytesIO()
        torch.save(tensor, file)
        return complete(
            engine, {"prompt_embeds": base64.b64encode(file.getvalue()).decode(), "max_tokens": 2}
        )

    assert "hidden_size 127 does not match the model's hidden_size 128" in sent(torch.zeros(3, 127)).text
    assert "is not a floating-point type" in sent(torch.zeros(3, 128, dtype=torch.int64)).text
    assert sent(torch.full((3, 128), torch.nan)).status_code == 200


def test_without_the_key_there_is_no_answer(engine):
    assert (
        httpx2.post(
            f"{engine.url}/completions", json={"model": "tiny", "prompt": "x"}, timeout=60
        ).status_code
        == 401
    )
