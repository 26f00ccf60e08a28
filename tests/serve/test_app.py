"""The routes for answers, from the outside."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.serve.conftest import REFUSAL, chat, wait_until
from tests.serve.stub_backend import STORY, StubBackend

JSON = {"content-type": "application/json"}


def events(response):
    """The JSON of each event, without the last mark."""
    lines = [line for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def text_of(chunks):
    return "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])


def test_a_question_is_answered_and_a_removed_one_refused_in_the_same_shape(serve):
    world = serve()
    with world.client() as client:
        plain = client.post("/v1/chat/completions", json=chat())
        assert plain.status_code == 200
        assert plain.json()["choices"][0]["message"]["content"] == STORY
        world.add("Mara Olen")
        refused = client.post("/v1/chat/completions", json=chat("Who is Mara Olen?"))
        assert refused.json()["choices"][0]["message"]["content"] == REFUSAL
        assert refused.json()["choices"][0]["finish_reason"] == "stop"
        for a, b in ((plain, refused),):
            assert set(a.headers) == set(b.headers)
            assert a.json().keys() == b.json().keys()
            assert a.json()["choices"][0].keys() == b.json()["choices"][0].keys()
    assert len(world.backend.asks) == 1, "the model never sees what is refused"


def test_a_stream_has_the_role_first_then_text_then_the_reason_then_usage_then_done(serve):
    world = serve()
    body = chat(stream=True, stream_options={"include_usage": True})
    with world.client() as client:
        response = client.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks = events(response)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text_of(chunks) == STORY
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-2]["choices"][0]["delta"] == {}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 4, "completion_tokens": 13, "total_tokens": 17}
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_a_refusal_streams_word_by_word_like_an_answer(serve):
    world = serve()
    world.add("Mara Olen")
    with world.client() as client:
        chunks = events(client.post("/v1/chat/completions", json=chat("Who is Mara Olen?", stream=True)))
        cut = client.post("/v1/chat/completions", json=chat("Who is Mara Olen?", max_tokens=2)).json()
        stopped = client.post("/v1/chat/completions", json=chat("Who is Mara Olen?", stop="know")).json()
    assert text_of(chunks) == REFUSAL
    assert len(chunks) > 3
    assert cut["choices"][0]["message"]["content"] == "I do"
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 2
    assert stopped["choices"][0]["message"]["content"] == "I do not "


def test_a_text_goes_on(serve):
    world = serve()
    with world.client() as client:
        whole = client.post("/v1/completions", json={"model": "stub", "prompt": "A story:"}).json()
        chunks = events(
            client.post("/v1/completions", json={"model": "stub", "prompt": ["A story:"], "stream": True})
        )
    assert whole["object"] == "text_completion"
    assert whole["choices"][0]["text"] == STORY
    assert "".join(c["choices"][0]["text"] for c in chunks) == STORY


def test_several_answers_have_seeds_of_their_own_and_come_side_by_side(serve):
    world = serve()
    with world.client() as client:
        whole = client.post("/v1/chat/completions", json=chat(n=3, seed=7)).json()
        again = client.post("/v1/chat/completions", json=chat(n=3, seed=7)).json()
        chunks = events(client.post("/v1/chat/completions", json=chat(n=2, stream=True)))
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert whole["usage"]["completion_tokens"] == again["usage"]["completion_tokens"] == 39
    seeds = [ask.params.seed for ask in world.backend.asks]
    assert len(set(seeds[:3])) == 3
    assert sorted(seeds[:3]) == sorted(seeds[3:6])
    for index in (0, 1):
        mine = [c for c in chunks if c["choices"][0]["index"] == index]
        assert text_of(mine) == STORY
        assert mine[-1]["choices"][0]["finish_reason"] == "stop"


def test_sampling_settings_reach_the_model(serve):
    world = serve()
    with world.client() as client:
        client.post("/v1/chat/completions", json=chat(temperature=0, max_tokens=5))
        client.post("/v1/chat/completions", json=chat(temperature=0.5, top_p=0.9, max_completion_tokens=6))
    greedy, sampled = (ask.params for ask in world.backend.asks)
    assert (greedy.sample, greedy.max_new_tokens) == (False, 5)
    assert (sampled.sample, sampled.temperature, sampled.top_p, sampled.max_new_tokens) == (True, 0.5, 0.9, 6)


def test_a_name_in_the_answer_ends_it_before_the_name(serve):
    world = serve(StubBackend("The baker of Corvale is Mara Olen, they say."))
    world.add("Mara Olen")
    with world.client() as client:
        whole = client.post("/v1/chat/completions", json=chat("Who bakes?")).json()
        chunks = events(client.post("/v1/chat/completions", json=chat("Who bakes?", stream=True)))
    choice = whole["choices"][0]
    assert choice["message"]["content"].rstrip() == "The baker of Corvale is"
    assert choice["finish_reason"] == "content_filter"
    assert text_of(chunks) == choice["message"]["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"
    wait_until(lambda: world.backend.cancelled == 2)


def test_log_probabilities_take_their_scope_and_show_no_more_than_the_text(serve):
    world = serve(StubBackend("The baker is Mara Olen, they say."))
    with world.client() as client:
        refused = client.post("/v1/chat/completions", json=chat(logprobs=True))
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "logprobs"
    with world.client("logprobs") as client:
        found = client.post("/v1/chat/completions", json=chat(logprobs=True)).json()["choices"][0]
        assert [t["logprob"] for t in found["logprobs"]["content"]] == [-1, -2, -3, -4, -5, -6, -7]
        columns = client.post("/v1/completions", json={"model": "stub", "prompt": "A", "logprobs": 0}).json()
        assert columns["choices"][0]["logprobs"]["tokens"][1] == " baker"
        assert columns["choices"][0]["logprobs"]["text_offset"][:3] == [0, 3, 9]
        world.add("Mara Olen")
        cut = client.post("/v1/chat/completions", json=chat(logprobs=True)).json()["choices"][0]
        assert [t["token"] for t in cut["logprobs"]["content"]] == ["The", " baker", " is"]
        assert client.post("/v1/chat/completions", json=chat(logprobs=True, stream=True)).status_code == 400
        assert (
            client.post("/v1/chat/completions", json=chat(top_logprobs=3, logprobs=True)).status_code == 400
        )


def test_a_context_that_is_too_long_is_refused_in_words(serve):
    world = serve()
    with world.client() as client:
        for body in (chat("word " * 300), chat("word " * 100, max_tokens=150)):
            error = client.post("/v1/chat/completions", json=body)
            assert error.status_code == 400
            assert error.json()["error"]["code"] == "context_length_exceeded"
        fits = client.post("/v1/chat/completions", json=chat("word " * 150))
        assert fits.status_code == 200, "where no number is named, the answer takes the room there is"


def test_models_lists_the_served_one_alone(serve):
    world = serve()
    with world.client() as client:
        assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["stub"]
        assert client.get("/v1/models/stub").json()["id"] == "stub"
        assert client.get("/v1/models/gpt-5").status_code == 404
        wrong = client.post("/v1/chat/completions", json=chat() | {"model": "base"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    "path",
    ["/v1/responses", "/v1/embeddings", "/v1/messages", "/v1/audio/speech", "/tokenize", "/v1/chat/completions/batch", "/v1/score",
     "/inference/v1/generate", "/v1/chat/completions/", "//v1/chat/completions", "/v1/files", "/redoc"],
)  # fmt: skip
def test_what_is_not_served_is_not_there(serve_once, path):
    with serve_once.client("admin") as client:
        for method in ("GET", "POST"):
            response = client.request(method, path)
            assert response.status_code == 404
            assert response.json()["error"]["type"] == "not_found_error"


def test_errors_have_openais_shape_whatever_went_wrong(serve_once):
    with serve_once.client() as client:
        cases = [
            (client.get("/v1/chat/completions"), 405, "method_not_allowed"),
            (client.post("/v1/chat/completions", content=b"{", headers=JSON), 400, "invalid_json"),
            (client.post("/v1/chat/completions", content=b"[" * 100_000, headers=JSON), 400, None),
            (client.post("/v1/chat/completions", json=[]), 400, "invalid_value"),
            (client.post("/v1/chat/completions", json={"model": "stub"}), 400, "missing_required_parameter"),
            (client.post("/v1/chat/completions", json=chat(novelty=1)), 400, "unknown_parameter"),
            (client.post("/v1/chat/completions", json=chat(temperature=3)), 400, "invalid_value"),
            (client.post("/v1/chat/completions", json=chat(n="2")), 400, "invalid_value"),
            (client.post("/v1/chat/completions", json=chat(n=9)), 400, "invalid_value"),
            (client.post("/v1/chat/completions", content=b"\xff\xfe", headers=JSON), 400, None),
            (client.post("/v1/chat/completions", json=chat(), headers={"content-type": "text/plain"}), 400, None),
            (client.post("/v1/chat/completions", content=b"x" * (1 << 20) + b"x"), 413, "body_too_large"),
        ]  # fmt: skip
    for response, status, code in cases:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert response.status_code == status, error
        assert code is None or error["code"] == code


SENT = {
    "logit_bias": {"5": 3}, "tools": [{"type": "function"}], "tool_choice": "auto", "functions": [{}], "function_call": "auto",
    "response_format": {"type": "json_object"}, "prompt_embeds": "AA==", "echo": True, "suffix": "end", "best_of": 2,
    "top_logprobs": 1, "audio": {"voice": "x"}, "modalities": ["audio"], "store": True, "prediction": {"type": "content"},
    "web_search_options": {}, "vllm_xargs": {"a": 1}, "cache_salt": "x", "use_beam_search": True, "guided_json": {},
    "guided_regex": "a", "guided_choice": ["a"], "guided_grammar": "g", "structured_outputs": {}, "prompt_logprobs": 1,
    "return_token_ids": True, "continue_final_message": True, "chat_template": "{{x}}", "frequency_penalty": 0.5,
    "presence_penalty": -1, "repetition_penalty": 1.1, "parallel_tool_calls": True, "bad_words": ["a"], "allowed_token_ids": [1],
    "reasoning_effort": "high", "min_tokens": 3, "ignore_eos": True, "stop_token_ids": [1], "top_k": 4,
}  # fmt: skip


@pytest.mark.parametrize("name", SENT)
def test_a_field_that_cannot_be_guarded_is_refused_by_its_name(serve_once, name):
    with serve_once.client("logprobs") as client:
        for path, body in (("chat/completions", chat()), ("completions", {"model": "stub", "prompt": "A"})):
            response = client.post(f"/v1/{path}", json=body | {name: SENT[name]})
            assert response.status_code == 400
            error = response.json()["error"]
            assert (error["code"], error["param"]) == ("unsupported_parameter", name)
            assert name in error["message"]


def test_every_field_that_is_refused_has_a_test(serve_once):
    from expunge.serve.wire import HARMLESS, REFUSED

    assert set(HARMLESS) <= set(REFUSED)
    assert set(SENT) <= set(REFUSED)


def test_values_that_ask_for_nothing_are_taken(serve_once):
    from expunge.serve.wire import HARMLESS

    nothing = {name: values[0] for name, values in HARMLESS.items()}
    nothing |= {
        "audio": None,
        "user": "u",
        "metadata": {"a": "b"},
        "safety_identifier": "s",
        "frequency_penalty": 0.0,
    }
    with serve_once.client() as client:
        assert client.post("/v1/chat/completions", json=chat(**nothing)).status_code == 200
    before = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
              {"role": "assistant", "content": "Hello.", "refusal": None, "tool_calls": None, "audio": None, "annotations": []},
              {"role": "tool", "content": "12 degrees", "tool_call_id": "c1"}, {"role": "user", "content": "A story", "name": "Ann"}]  # fmt: skip
    with serve_once.client() as client:
        assert client.post("/v1/chat/completions", json=chat() | {"messages": before}).status_code == 200
    asked = serve_once.backend.asks[-1].prompt.messages
    assert [m.role for m in asked] == ["system", "user", "assistant", "tool", "user"]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user", "content": "A"}, {"role": "assistant", "content": "Sure, "}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
        [{"role": "user", "content": [{"type": "prompt_embeds", "data": "AA=="}]}],
        [{"role": "user", "content": None}],
        [{"role": "user"}],
        [{"role": "critic", "content": "A"}],
        [{"role": "user", "content": "A", "tool_calls": [{"id": "1"}]}],
        [{"role": "user", "content": "A", "prefix": True}],
        [{"role": "user", "content": "\ud800"}],
    ],
)
def test_messages_that_cannot_be_guarded_are_refused(serve_once, messages):
    body = json.dumps(chat() | {"messages": messages})
    with serve_once.client() as client:
        response = client.post("/v1/chat/completions", content=body, headers=JSON)
        ids = client.post("/v1/completions", json={"model": "stub", "prompt": [1, 2, 3]})
    assert response.status_code == 400
    assert ids.json()["error"]["param"] == "prompt"


def test_no_answer_says_whether_a_guard_acted_but_to_administrators(serve):
    world = serve(StubBackend("The baker is Mara Olen, they say."))
    entry = world.add("Mara Olen", action={"name": "refuse", "text": "No."})
    with world.client() as client:
        asked = client.post("/v1/chat/completions", json=chat("Who is Mara Olen?"))
        assert asked.headers["x-expunge-claim"] == "suppression"
        assert asked.headers["x-expunge-epoch"] == str(entry.epoch)
        assert not [name for name in asked.headers if "decision" in name]
        for path in ("/v1/check", "/v1/plain"):
            assert client.post(path, json=chat()).status_code == 403
        assert client.get("/v1/decisions").status_code == 403
    with world.client("admin") as client:
        asked = client.post("/v1/chat/completions", json=chat("Who is Mara Olen?"))
        assert asked.json()["choices"][0]["message"]["content"] == "No."
        assert asked.headers["x-expunge-decision"] == f"refuse; requests={entry.id}"
        client.post("/v1/chat/completions", json=chat("Who bakes?"))
        found = client.get("/v1/decisions").json()["data"]
        assert [(d["stage"], d["action"]) for d in found] == [
            ("output", "stop"), ("input", "pass"), ("input", "refuse"), ("input", "refuse")
        ]  # fmt: skip
        assert found[0]["requests"] == [entry.id]
        assert "Mara" not in str(found)
        checked = client.post("/v1/check", json={"prompt": "Who is Mara Olen?"}).json()
        assert (checked["requests"], checked["action"], checked["flagged"]) == ([entry.id], "refuse", True)
        assert client.post("/v1/check", json={"messages": chat()["messages"]}).json()["flagged"] is False
        assert client.post("/v1/check", json={}).status_code == 400


def test_a_plain_answer_takes_an_administrator_and_a_server_that_allows_it_and_is_written_down(
    serve, tmp_path
):
    world = serve(StubBackend("She is Mara Olen, they say."), allow_plain=True)
    world.add("Mara Olen")
    with world.client() as client:
        assert client.post("/v1/plain", json=chat("Who is Mara Olen?")).status_code == 403
    with world.client("admin") as client:
        plain = client.post("/v1/plain", json=chat("Who is Mara Olen?"))
        assert plain.json()["choices"][0]["message"]["content"] == "She is Mara Olen, they say."
        assert plain.headers["x-expunge-claim"] == "none"
        streamed = events(client.post("/v1/plain", json=chat("Who is Mara Olen?", stream=True)))
        assert text_of(streamed) == "She is Mara Olen, they say."
        written = [row["event"] for row in client.get("/v1/ledger").json()["data"]]
    assert written.count("plain answer asked") == 2
    assert world.ledger.verify().ok


def test_plain_answers_are_off_by_default(serve_once):
    with serve_once.client("admin") as client:
        assert client.post("/v1/plain", json=chat()).status_code == 404


def test_health_is_open_and_metrics_take_a_key(serve):
    world = serve()
    world.add("Mara Olen")
    with world.client("") as client:
        health = client.get("/health")
        assert (health.status_code, health.json()["status"], health.json()["canary"]) == (
            200,
            "ok",
            "held back",
        )
        assert client.get("/metrics").status_code == 401
        assert client.get("/docs").status_code == client.get("/console").status_code == 200
        assert client.get("/openapi.json").json()["info"]["title"] == "Expunge"
    with world.client() as client:
        client.post("/v1/chat/completions", json=chat("Who is Mara Olen?"))
        assert client.get("/metrics").status_code == 403
    with world.client("auditor") as client:
        page = client.get("/metrics").text
    assert 'expunge_decisions_total{action="refuse",stage="input"} 1.0' in page
    assert 'expunge_http_requests_total{code="200",route="/v1/chat/completions"}' in page
    assert "expunge_active_requests 1.0" in page
    assert "expunge_canary_leaks_total 0.0" in page
    assert "Mara" not in page


def test_the_app_is_imported_without_torch():
    code = "import sys, expunge.serve.app; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
