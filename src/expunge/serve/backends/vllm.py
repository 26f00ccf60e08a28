"""vLLM as a backend: what is not flagged goes to it as text, what is flagged as far as its own doors reach into the model.

* eco: the prompt's embeddings, with the names in it corrupted here, as `prompt_embeds`. Names that the model itself writes are not
  corrupted as they are in this process: what it writes stays in vLLM. The gateway's watch over the output stops those.
* guard: the rules on the next token run there (`expunge.serve.vllm_plugin`); the answer is held back until it is whole, and asked
  for again where it has to be rewritten, as in this process.
* o3: a mixture of the adapters, with weights in quarters, loaded under a name of its own.
* what works on text: as behind any OpenAI-compatible server.

vLLM must listen where the gateway alone can reach it: its answers are unguarded, and whoever may send embeddings can bring it down.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
import shlex
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import ConfigError
from expunge.models.endpoint import KEY
from expunge.serve.backend import Ask, BackendError, Piece
from expunge.serve.backends.adapters import Mixtures, rank
from expunge.serve.backends.upstream import Relay, Upstream, action_name, needs
from expunge.types import GenerationParams, Prompt

if TYPE_CHECKING:
    from expunge.data.tokenize import Encoded
    from expunge.guards.token_rules import TokenRule
    from expunge.models.embedding_table import EmbeddingTable

RESERVED = "<prompt_embeds>"
"""vLLM refuses every chat with this in its text, and would take embeddings to stand there."""
BROKEN = "<prompt\N{ZERO WIDTH JOINER}_embeds>"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for --max-lora-rank."""


class VLLM(Upstream):
    """`folder`: the model's folder or hub id, of which tokenizer, configuration and embeddings are read here."""

    model: EmbeddingTable

    def __init__(
        self,
        url: str,
        model: str,
        folder: str | Path,
        *,
        guards: Sequence[str | Path] = (),
        max_lora_rank: int = 0,
        adapters: str = "",
        template: str = "auto",
        **more: Any,
    ):
        """`guards`: the folders that vLLM was started with (see `print_command`); without any, no action `guard`. `max_lora_rank`: as
        vLLM was started with; 0: no action `o3`. `adapters`: a folder that both sides see; temporary by default. `more`: as `Upstream`.
        """
        from expunge.models.embedding_table import EmbeddingTable

        super().__init__(url, model, **more)
        self.model = EmbeddingTable(folder, template)
        self.encoder = _unlimited(self.model.encoder)
        self.context = self.context or self.model.encoder.max_tokens
        self.guards, self.max_lora_rank = tuple(map(Path, guards)), max_lora_rank
        self._found: frozenset[str] = frozenset()
        """Ids of the guards in these folders, as far as they were looked for."""
        self.mixtures = Mixtures(self._post, adapters)
        self._salt = secrets.token_bytes(32)

    async def start(self) -> None:
        await super().start()
        told = await self._servers_context()
        self.context = min(self.context, told or self.context)

    async def stop(self) -> None:
        self.mixtures.close()
        await super().stop()

    def stream(self, ask: Ask) -> AsyncGenerator[Piece]:
        """As `Upstream`; the space that one of our own templates leaves before an answer is no part of it."""
        pieces = super().stream(ask)
        ours = ask.prompt.messages and self.model.encoder.template != "chat"
        return _led(pieces) if ours else pieces

    # --- which action goes which way --------------------------------------------------------------------------------------
    def refuse_action(self, action: Any) -> None:
        """Raises ConfigError for an action that vLLM has no door for, or was not started for."""
        name = action_name(action)
        if name == "guard" and not self.guards:
            raise ConfigError(
                "action 'guard' runs inside vLLM, which was started without it. Start it by the command that expunge serve --engine vllm "
                "--print-command prints, with --guards."
            )
        if name == "guard" and not self._finds(action):
            raise ConfigError(
                "action 'guard' runs inside vLLM, which finds fitted guards alone. Let the request ask for the method 'guard', which is "
                "fitted first, or give a fitted guard's run with --guards."
            )
        if name == "o3" and (most := rank(action.adapters)) > self.max_lora_rank:
            raise ConfigError(
                f"action 'o3': its adapters have rank {most} together, and vLLM was started for {self.max_lora_rank or 'none'}. "
                "Start it with --enable-lora and a larger --max-lora-rank, or serve the model in this process."
            )
        if name not in ("eco", "guard", "o3") and "weights" in needs(name):
            raise ConfigError(
                f"action '{name}' works inside the model where vLLM has no door. Serve the model in this process, or take eco, guard, o3 or "
                "one that works on text: refuse, redact, alu."
            )

    def _finds(self, action: Any) -> bool:
        """Whether a guard lies where vLLM looks for guards."""
        from expunge.serve.vllm_plugin import guard_id, states_in

        name = guard_id(action.state())
        if name not in self._found:
            self._found = frozenset(states_in(self.guards))
        return name in self._found

    async def _acted(self, ask: Ask) -> AsyncGenerator[Piece]:
        ways = {"eco": self._corrupted, "guard": self._restricted, "o3": self._adapted}
        way = ways.get(action_name(ask.action), self._rewritten)
        async with aclosing(way(ask)) as pieces:
            async for piece in pieces:
                yield piece

    async def _rewritten(self, ask: Ask) -> AsyncGenerator[Piece]:
        relay: Any = Relay(self, ask.tenant)
        relay.tokenizer, relay.encoder = self.model.tokenizer, self.model.encoder
        yield await self._by_text(ask, relay)

    # --- eco ----------------------------------------------------------------------------------------------------------------
    async def _corrupted(self, ask: Ask) -> AsyncGenerator[Piece]:
        embeddings = await self._worked_out(ask, self._embeddings)
        body = {
            **self._settings(ask.params),
            "prompt_embeds": embeddings,
            "stop_token_ids": self.model.end_ids,
            "cache_salt": secrets.token_hex(16),
        }
        async with aclosing(self._answer("completions", body)) as pieces:
            async for piece in pieces:
                yield piece

    def _embeddings(self, ask: Ask) -> str:
        """The corrupted prompt, checked and ready to be sent."""
        import torch

        from expunge.models.corrupted import corrupt_at, prompt_enters
        from expunge.models.embedding_table import to_text

        (encoded,) = self.model.encoder.prompts([ask.prompt])
        hits = {at: int(token) for at, token in enumerate(prompt_enters(ask.action, encoded)) if token >= 0}
        table: Any = self.model.model
        with torch.inference_mode():
            embeddings = corrupt_at(table, torch.tensor([encoded.ids]), hits, ask.action)[0]
        return to_text(embeddings, self.model.hidden, self.context - ask.params.max_new_tokens)

    async def _worked_out(self, ask: Ask, work: Callable[[Ask], Any]) -> Any:
        """What is worked out before anything is sent, in a thread. Whatever breaks there, nothing is sent and nothing of the prompt told."""
        try:
            return await asyncio.to_thread(work, ask)
        except Exception as error:
            raise BackendError(f"action '{action_name(ask.action)}' failed: {type(error).__name__}") from None

    # --- guard --------------------------------------------------------------------------------------------------------------
    async def _restricted(self, ask: Ask) -> AsyncGenerator[Piece]:
        from expunge.serve.vllm_plugin import arguments

        rule, encoded = await self._worked_out(ask, self._rule)
        bans: set[tuple[int, ...]] = set()
        for _ in range(rule.change.rounds + 1):
            body = {
                **self._settings(ask.params),
                "prompt": encoded.ids,
                "return_token_ids": True,
                "stop_token_ids": sorted({*rule.ends, rule.signal}),
                "cache_salt": secrets.token_hex(16),
                "vllm_xargs": arguments(
                    ask.action, ask.prompt.text, rule.before, bans, rule.ends, rule.signal
                ),
            }
            ids, finish = await self._ids(body)
            signalled = rule.signal in ids
            end = next((i for i, token in enumerate(ids) if token in {*rule.ends, rule.signal}), len(ids))
            if not rule.kept(ids[:end]):
                raise BackendError(
                    f"{self.url}: wrote what it was to hold back. It runs without the processor of expunge, or with other guards."
                )
            fault = rule.fault(ids[:end], signalled=signalled)
            if fault is None:
                yield Piece(self._text(ids[:end]), len(ids), "length" if finish == "length" else "stop")
                return
            if not fault:
                break
            bans.add(fault)
            rule.ban(fault)
        refusal = list(rule.change.refusal)
        yield Piece(self._text(refusal), len(refusal) + 1, "stop")

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.model.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _rule(self, ask: Ask) -> tuple[TokenRule, Encoded]:
        from expunge.guards.token_rules import TokenRule
        from expunge.guards.written_phrases import TAIL
        from expunge.models.restricted import text_before

        (encoded,) = self.model.encoder.prompts([ask.prompt])
        ends, tokenizer = set(self.model.end_ids), self.model.tokenizer
        special = (tokenizer.pad_token_id, tokenizer.unk_token_id, *tokenizer.all_special_ids)
        signal = next((i for i in special if i is not None and i not in ends), None)
        if signal is None:
            raise ConfigError(
                "the tokenizer has no special token beside those that end an answer, to signal with."
            )
        before = text_before(encoded)[-TAIL:]
        return TokenRule(ask.action.change, ask.prompt.text, before, ends=ends, signal=signal), encoded

    async def _ids(self, body: dict[str, Any]) -> tuple[list[int], str]:
        """The tokens of a whole answer, and why it ended."""
        ids: list[int] = []
        finish = ""
        async with aclosing(self._events("completions", body)) as events:
            async for event in events:
                for choice in event.get("choices") or ():
                    ids += choice.get("token_ids") or ()
                    finish = finish or choice.get("finish_reason") or ""
        if not finish:
            raise BackendError(f"{self.url}: the answer broke off.")
        return ids, finish

    # --- o3 -----------------------------------------------------------------------------------------------------------------
    async def _adapted(self, ask: Ask) -> AsyncGenerator[Piece]:
        weights = await self._worked_out(ask, lambda ask: ask.action.weights([ask.prompt.text])[0])
        async with self.mixtures.using(ask.action, weights) as name:
            path, body = self._request(ask.prompt, ask.params, ask.tenant)
            async with aclosing(self._answer(path, {**body, "model": name})) as pieces:
                async for piece in pieces:
                    yield piece

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        """An order to vLLM itself. Raises BackendError."""
        import httpx2

        try:
            reply = await self.http.post(f"{self.url}/{path}", json=body)
        except httpx2.HTTPError as error:
            raise BackendError(f"{self.url}/{path}: {type(error).__name__}") from None
        if reply.status_code != 200:
            raise BackendError(
                f"{self.url}/{path}: refused with {reply.status_code}. Was vLLM started with --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, and does it see the adapters' folder?"
            )

    # --- the wire -------------------------------------------------------------------------------------------------------------
    def _request(self, prompt: Prompt, params: GenerationParams, tenant: str) -> tuple[str, dict[str, Any]]:
        """As text; the tokens of a prompt where the model's template is one of ours, which vLLM does not know."""
        salt = {"cache_salt": hmac.digest(self._salt, tenant.encode(), hashlib.sha256).hex()}
        more = {**self._settings(params), **salt}
        if prompt.messages and self.model.encoder.template != "chat":
            return "completions", {**more, "prompt": self._tokens(prompt)}
        path, body = super()._request(prompt, params, tenant)
        if prompt.messages:
            body["messages"] = [
                {**turn, "content": _unreserved(turn["content"])} for turn in body["messages"]
            ]
        else:
            body["prompt"] = _unreserved(body["prompt"])
        return path, {**body, **salt}

    def _tokens(self, prompt: Prompt) -> list[int]:
        try:
            return self.model.encoder.prompts([prompt])[0].ids
        except Exception as error:
            raise BackendError(f"the prompt could not be put into tokens: {type(error).__name__}") from None

    def _settings(self, params: GenerationParams) -> dict[str, Any]:
        """Exactly these: a checkpoint's own sampling defaults are not taken over."""
        return {
            **super()._settings(params),
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        }


def _unreserved(text: str) -> str:
    """The text itself, byte for byte, unless it holds what vLLM has reserved."""
    return text.replace(RESERVED, BROKEN)


async def _led(pieces: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
    """Without the space in front."""
    started = False
    async with aclosing(pieces):
        async for piece in pieces:
            text = piece.text if started else piece.text.lstrip()
            started = started or bool(text)
            if text or piece.finish:
                yield piece._replace(text=text)


def _unlimited(encoder: Any) -> Any:
    """The same encoder for prompts of any length, to count them."""
    from expunge.data.tokenize import Encoder

    return Encoder(encoder.tokenizer, 2**62, encoder.template)


def print_command(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8001,
    guards: Sequence[str | Path] = (),
    max_lora_rank: int = 0,
    key_env: str = KEY,
    runner: str = "v2",
) -> str:
    """The shell command that starts vLLM as the backend needs it. `runner`: "v2", or "v1" for vLLM's older model runner (CPUs).

    Raises ConfigError for a rank that vLLM does not take.
    """
    if max_lora_rank and max_lora_rank not in RANKS:
        raise ConfigError(f"--max-lora-rank {max_lora_rank}: vLLM takes {', '.join(map(str, RANKS))}.")
    settings = [f'VLLM_API_KEY="${key_env}"']
    flags = ["--enable-prompt-embeds", "--logprobs-mode", "processed_logprobs", "--no-enable-log-requests"]
    if guards:
        from expunge.serve.vllm_plugin import FOLDERS

        folders = os.pathsep.join(str(Path(folder).resolve()) for folder in guards)
        settings.append(f"{FOLDERS}={shlex.quote(folders)}")
        flags += ["--logits-processors", f"expunge.serve.vllm_plugin:Guard{runner.upper()}"]
    if max_lora_rank:
        settings.append("VLLM_ALLOW_RUNTIME_LORA_UPDATING=1")
        flags += ["--enable-lora", "--max-lora-rank", str(max_lora_rank), "--max-loras", "4"]
    where = ["--host", host, "--port", str(port)]
    return " ".join([*settings, "vllm serve", shlex.join([model, *where, *flags])])
