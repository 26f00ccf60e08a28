"""A server behind an address: what is sent, what comes back, and every way in which that can go wrong."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from types import SimpleNamespace

import httpx2
import pytest

from expunge.errors import ConfigError
from expunge.guards.actions.eco import ECO, FittedECO
from expunge.guards.actions.neutral import FittedNeutral
from expunge.guards.actions.refuse import FittedRefuse
from expunge.guards.target_names import TargetNames
from expunge.models.language_model import TransformerLM
from expunge.run import load
from expunge.serve.backend import Ask, BackendError, BusyError
from expunge.serve.backends.upstream import Upstream
from expunge.types import GenerationParams, Message, Prompt
from tests.serve.fake_upstream import FakeUpstream

ASKED = Prompt.ask("Where was Mara Olen born?")
PARAMS = GenerationParams(max_new_tokens=8, seed=5)
KEY = "secret-of-the-server"


@pytest.fixture(scope="module")
def plain(model_folder) -> TransformerLM:
    return load(model_folder, device="cpu")


@pytest.fixture(scope="module")
def server(plain):
    fake = FakeUpstream(plain, key=KEY, vllm=False)
    with fake.running() as url:
        yield SimpleNamespace(fake=fake, url=url)


@pytest.fixture(autouse=True)
def _clean(server, monkeypatch):
    monkeypatch.setenv("EXPUNGE_API_KEY", KEY)
    server.fake.fail, server.fake.pause = "", 0.0
    server.fake.bodies.clear()
    server.fake.left.clear()


def answered(backend, ask):
    """All pieces of one answer."""

    async def run():
        await backend.start()
        try:
            async with aclosing(backend.stream(ask)) as pieces:
                return [piece async for piece in pieces]
        finally:
            await backend.stop()

    return asyncio.run(run())


def text(pieces):
    return "".join(piece.text for piece in pieces)


def test_a_stream_is_the_models_answer_piece_by_piece(server, plain):
    pieces = answered(Upstream(server.url, "tiny"), Ask(ASKED, PARAMS))
    ((expected,),) = plain.generate([ASKED], PARAMS)
    assert text(pieces).strip() == expected.text
    assert len(pieces) > 2
    assert pieces[-1].tokens == expected.tokens
    assert [piece.finish for piece in pieces[:-1]] == [""] * (len(pieces) - 1)
    assert pieces[-1].finish == ("stop" if expected.finished else "length")


def test_the_clients_messages_and_settings_are_sent_as_they_are(server):
    prompt = Prompt(
        (
            Message("system", "Be “short”."),
            Message("user", "Naïve\u2028\u200b?"),
            Message("assistant", "a"),
            Message("user", "b"),
        )
    )
    params = GenerationParams(max_new_tokens=3, sample=True, temperature=0.7, top_p=0.9, seed=11)
    answered(Upstream(server.url, "tiny"), Ask(prompt, params))
    (body,) = server.fake.bodies
    assert body == {
        "model": "tiny",
        "messages": [turn._asdict() for turn in prompt.messages],
        "max_tokens": 3, "temperature": 0.7, "top_p": 0.9, "seed": 11, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


def test_a_text_to_be_continued_goes_to_completions(server, plain):
    prompt = Prompt.continuing("the quick brown")
    pieces = answered(Upstream(server.url, "tiny"), Ask(prompt, PARAMS))
    assert text(pieces).strip() == plain.generate([prompt], PARAMS)[0][0].text
    assert server.fake.paths[-1] == "/v1/completions"
    assert server.fake.bodies[-1]["prompt"] == "the quick brown"


def test_greedy_answers_say_so_whatever_the_temperature(server):
    answered(Upstream(server.url, "tiny"), Ask(ASKED, replace(PARAMS, temperature=0.3)))
    assert server.fake.bodies[-1]["temperature"] == 0.0


def test_without_usage_the_pieces_are_counted(server):
    server.fake.fail = "silent"
    pieces = answered(Upstream(server.url, "tiny"), Ask(ASKED, PARAMS))
    assert 0 < pieces[-1].tokens <= 8


@pytest.mark.parametrize("status", ["429", "503"])
def test_a_server_that_is_full_is_busy(server, status):
    server.fake.fail = status
    with pytest.raises(BusyError):
        answered(Upstream(server.url, "tiny"), Ask(ASKED, PARAMS))


@pytest.mark.parametrize(
    ("fail", "said"),
    [
        ("500", "refused with 500 \\(SomeError\\)"),
        ("400", "refused with 400"),
        ("302", "another address, which is not followed"),
        ("html", "no stream of events"),
        ("broken", "no JSON"),
        ("error", "failed in the middle"),
        ("cut", "broke off"),
    ],
)
def test_other_failures_say_what_and_nothing_of_the_prompt(server, fail, said):
    server.fake.fail = fail
    with pytest.raises(BackendError, match=said) as caught:
        answered(Upstream(server.url, "tiny"), Ask(ASKED, PARAMS))
    assert "Mara" not in str(caught.value)
    assert "prompt" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_server_that_stops_answering_is_given_up(server):
    server.fake.fail = "stall"
    with pytest.raises(BackendError, match="stopped answering"):
        answered(Upstream(server.url, "tiny", timeout=0.4), Ask(ASKED, PARAMS))


def test_a_wrong_key_and_no_server_say_what_to_do(server, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "wrong")
    with pytest.raises(BackendError, match="environment variable OTHER_KEY"):
        answered(Upstream(server.url, "tiny", key_env="OTHER_KEY"), Ask(ASKED, PARAMS))
    with pytest.raises(BackendError, match="cannot be reached"):
        answered(Upstream("http://127.0.0.1:9/v1", "tiny"), Ask(ASKED, PARAMS))
    with pytest.raises(ConfigError, match="expected an address"):
        Upstream("host:80", "tiny")


def test_closing_the_answer_closes_the_request(server):
    server.fake.pause = 0.1

    async def run():
        backend = Upstream(server.url, "tiny")
        await backend.start()
        pieces = backend.stream(Ask(ASKED, replace(PARAMS, max_new_tokens=60)))
        await anext(pieces)
        await pieces.aclose()
        gone = await asyncio.to_thread(server.fake.left.wait, 10)
        await backend.stop()
        return gone

    assert asyncio.run(run())


def test_the_servers_list_of_models_says_how_long_a_text_may_be(server):
    backend = Upstream(server.url, "tiny")
    answered(backend, Ask(ASKED, PARAMS))
    assert backend.context == 128
    unknown = Upstream(server.url, "other")
    with pytest.raises(BackendError, match="404"):
        answered(unknown, Ask(ASKED, PARAMS))
    assert unknown.context == 2**17


def test_tokens_are_counted_by_a_tokenizer_or_estimated(server, model_folder, plain):
    exact = Upstream(server.url, "tiny", tokenizer=str(model_folder))
    assert exact.count(ASKED) == len(plain.encoder.prompts([ASKED])[0].ids)
    assert exact.count(Prompt.ask("word " * 5000)) > 5000
    assert Upstream(server.url, "tiny").count(ASKED) >= 5


# --- actions ----------------------------------------------------------------------------------------------------------------
def test_an_action_on_text_is_carried_out_here(server, plain):
    action = FittedNeutral(TargetNames(["Mara Olen"]), "somebody", "Who is somebody?")
    pieces = answered(Upstream(server.url, "tiny"), Ask(ASKED, PARAMS, action))
    assert "Mara" not in str(server.fake.bodies)
    (piece,) = pieces
    assert piece.text.strip() == plain.generate([Prompt.ask("Where was somebody born?")], PARAMS)[0][0].text
    (refusal,) = answered(Upstream(server.url, "tiny"), Ask(ASKED, PARAMS, FittedRefuse("I do not know.")))
    assert (refusal.text, refusal.finish) == ("I do not know.", "stop")
    assert len(server.fake.bodies) == 1


def test_an_action_that_breaks_gives_no_answer(server):
    class Broken(FittedRefuse):
        __module__ = FittedRefuse.__module__

        def generate(self, model, prompts, params, flagged):
            raise ValueError(f"about {prompts}")

    with pytest.raises(BackendError) as caught:
        answered(Upstream(server.url, "tiny"), Ask(ASKED, PARAMS, Broken("")))
    assert "Mara" not in str(caught.value)


def test_a_full_server_is_busy_for_actions_too(server):
    server.fake.fail = "429"
    action = FittedNeutral(TargetNames(["Mara Olen"]), "somebody", "Who is somebody?")
    with pytest.raises(BusyError):
        answered(Upstream(server.url, "tiny"), Ask(ASKED, PARAMS, action))


def test_a_client_that_leaves_ends_what_an_action_asked(server):
    server.fake.pause = 0.1
    action = FittedNeutral(TargetNames(["Mara Olen"]), "somebody", "Who is somebody?")

    async def run():
        backend = Upstream(server.url, "tiny")
        await backend.start()
        pieces = backend.stream(Ask(ASKED, replace(PARAMS, max_new_tokens=60), action))
        task = asyncio.ensure_future(anext(pieces))
        while not server.fake.bodies:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gone = await asyncio.to_thread(server.fake.left.wait, 10)
        await backend.stop()
        return gone

    assert asyncio.run(run())


def test_an_action_inside_the_model_is_refused_with_the_backends_that_can(server, plain):
    action = FittedECO(ECO(), TargetNames(["Mara Olen"]), plain, 3.0, 0, [])
    backend = Upstream(server.url, "tiny")
    with pytest.raises(ConfigError, match=r"'eco' works inside the model.*in this process, or over vLLM"):
        backend.refuse_action(action)
    with pytest.raises(ConfigError, match="inside the model"):
        backend.refuse_action(SimpleNamespace())
    backend.refuse_action(FittedRefuse("no"))


def test_what_cannot_be_guarded_is_not_asked_for(server):
    backend = Upstream(server.url, "tiny")
    for ask in (
        Ask(ASKED, PARAMS, logprobs=True),
        Ask(ASKED, replace(PARAMS, bias=(("x", 1.0),))),
        Ask(Prompt.ask("x", prefill="Sure"), PARAMS),
        Ask(ASKED, PARAMS, SimpleNamespace(generate=lambda *given: [])),
    ):
        with pytest.raises(BackendError):
            answered(backend, ask)
    assert not server.fake.bodies


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (401, None, ""),  # somebody is there
        (502, None, "refused with 502"),  # a proxy, and nobody behind it
        (0, httpx2.ConnectError("no"), "cannot be reached"),
        (0, httpx2.PoolTimeout("full"), ""),
    ],
)
def test_who_answers_is_there_and_so_is_who_is_busy(status, error, said):
    def answer(request):
        if error:
            raise error
        return httpx2.Response(status)

    async def run():
        backend = Upstream("http://behind/v1", "tiny")
        backend._http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
        try:
            return await backend.check()
        finally:
            await backend.stop()

    found = asyncio.run(run())
    assert said in found
    assert bool(found) == bool(said)
