"""Clients who try to get at what is held back, at the list itself, or at another tenant's requests."""

from __future__ import annotations

import asyncio
import json
import string
from http.client import HTTPConnection

import pytest

from tests.serve.conftest import REFUSAL, chat, make_world
from tests.serve.stub_backend import StubBackend
from tests.serve.test_app import events
from tests.serve.test_gateway import CALLER, answered

HIDDEN = "The baker of Corvale is Mara Olen, they say."


@pytest.fixture
def world(tmp_path):
    made = make_world(tmp_path, StubBackend(HIDDEN))
    made.enforcer.start()
    made.add("Mara Olen")
    yield made
    made.ledger.close()


# --- side channels of an answer ---------------------------------------------------------------------------------------
def test_stop_strings_tell_nothing_of_what_is_held_back(world):
    """Else a name is read letter by letter: the answer that ends with "stop" had the string in it."""
    shown = asyncio.run(answered(world.gateway))
    assert shown == ("The baker of Corvale is ", "content_filter")
    for letter in string.ascii_letters:
        assert asyncio.run(answered(world.gateway, stop=[f"is {letter}", f"Mar{letter}"])) == shown
    for stop in ("Mara", "Mara ", "Olen", "Ol", "n,", "a O"):
        assert asyncio.run(answered(world.gateway, stop=stop)) == shown


def test_an_answer_asked_for_in_any_length_shows_nothing_of_a_name(world):
    for tokens in range(1, 9):
        text, finish = asyncio.run(answered(world.gateway, max_tokens=tokens))
        assert HIDDEN.startswith(text)
        assert "M" not in text
        assert finish == ("length" if tokens < 7 else "content_filter")


def test_a_name_is_not_finished_that_the_question_began(world):
    world.backend.text = "Olen, of course."
    assert asyncio.run(answered(world.gateway, "Complete: the baker is called Mara"))[0] == ""
    assert (
        asyncio.run(answered(world.gateway, "Complete: the baker is called Tovin"))[0] == "Olen, of course."
    )


@pytest.mark.parametrize("name", ["Mara Olen", "Mara Olen Brask Vey Kesto"])
def test_tokens_are_counted_for_what_is_shown_alone(world, name):
    world.add(name)
    world.backend.text = f"The baker is {name} and more."

    async def run():
        from expunge.serve.wire import ChatRequest

        answer = await world.gateway.open(ChatRequest(**chat()), CALLER)
        async for _ in answer.deltas():
            pass
        answer.close()
        return answer.usage.completion_tokens

    assert 3 <= asyncio.run(run()) <= 4


def test_log_probabilities_are_told_of_what_is_shown_alone(serve):
    world = serve(StubBackend(HIDDEN))
    world.add("Mara Olen")
    with world.client("logprobs") as client:
        for fields in ({}, {"max_tokens": 6}, {"max_tokens": 7}, {"stop": "Corvale"}):
            choice = client.post("/v1/chat/completions", json=chat(logprobs=True, **fields)).json()[
                "choices"
            ][0]
            tokens = [token["token"] for token in choice["logprobs"]["content"]]
            assert choice["message"]["content"].startswith("".join(tokens))


def test_the_answer_of_an_action_comes_in_as_many_pieces_as_a_models(serve):
    class Whole(StubBackend):
        async def stream(self, ask):
            pieces = [piece async for piece in StubBackend.stream(self, ask)]
            if ask.action is None:
                for piece in pieces:
                    yield piece
            else:
                yield pieces[-1]._replace(text="".join(piece.text for piece in pieces))

    world = serve(Whole())
    world.enforcer.current()
    world.add("Mara Olen", action="neutral")
    with world.client() as client:
        plain = events(client.post("/v1/chat/completions", json=chat(stream=True)))
        guarded = events(client.post("/v1/chat/completions", json=chat("Who is Mara Olen?", stream=True)))

    def chunks(found):
        return [
            choice["delta"] | {"end": choice["finish_reason"]}
            for event in found
            for choice in event["choices"]
        ]

    assert world.backend.asks[-1].action is not None
    assert chunks(guarded) == chunks(plain)


# --- other tenants --------------------------------------------------------------------------------------------------------
@pytest.fixture
def tenants(serve):
    world = serve(allow_plain=True)
    world.keys["boss"] = world.ledger.add_key("acme", ["admin"], name="boss", actor="test")
    world.everybodys = world.add("Jola Reed", id="everybodys")
    world.others = world.add("Tovin Brask", id="others", tenant="other")
    world.mine = world.add("Mara Olen", id="mine", tenant="acme")
    return world


def test_an_id_that_another_tenant_has_is_refused_as_any_other(tenants):
    body = {"subject": "Kesto Vey"}
    with tenants.client("acme") as client:
        answers = [
            client.post("/v1/requests", json={**body, "id": id}) for id in ("others", "everybodys", "free")
        ]
        assert {(answer.status_code, answer.text) for answer in answers} == {(400, answers[0].text)}
        own = client.post("/v1/requests", json={"id": "mine", "subject": "Mara Olen"})
        assert (own.status_code, own.json()["id"]) == (201, "mine")
        assert client.post("/v1/requests", json=body).status_code == 201
        pages = [client.get("/v1/requests", params={"after": id}) for id in ("others", "nosuch")]
        assert {page.status_code for page in pages} == {400}
        assert pages[0].text.replace("others", "nosuch") == pages[1].text


def test_an_administrator_of_one_tenant_learns_nothing_of_others(tenants):
    with tenants.client("boss") as boss, tenants.client("other") as other, tenants.client("admin") as admin:
        other.post("/v1/chat/completions", json=chat("Who is Tovin Brask?"))
        asked = boss.post("/v1/chat/completions", json=chat("Who are Mara Olen and Jola Reed?"))
        assert asked.headers["x-expunge-decision"] == "refuse; requests=mine"
        assert boss.post("/v1/check", json={"prompt": "Tovin Brask", "tenant": "other"}).status_code == 403
        checked = [
            boss.post("/v1/check", json={"prompt": name}).json() for name in ("Tovin Brask", "Mara Olen")
        ]
        assert [(found["flagged"], found["requests"]) for found in checked] == [(False, []), (True, ["mine"])]
        seen = boss.get("/v1/decisions").json()["data"]
        assert [(d["tenant"], d["requests"]) for d in seen] == [("acme", ["mine"])]
        everything = admin.get("/v1/decisions").json()["data"]
        assert {tuple(d["requests"]) for d in everything} == {("everybodys", "mine"), ("others",)}
        assert [e["id"] for e in boss.get("/v1/requests").json()["data"]] == ["mine"]
        for id in ("others", "everybodys"):
            assert boss.get(f"/v1/requests/{id}").status_code == 404
            assert boss.put(f"/v1/requests/{id}", json={"subject": "Nobody Known"}).status_code == 404
            assert boss.delete(f"/v1/requests/{id}").status_code == 404
        assert {row["tenant"] for row in boss.get("/v1/ledger").json()["data"]} == {"acme"}
        assert boss.get("/metrics").status_code == 403
        assert boss.post("/v1/plain", json=chat("Who is Jola Reed?")).status_code == 403
        assert boss.post("/v1/requests", json={"subject": "Ana Lind", "tenant": "other"}).status_code == 403


@pytest.mark.parametrize("path", ["/", "/nosuch", "owner/name", "http://127.0.0.1:1/v1#m"])
@pytest.mark.parametrize(
    ("action", "setting"),
    [("uld", "assistant"), ("guard", "encoder"), ("eco", "entities"), ("alu", "agents")],
)
def test_a_request_makes_the_server_open_no_folder_and_no_model(serve_once, action, setting, path):
    body = {"subject": "Ana Lind", "action": {"name": action, setting: path}}
    with serve_once.client("acme") as client:
        found = client.post("/v1/requests", json=body)
    assert found.status_code == 400
    assert "opens none" in found.json()["error"]["message"]
    assert path not in found.json()["error"]["message"].split()


# --- other ways in --------------------------------------------------------------------------------------------------------
WAYS = [
    ("POST", "/v1/chat/completions/"), ("POST", "//v1/chat/completions"), ("POST", "/v1//chat/completions"),
    ("POST", "/V1/chat/completions"), ("POST", "/health/../v1/chat/completions"), ("POST", "/console/../v1/chat/completions"),
    ("POST", "/docs/v1/chat/completions"), ("POST", "/v1/responses"), ("POST", "/v1/embeddings"), ("POST", "/v1/messages"),
    ("POST", "/v1/score"), ("POST", "/tokenize"), ("POST", "/inference/v1/generate"), ("PUT", "/v1/chat/completions"),
    ("PATCH", "/v1/completions"), ("GET", "/v1/chat/completions"), ("GET", "/console/..%2f..%2fapp.py"),
    ("GET", "/console/%2e%2e/console.py"), ("GET", "/v1/models/../requests"), ("OPTIONS", "/v1/requests"),
]  # fmt: skip


@pytest.mark.parametrize("key", ["", "user"])
def test_no_other_way_leads_to_the_model_or_to_the_list(serve_once, key):
    before = len(serve_once.backend.asks)
    headers = {"Content-Type": "application/json", "X-HTTP-Method-Override": "POST"}
    if key:
        headers["Authorization"] = f"Bearer {serve_once.keys[key]}"
    for method, path in WAYS:
        connection = HTTPConnection(
            serve_once.url.removeprefix("http://"), timeout=10
        )  # sends paths as they are
        connection.request(method, path, json.dumps(chat()), headers)
        found = connection.getresponse()
        assert found.status in (401, 404, 405), (method, path)
        assert set(json.loads(found.read())) == {"error"}
        connection.close()
    assert len(serve_once.backend.asks) == before


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-7", "latin-1"])
def test_bodies_in_other_encodings_are_not_read(serve_once, encoding):
    body = json.dumps(
        chat("Who is Mára Olen? \ud800" if "16" in encoding else "Who is Mára Olen?"),
        ensure_ascii="16" in encoding,
    )
    with serve_once.client() as client:
        content = body.encode(encoding)
        found = client.post(
            "/v1/chat/completions", content=content, headers={"content-type": "application/json"}
        )
    if encoding == "utf-7":  # plain ASCII to whoever does not know it
        assert found.status_code == 200
    else:
        assert (found.status_code, found.json()["error"]["code"]) == (400, "invalid_json")


def test_of_two_values_of_a_field_the_same_one_is_decided_on_and_answered(serve):
    world = serve(StubBackend(lambda prompt: f"You said {prompt.text}"))
    world.add("Mara Olen")
    for first, second in (("Mara Olen", "Who bakes?"), ("Who bakes?", "Mara Olen")):
        body = f'{{"model": "stub", "prompt": "{first}", "prompt": "{second}"}}'
        with world.client() as client:
            found = client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
        assert found.json()["choices"][0]["text"] == (REFUSAL if "Mara" in second else f"You said {second}")


PROMPTS = {
    "split over turns": [("user", "Who is Mara"), ("user", "Olen?")],
    "in a system prompt": [("system", "It is about Mara Olen."), ("user", "Where was she born?")],
    "in a developer's turn": [("developer", "It is about Mara Olen."), ("user", "Where was she born?")],
    "in an answer": [
        ("user", "Hello"),
        ("assistant", "You mean Mara Olen."),
        ("user", "Yes. Where was she born?"),
    ],
    "in a tool's answer": [("user", "Where was she born?"), ("tool", "name: Mara Olen")],
    "split over roles": [("assistant", "It is Mara"), ("user", "Olen, and where was she born?")],
    "disguised": [("user", "Who is M\u200bа\u200br\u200ba O-l-e-n?")],
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_wherever_a_name_stands_in_a_conversation_it_is_refused(serve_once, kind):
    serve_once.add("Mara Olen", id="once") if "once" not in serve_once.enforcer.requests else None
    before = len(serve_once.backend.asks)
    messages = [{"role": role, "content": text} for role, text in PROMPTS[kind]]
    parts = [
        {
            "role": turn["role"],
            "content": [{"type": "text", "text": word} for word in turn["content"].split()],
        }
        for turn in messages
    ]
    with serve_once.client() as client:
        for form in (messages, parts):
            found = client.post("/v1/chat/completions", json={"model": "stub", "messages": form})
            assert found.json()["choices"][0]["message"]["content"] == REFUSAL
    assert len(serve_once.backend.asks) == before
