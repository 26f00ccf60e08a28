"""Any OpenAI-compatible server as a backend: prompts go out as text, answers come back as a stream.

What has no action reaches the server as the client's own messages. Actions that work on text alone (refuse, redact, icul,
guard_prompt, alu, ununlearning, neutral) run here and ask the server as often as they need. Actions inside the model are refused.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from expunge import catalog
from expunge.errors import CapabilityError, ConfigError
from expunge.models.endpoint import KEY, Endpoint
from expunge.serve.backend import Ask, BackendError, BusyError, Piece
from expunge.types import Generation, GenerationParams, Prompt, Seed

if TYPE_CHECKING:
    import httpx2

    from expunge.data.tokenize import Encoder

LONGEST_LINE = 2**24
"""Bytes of one event; a server that sends more in a line is none."""
UNKNOWN_CONTEXT = 2**17
"""Tokens, where neither the settings nor the server's list of models say how long a text may be: the server refuses what is too long."""
CONNECT, POOL = 10.0, 5.0
"""Seconds to reach the server, and to wait for a free connection to it."""


class Upstream:
    """`url` is what stands before /chat/completions."""

    gives_logprobs = False
    """The log-probabilities of most servers are those before a guard; none are asked for."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        name: str = "",
        key_env: str = KEY,
        context: int = 0,
        tokenizer: str = "",
        timeout: float = 120.0,
        at_once: int = 256,
    ):
        """`name`: the public name, the server's own by default. `key_env`: the environment variable that holds the server's key.
        `context`: most tokens of prompt and answer; 0: as the server says. `tokenizer`: a folder or hub id to count tokens with;
        without it `count` is an estimate. `timeout`: seconds between two chunks. `at_once`: most connections.

        Raises ConfigError for an address that is none.
        """
        endpoint = Endpoint(url, model)
        self.model: Any = endpoint
        """What a policy stands before: guards that work on text load before it."""
        self.url, self.served, self.name = endpoint.url, model, name or model
        self.key_env, self.context, self.timeout, self.at_once = key_env, context, timeout, at_once
        self.encoder: Encoder | None = _encoder(tokenizer) if tokenizer else None
        self._http: httpx2.AsyncClient | None = None

    async def start(self) -> None:
        import httpx2

        headers = {"accept-encoding": "identity"}
        if key := os.environ.get(self.key_env):
            headers["authorization"] = f"Bearer {key}"
        self._http = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(self.timeout, connect=CONNECT, pool=POOL),
            limits=httpx2.Limits(max_connections=self.at_once),
            follow_redirects=False,  # another address would be sent the key and the prompts as well
        )
        if not self.context:
            self.context = await self._servers_context() or UNKNOWN_CONTEXT

    async def stop(self) -> None:
        if self._http:
            await self._http.aclose()

    @property
    def http(self) -> httpx2.AsyncClient:
        if self._http is None:
            raise BackendError(f"{self.url}: the backend was not started.")
        return self._http

    async def check(self) -> str:
        """Whether anybody is there: what is said of the models does not matter."""
        import httpx2

        try:
            reply = await self.http.get(f"{self.url}/models", timeout=CONNECT)
        except httpx2.PoolTimeout:  # all connections are at work
            return ""
        except httpx2.HTTPError as error:
            return self._failed(error)
        return f"{self.url}: refused with {reply.status_code}." if reply.status_code >= 500 else ""

    async def _servers_context(self) -> int:
        """What vLLM and others tell of the model in their list; 0 where they do not, or cannot be reached yet."""
        import httpx2

        try:
            models = (await self.http.get(f"{self.url}/models")).json()["data"]
            return next(int(m.get("max_model_len") or 0) for m in models if m["id"] == self.served)
        except (httpx2.HTTPError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
            return 0

    def count(self, prompt: Prompt) -> int:
        """Tokens of a prompt. Without a tokenizer an estimate: its words, or a quarter of its bytes where that is more."""
        if self.encoder:
            from jinja2 import TemplateError

            try:
                return len(self.encoder.prompts([prompt])[0].ids)
            except TemplateError:  # the server will refuse the turns in its own words
                pass
        return max(len(prompt.text.split()), len(prompt.text.encode()) // 4, 1)

    # --- actions ------------------------------------------------------------------------------------------------------
    def refuse_action(self, action: Any) -> None:
        """Raises ConfigError for an action inside the model."""
        name = action_name(action)
        if "weights" in needs(name):
            raise ConfigError(
                f"action '{name}' works inside the model, and {self.url} is asked by text alone. Serve the model in this process, or over "
                "vLLM where the action is eco, guard or o3 (--engine vllm); or take one that works on text: refuse, redact, alu."
            )

    async def stream(self, ask: Ask) -> AsyncGenerator[Piece]:
        """See `Backend`. An answer under an action on text is written whole and comes as one piece."""
        self._refuse(ask)
        async with aclosing(self._plain(ask) if ask.action is None else self._acted(ask)) as pieces:
            async for piece in pieces:
                yield piece

    def _refuse(self, ask: Ask) -> None:
        """Raises BackendError for what is not done here at all."""
        if ask.logprobs or ask.params.bias:
            raise BackendError(
                f"{self.url}: gives no log-probabilities of guarded answers, and pushes no tokens."
            )
        if ask.prompt.images or (ask.prompt.messages and ask.prompt.prefill):
            raise BackendError(
                f"{self.url}: is shown no images, and does not go on from a given start of its answer."
            )
        if ask.action is not None:
            try:
                self.refuse_action(ask.action)
            except ConfigError as error:
                raise BackendError(str(error)) from None

    def _plain(self, ask: Ask) -> AsyncGenerator[Piece]:
        return self._answer(*self._request(ask.prompt, ask.params, ask.tenant))

    async def _acted(self, ask: Ask) -> AsyncGenerator[Piece]:
        yield await self._by_text(ask, Relay(self, ask.tenant))

    async def _by_text(self, ask: Ask, relay: Relay) -> Piece:
        """An action that works on text, in a thread of its own; whatever it raises, nothing of the prompt is told."""
        try:
            answers = await asyncio.to_thread(ask.action.generate, relay, [ask.prompt], ask.params, [True])
        except (BusyError, BackendError):
            raise
        except Exception as error:  # an action that breaks gives no answer, whatever broke in it
            raise BackendError(f"action '{action_name(ask.action)}' failed: {type(error).__name__}") from None
        finally:
            relay.close()
        answer = answers[0][0]
        return Piece(answer.text, answer.tokens, "stop" if answer.finished else "length")

    # --- the wire -------------------------------------------------------------------------------------------------------
    def _request(self, prompt: Prompt, params: GenerationParams, tenant: str) -> tuple[str, dict[str, Any]]:
        """The path, and the body of what is asked there."""
        if prompt.messages:
            return "chat/completions", {
                **self._settings(params),
                "messages": [turn._asdict() for turn in prompt.messages],
            }
        return "completions", {**self._settings(params), "prompt": prompt.prefill}

    def _settings(self, params: GenerationParams) -> dict[str, Any]:
        return {
            "model": self.served,
            "max_tokens": params.max_new_tokens,
            "temperature": params.temperature if params.sample else 0.0,
            "top_p": params.top_p if params.sample else 1.0,
            "seed": params.seed % 2**31,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    async def write(self, prompt: Prompt, params: GenerationParams, tenant: str = "") -> Generation:
        """A whole answer of the plain model."""
        return await self._whole(*self._request(prompt, params, tenant))

    async def _whole(self, path: str, body: Mapping[str, Any]) -> Generation:
        pieces = [piece async for piece in self._answer(path, body)]
        return Generation("".join(p.text for p in pieces), pieces[-1].tokens, pieces[-1].finish == "stop")

    async def _answer(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Piece]:
        """The answer's text as it comes. What else a server streams (reasoning, tool calls) is not passed on."""
        written, finish = 0, ""
        async with aclosing(self._events(path, body)) as events:
            async for event in events:
                text, ended, tokens = _read(event)
                finish = finish or ended
                written = max(written + bool(text and not tokens), tokens)
                if text:
                    yield Piece(text, written)
        if not finish:
            raise BackendError(f"{self.url}: the answer broke off.")
        yield Piece("", written, "length" if finish == "length" else "stop")

    async def _events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The decoded events of a stream. Closing it closes the request. Raises BusyError, BackendError."""
        import httpx2

        try:
            async with self.http.stream("POST", f"{self.url}/{path}", json=body) as reply:
                if reply.status_code != 200:
                    raise await self._refused(reply)
                if "text/event-stream" not in reply.headers.get("content-type", ""):
                    raise BackendError(f"{self.url}: the answer is no stream of events.")
                async for line in _lines(reply):
                    if line == b"[DONE]":
                        return
                    yield self._decoded(line)
        except httpx2.PoolTimeout:
            raise BusyError from None
        except httpx2.HTTPError as error:
            raise BackendError(self._failed(error)) from None

    def _failed(self, error: Exception) -> str:
        return f"{self.url}: {_FAILURES.get(type(error).__name__, 'the connection failed')}."

    async def _refused(self, reply: httpx2.Response) -> Exception:
        """What to raise for another status than 200. Of what the server says only its name for the error is told: the rest may quote
        the prompt.
        """
        if reply.status_code in (429, 503):
            return BusyError()
        try:
            said = json.loads(await reply.aread())["error"]["type"]
        except (ValueError, KeyError, TypeError):
            said = ""
        named = f" ({said})" if re.fullmatch(r"[\w.-]{1,40}", str(said)) else ""
        return BackendError(
            f"{self.url}: refused with {reply.status_code}{named}.{_advice(reply.status_code, self.key_env)}"
        )

    def _decoded(self, line: bytes) -> dict[str, Any]:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            raise BackendError(f"{self.url}: an event of the answer is no JSON object.")
        if event.get("error"):
            raise BackendError(f"{self.url}: failed in the middle of the answer.")
        return event


class Relay(Endpoint):
    """The server as a LanguageModel for an action in a worker thread; what it asks goes over the backend's own connections."""

    def __init__(self, backend: Upstream, tenant: str):
        super().__init__(backend.url, backend.served)
        self.backend, self.tenant = backend, tenant
        self._loop = asyncio.get_running_loop()
        self._asked: set[Future[Generation]] = set()
        self._closed = False

    def generate(self, prompts: Sequence[Prompt], params: GenerationParams) -> list[list[Generation]]:
        if params.beams > 1 or params.bias or any(p.images or (p.messages and p.prefill) for p in prompts):
            raise CapabilityError(
                f"{self.url}: has no beams, pushes no tokens, takes no images and no start of an answer."
            )
        seed = Seed(params.seed)
        jobs = [
            (prompt, seed.child("draw", prompt.text, copy).number)  # other prompts, other draws
            for prompt in prompts
            for copy in range(params.copies)
        ]
        with ThreadPoolExecutor(self.at_once) as pool:
            written = list(pool.map(lambda job: self._write(*job, params), jobs))
        return [written[i : i + params.copies] for i in range(0, len(written), params.copies)]

    def _write(self, prompt: Prompt, seed: int, params: GenerationParams) -> Generation:
        if self._closed:
            raise BackendError(f"{self.url}: nobody waits for the answer any more.")
        asked = self.backend.write(prompt, replace(params, seed=seed, copies=1), self.tenant)
        future = asyncio.run_coroutine_threadsafe(asked, self._loop)
        self._asked.add(future)
        try:
            return future.result()
        finally:
            self._asked.discard(future)

    def close(self) -> None:
        """Ends what is under way: the client has gone, or the action is done."""
        self._closed = True
        for future in tuple(self._asked):
            future.cancel()


def action_name(action: Any) -> str:
    """An action's name: that of the file that holds it."""
    return type(action).__module__.rpartition(".")[2]


def needs(name: str) -> frozenset[str]:
    """What an action needs; one that is not ours may need anything."""
    entry = catalog.entries("action").get(name)
    return frozenset(entry.declared.get("needs", ())) if entry else frozenset({"weights"})


def _encoder(tokenizer: str) -> Encoder:
    """One that takes prompts of any length: whether they fit is not its affair."""
    from expunge.data.tokenize import Encoder
    from expunge.models.load import load_tokenizer

    return Encoder(load_tokenizer(tokenizer), 2**62)


async def _lines(reply: httpx2.Response) -> AsyncGenerator[bytes]:
    """What follows "data:" in each line. Only a line feed ends a line: a text may hold other line breaks unescaped."""
    rest = b""
    async for chunk in reply.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise BackendError(f"{reply.url.host}: an event without an end.")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _read(event: Mapping[str, Any]) -> tuple[str, str, int]:
    """New text, the reason of an end ("" before it), and tokens written so far (0 where the event does not say)."""
    usage, choices = event.get("usage") or {}, event.get("choices") or [{}]
    try:
        choice = choices[0]
        text = choice["text"] if "text" in choice else (choice.get("delta") or {}).get("content")
        return (
            str(text or ""),
            str(choice.get("finish_reason") or ""),
            int(usage.get("completion_tokens") or 0),
        )
    except (TypeError, ValueError, AttributeError, KeyError, IndexError):
        raise BackendError("an event of the answer is not that of an OpenAI-compatible server.") from None


_FAILURES = {
    "ConnectError": "cannot be reached",
    "ConnectTimeout": "cannot be reached in time",
    "ReadTimeout": "stopped answering",
    "RemoteProtocolError": "the answer broke off",
    "ReadError": "the answer broke off",
}


def _advice(code: int, key_env: str) -> str:
    if code in (401, 403):
        return f" Put its key into the environment variable {key_env}."
    if code == 404:
        return " The address is what stands before /chat/completions; check the model's name too."
    if 300 <= code < 400:
        return " It sends on to another address, which is not followed: give that one."
    return ""
