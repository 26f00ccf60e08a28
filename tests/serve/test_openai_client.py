"""OpenAI's own client, unmodified."""

from __future__ import annotations

import openai
import pytest

from tests.serve.conftest import REFUSAL, wait_until
from tests.serve.stub_backend import STORY, StubBackend


@pytest.fixture
def clients(serve):
    world = serve(requests_per_minute=40)
    made = {}

    def client(key="user", **options):
        if key not in made:
            secret = world.keys.get(key, key)
            made[key] = openai.OpenAI(base_url=f"{world.url}/v1", api_key=secret, max_retries=0, **options)
        return made[key]

    client.world = world
    yield client
    for one in made.values():
        one.close()


def test_a_conversation_and_a_stream_and_texts_and_models(clients):
    client = clients()
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Tell me a story."}]
    first = client.chat.completions.create(model="stub", messages=turns, temperature=0)
    assert first.choices[0].message.content == STORY
    turns += [first.choices[0].message.model_dump(), {"role": "user", "content": "And then?"}]
    second = client.chat.completions.create(model="stub", messages=turns, n=2, seed=1, stop=["harbour"])
    assert [choice.message.content for choice in second.choices] == ["Once upon a time there was a "] * 2
    assert second.usage.total_tokens == second.usage.prompt_tokens + second.usage.completion_tokens
    stream = client.chat.completions.create(
        model="stub", messages=turns, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == STORY
    assert chunks[-1].usage.completion_tokens == 13
    with client.chat.completions.stream(model="stub", messages=turns) as events:
        assert events.get_final_completion().choices[0].message.content == STORY
    assert client.completions.create(model="stub", prompt="A story:").choices[0].text == STORY
    assert [model.id for model in client.models.list()] == ["stub"]
    assert client.models.retrieve("stub").owned_by == "expunge"


def test_administration_through_the_same_client(clients):
    admin = clients("admin")
    made = admin.post("/requests", body={"subject": "Mara Olen", "aliases": ["Olly Mara"]}, cast_to=dict)
    asked = clients().chat.completions.with_raw_response.create(
        model="stub", messages=[{"role": "user", "content": "Who is Olly Mara?"}]
    )
    assert asked.headers["x-expunge-epoch"] == str(made["epoch"])
    assert asked.parse().choices[0].message.content == REFUSAL
    assert admin.get(f"/requests/{made['id']}", cast_to=dict)["request"]["subject"] == "Mara Olen"
    admin.delete(f"/requests/{made['id']}", cast_to=dict)
    again = clients().chat.completions.create(
        model="stub", messages=[{"role": "user", "content": "Who is Olly Mara?"}]
    )
    assert again.choices[0].message.content == STORY


def test_errors_are_the_clients_own_classes(clients):
    ask = {"model": "stub", "messages": [{"role": "user", "content": "A"}]}
    with pytest.raises(openai.AuthenticationError):
        clients("exp_0_wrong").chat.completions.create(**ask)
    with pytest.raises(openai.BadRequestError) as refused:
        clients().chat.completions.create(**ask, logit_bias={"1": 5})
    assert refused.value.param == "logit_bias"
    assert refused.value.code == "unsupported_parameter"
    with pytest.raises(openai.NotFoundError):
        clients().chat.completions.create(**ask | {"model": "gpt-5"})
    with pytest.raises(openai.NotFoundError):
        clients().responses.create(model="stub", input="A")
    with pytest.raises(openai.NotFoundError):
        clients().embeddings.create(model="stub", input="A")
    with pytest.raises(openai.PermissionDeniedError):
        clients("reader").chat.completions.create(**ask)
    clients.world.backend.busy = True
    with pytest.raises(openai.InternalServerError) as busy:
        clients().chat.completions.create(**ask)
    assert busy.value.status_code == 503
    clients.world.backend.busy = False
    clients.world.backend.breaks_after = 2
    with pytest.raises(openai.APIError, match="cannot answer now"):
        list(clients().chat.completions.create(**ask, stream=True))
    clients.world.backend.breaks_after = None
    with pytest.raises(openai.RateLimitError):
        for _ in range(41):
            clients().chat.completions.create(**ask)


def test_the_client_that_comes_back_as_it_is_told_gets_its_answer(serve):
    world = serve(StubBackend())
    world.backend.busy = True
    client = openai.OpenAI(base_url=f"{world.url}/v1", api_key=world.keys["user"], max_retries=2)
    import threading

    def free():
        wait_until(lambda: world.gateway.telemetry.limited.labels("backend")._value.get() >= 1)
        world.backend.busy = False

    thread = threading.Thread(target=free)
    thread.start()
    answer = client.chat.completions.create(model="stub", messages=[{"role": "user", "content": "A"}])
    thread.join()
    client.close()
    assert answer.choices[0].message.content == STORY


def test_closing_the_clients_stream_ends_the_models_work(serve):
    world = serve(StubBackend("word " * 150, pause=0.02))
    with openai.OpenAI(base_url=f"{world.url}/v1", api_key=world.keys["user"]) as client:
        stream = client.chat.completions.create(
            model="stub", messages=[{"role": "user", "content": "A"}], stream=True
        )
        next(iter(stream))
        stream.close()
        wait_until(lambda: world.backend.cancelled == 1)
