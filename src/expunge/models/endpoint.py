"""A remote model behind an OpenAI-compatible address, as a LanguageModel that can only write."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

from expunge.errors import CapabilityError, ConfigError, ModelError
from expunge.types import Example, Generation, GenerationParams, Prompt, Score, Seed

KEY = "EXPUNGE_API_KEY"
"""The environment variable that holds the key, where the endpoint wants one."""
PASSING = (408, 429, 500, 502, 503, 504)
"""Answers after which the same request is sent again."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Another address would be sent the key and the prompts as well."""

    def redirect_request(self, req, fp, code, msg, headers, newurl) -> None:
        return None


_OPEN = urllib.request.build_opener(_NoRedirect).open


class Endpoint:
    """`url` is what stands before /chat/completions. No weights: it writes, and scores nothing."""

    capabilities: frozenset[str] = frozenset()

    def __init__(
        self,
        url: str,
        name: str,
        *,
        at_once: int = 8,
        timeout: float = 120.0,
        tries: int = 5,
        pause: float = 1.0,
    ):
        """`at_once`: requests under way together. `timeout`: seconds for one. `pause`: seconds before the second try, doubled each time.

        Raises ConfigError for an address that is none.
        """
        if not url.startswith(("http://", "https://")) or not name:
            raise ConfigError(
                f"endpoint '{url}#{name}': expected an address and a model's name, as in https://host/v1#model-name."
            )
        self.url, self.name = url.rstrip("/"), name
        self.at_once, self.timeout, self.tries, self.pause = at_once, timeout, tries, pause

    def score(self, examples: Sequence[Example]) -> list[Score]:
        """Always raises CapabilityError."""
        raise CapabilityError(
            f"{self.url}: an endpoint writes answers and gives no log-probabilities of given ones. Scores need the weights: give a model folder or hub id."
        )

    def generate(self, prompts: Sequence[Prompt], params: GenerationParams) -> list[list[Generation]]:
        """`params.copies` answers a prompt. Raises ModelError saying what the endpoint answered, ConfigError or CapabilityError for what it cannot do."""
        if params.beams > 1:
            raise ConfigError(f"{self.url}: an endpoint has no beam search. Use beams=1.")
        if params.bias:
            raise CapabilityError(
                f"{self.url}: single tokens cannot be pushed, for which token a word is to an endpoint is not known. Give a model folder or hub id."
            )
        if any(prompt.prefill or prompt.images for prompt in prompts):
            raise CapabilityError(
                f"{self.url}: an endpoint cannot be made to go on from a given start of its answer, and is shown no images."
            )
        seed = Seed(params.seed)
        jobs = [
            (prompt, seed.child("draw", prompt.text, copy).number % 2**31)  # other prompts, other draws
            for prompt in prompts
            for copy in range(params.copies)
        ]
        with ThreadPoolExecutor(self.at_once) as pool:
            written = list(pool.map(lambda job: self._ask(job[0], params, job[1]), jobs))
        return [written[i : i + params.copies] for i in range(0, len(written), params.copies)]

    def _ask(self, prompt: Prompt, params: GenerationParams, seed: int) -> Generation:
        answer = self._post(
            {
                "model": self.name,
                "messages": [message._asdict() for message in prompt.messages],
                "max_tokens": params.max_new_tokens,
                "temperature": params.temperature if params.sample else 0.0,
                "top_p": params.top_p if params.sample else 1.0,
                "seed": seed,
            }
        )
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"] or ""
            tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
            return Generation(text.strip(), tokens, choice.get("finish_reason") == "stop")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ModelError(
                f"{self.url}: the answer is not that of an OpenAI-compatible server: {json.dumps(answer)[:200]}"
            ) from None

    def _post(self, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
        said = ""
        for attempt in range(self.tries):
            wait = self.pause * 2**attempt
            try:
                with _OPEN(request, timeout=self.timeout) as reply:
                    content = reply.read()
            except urllib.error.HTTPError as error:
                said = f"{error.code} {error.reason}: {error.read(200).decode(errors='replace').strip()}"
                if error.code not in PASSING:
                    raise ModelError(f"{self.url}: refused with {said}\n{_advice(error.code)}") from None
                asked = error.headers.get("Retry-After") or ""
                wait = min(float(asked), 60.0) if asked.replace(".", "", 1).isdigit() else wait
            except (OSError, HTTPException) as error:  # no connection, none in time, or one that broke
                said = str(getattr(error, "reason", error)) or type(error).__name__
            else:
                try:
                    return json.loads(content)
                except ValueError:
                    raise ModelError(f"{self.url}: the answer is no JSON: {content[:200]!r}") from None
            if attempt + 1 < self.tries:
                time.sleep(wait)
        raise ModelError(f"{self.url}: no answer after {self.tries} tries; the last one: {said}")


def _advice(code: int) -> str:
    if code in (401, 403):
        return f"Put the key into the environment variable {KEY}."
    if code == 404:
        return "The address is what stands before /chat/completions, as in https://host/v1#model-name."
    return "Check the model's name and the address."
