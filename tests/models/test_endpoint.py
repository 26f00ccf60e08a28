"""A remote model over HTTP, against a small server in a thread."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from expunge.errors import CapabilityError, ConfigError, ModelError
from expunge.models.endpoint import Endpoint
from expunge.types import Example, GenerationParams, LanguageModel, Message, Prompt


class Server(ThreadingHTTPServer):
    """Echoes the last message, after the refusals that stand in `first`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.first, self.seen, self.headers_seen, self.body = [], [], [], None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body))
        self.server.headers_seen.append(dict(self.headers))
        code, headers = self.server.first.pop(0) if self.server.first else (200, {})
        said = {
            "choices": [
                {"message": {"content": f" to {body['messages'][-1]['content']} "}, "finish_reason": "stop"}
            ],
            "usage": {"completion_tokens": 7},
        }
        content = json.dumps(said if self.server.body is None else self.server.body).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args): ...


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("EXPUNGE_API_KEY", raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def endpoint(server, **options):
    return Endpoint(server.url, "m", **{"pause": 0.0, **options})


ASK = [Prompt.ask(f"question {i}") for i in range(20)]


def test_answers_come_back_in_order_copies_together(server, monkeypatch):
    monkeypatch.setenv("EXPUNGE_API_KEY", "secret")
    model = endpoint(server)
    assert isinstance(model, LanguageModel)
    assert model.capabilities == frozenset()
    found = model.generate(
        ASK, GenerationParams(max_new_tokens=9, sample=True, temperature=0.7, copies=2, seed=3)
    )
    assert [[g.text for g in copies] for copies in found] == [[f"to question {i}"] * 2 for i in range(20)]
    assert found[0][0].tokens == 7
    assert found[0][0].finished
    assert {path for path, _ in server.seen} == {"/v1/chat/completions"}
    seeds = [body["seed"] for _, body in server.seen]
    assert len(set(seeds)) == 40  # every prompt and copy draws for itself
    model.generate(ASK, GenerationParams(max_new_tokens=9, sample=True, temperature=0.7, copies=2, seed=3))
    assert sorted(body["seed"] for _, body in server.seen[40:]) == sorted(seeds)
    body = server.seen[0][1]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 9, 0.7)
    assert all(headers["Authorization"] == "Bearer secret" for headers in server.headers_seen)


def test_greedy_is_temperature_zero_and_all_turns_are_sent(server):
    turns = (Message("system", "Be short."), Message("user", "Who?"))
    endpoint(server).generate([Prompt(turns)], GenerationParams())
    body = server.seen[0][1]
    assert body["temperature"] == 0
    assert body["messages"] == [turn._asdict() for turn in turns]
    assert "Authorization" not in server.headers_seen[0]


def test_a_busy_server_is_asked_again_and_told_of_when_it_stays_busy(server):
    server.first = [(429, {"Retry-After": "0"}), (503, {})]
    assert endpoint(server).generate(ASK[:1], GenerationParams())[0][0].text == "to question 0"
    assert len(server.seen) == 3
    server.first = [(500, {})] * 9
    with pytest.raises(ModelError, match="no answer after 2 tries; the last one: 500"):
        endpoint(server, tries=2).generate(ASK[:1], GenerationParams())


@pytest.mark.parametrize(
    ("code", "advice"),
    [(401, "EXPUNGE_API_KEY"), (404, "before /chat/completions"), (400, "the model's name")],
)
def test_a_refusal_is_not_repeated_and_says_what_to_do(server, code, advice):
    server.first = [(code, {})] * 5
    with pytest.raises(ModelError, match=rf"(?s)refused with {code}.*{advice}"):
        endpoint(server).generate(ASK[:1], GenerationParams())
    assert len(server.seen) == 1


def test_no_redirect_is_followed_as_the_key_would_go_along(server):
    server.first = [(302, {"Location": server.url})]
    with pytest.raises(ModelError, match="refused with 302"):
        endpoint(server).generate(ASK[:1], GenerationParams())
    assert len(server.seen) == 1


@pytest.mark.parametrize("body", [{}, {"choices": []}, [], {"choices": [{"text": "old style"}]}])
def test_an_answer_of_another_shape_is_shown(server, body):
    server.body = body
    with pytest.raises(ModelError, match="not that of an OpenAI-compatible server"):
        endpoint(server).generate(ASK[:1], GenerationParams())


def test_what_an_endpoint_cannot_do_is_refused(server):
    model = endpoint(server)
    with pytest.raises(ModelError, match="Scores need the weights"):
        model.score([Example(ASK[0], "x")])
    with pytest.raises(ConfigError, match="no beam search"):
        model.generate(ASK[:1], GenerationParams(beams=2))
    with pytest.raises(CapabilityError, match="given start"):
        model.generate([Prompt.ask("x", prefill="y")], GenerationParams())
    for url, name in (("ftp://x", "m"), ("https://host/v1", "")):
        with pytest.raises(ConfigError, match="expected an address and a model's name"):
            Endpoint(url, name)


def test_nobody_at_the_address_is_said(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(ModelError, match="no answer after 2 tries"):
        Endpoint("http://127.0.0.1:9/v1", "m", tries=2, pause=0.0, timeout=2).generate(
            ASK[:1], GenerationParams()
        )
