"""A small server that speaks as vLLM does, with its strictness about `prompt_embeds`, before a tiny model of transformers.

It can be told to fail, in the ways in which servers do. What it was asked is kept in `bodies`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import copy
import io
import json
import threading
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

RESERVED = "<prompt_embeds>"


class Refused(Exception):
    def __init__(self, message: str, status: int = 400, kind: str = "BadRequestError"):
        super().__init__(message)
        self.message, self.status, self.kind = message, status, kind


class FakeUpstream:
    """`lm` writes. `vllm`: whether it has vLLM's own fields and strictness. `processor`: makes a V1 logits processor."""

    def __init__(self, lm, *, name="tiny", key="", vllm=True, processor=None, context=128):
        self.lm, self.name, self.key, self.vllm, self.processor = lm, name, key, vllm, processor
        self.context = context
        self.adapters: dict[str, Any] = {}
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.fail = ""
        """What goes wrong: 429, 503, 500, 302, 400, html, broken, error, cut, stall, silent (no usage)."""
        self.pause = 0.0
        """Seconds between two tokens."""
        self.left = threading.Event()
        """Set when an answer was not sent whole: its client has gone."""
        self.app = self._app()

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.exception_handler(Refused)
        async def refused(request: Request, error: Refused):
            said = {"message": error.message, "type": error.kind, "param": None, "code": error.status}
            return JSONResponse({"error": said}, error.status)

        @app.middleware("http")
        async def authorised(request: Request, call):
            if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
                return JSONResponse({"error": "Unauthorized"}, 401)
            return await call(request)

        @app.get("/v1/models")
        async def models():
            return {"object": "list", "data": [{"id": self.name, "max_model_len": self.context}]}

        @app.post("/v1/chat/completions")
        async def chat(request: Request):
            return await self._answer(request, chat=True)

        @app.post("/v1/completions")
        async def completions(request: Request):
            return await self._answer(request, chat=False)

        @app.post("/v1/load_lora_adapter")
        async def load(request: Request):
            body = await request.json()
            if body["lora_name"] in self.adapters:
                raise Refused(f"The lora adapter '{body['lora_name']}' has already been loaded.")
            from peft import PeftModel

            model = PeftModel.from_pretrained(copy.deepcopy(self.lm.model), body["lora_path"])
            self.adapters[body["lora_name"]] = model.eval()
            return "Success"

        @app.post("/v1/unload_lora_adapter")
        async def unload(request: Request):
            if self.adapters.pop((await request.json())["lora_name"], None) is None:
                raise Refused("not found", 404, "NotFoundError")
            return "Success"

        return app

    # --- what is asked ------------------------------------------------------------------------------------------------
    async def _answer(self, request: Request, *, chat: bool):
        body = await request.json()
        self.bodies.append(body)
        self.paths.append(request.url.path)
        if self.fail in ("429", "503", "500", "400"):
            raise Refused(f"about {json.dumps(body)}", int(self.fail), "SomeError")
        if self.fail == "302":
            return JSONResponse({}, 302, {"location": "http://127.0.0.1:9/v1/chat/completions"})
        if self.fail == "html":
            return JSONResponse({"choices": []})
        if body["model"] != self.name and body["model"] not in self.adapters:
            raise Refused(f"The model `{body['model']}` does not exist.", 404, "NotFoundError")
        known = {"model", "max_tokens", "temperature", "top_p", "seed", "stream", "stream_options"}
        known |= {"messages"} if chat else {"prompt"}
        if self.vllm:
            known |= {"cache_salt", "top_k", "min_p", "repetition_penalty", "vllm_xargs", "stop_token_ids"}
            known |= {"return_token_ids"} | (set() if chat else {"prompt_embeds"})
        if strange := body.keys() - known:
            raise Refused(f"unknown fields {sorted(strange)}")
        entering = self._chat(body["messages"]) if chat else self._completion(body)
        ids = await asyncio.to_thread(self._write, body, entering)
        return StreamingResponse(self._events(body, ids, chat=chat), media_type="text/event-stream")

    def _chat(self, messages) -> torch.Tensor:
        tokenizer = self.lm.tokenizer
        if self.vllm and any(RESERVED in turn["content"] for turn in messages):
            raise Refused(
                f"Text content may not contain the reserved placeholder {RESERVED!r}. This placeholder is used internally to mark "
                "`prompt_embeds` splice positions in the tokenized prompt."
            )
        if not tokenizer.chat_template:
            if self.vllm:
                raise Refused("default chat template is no longer allowed")
            from expunge.types import Message, Prompt

            return torch.tensor(
                self.lm.encoder.prompts([Prompt(tuple(Message(**t) for t in messages))])[0].ids
            )
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])

    def _completion(self, body) -> torch.Tensor:
        if body.get("prompt_embeds") is not None:
            return decoded(body["prompt_embeds"], self.lm.model.config.hidden_size, self.lm.model.dtype)
        prompt = body.get("prompt")
        if not prompt:
            raise Refused("Either prompt or prompt_embeds must be provided and non-empty.")
        return torch.tensor(self.lm.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt)

    # --- what is written ------------------------------------------------------------------------------------------------
    def _write(self, body, entering: torch.Tensor) -> list[int]:
        model = self.adapters.get(body["model"], self.lm.model)
        sampled = body["temperature"] > 0
        config = copy.deepcopy(self.lm.model.generation_config)
        config.update(
            max_new_tokens=body["max_tokens"], do_sample=sampled, pad_token_id=self.lm.pad_id,
            eos_token_id=sorted({self.lm.tokenizer.eos_token_id, *body.get("stop_token_ids", ())}),
        )  # fmt: skip
        if sampled:
            config.update(temperature=body["temperature"], top_p=body["top_p"], top_k=0)
        if len(entering) + body["max_tokens"] > self.context:
            raise Refused("This model's maximum context length is exceeded.")
        name = "inputs_embeds" if entering.ndim == 2 else "input_ids"
        given = {name: entering[None], "attention_mask": torch.ones(1, len(entering), dtype=torch.int64)}
        processors = (
            [self._processed(body["vllm_xargs"])] if body.get("vllm_xargs") and self.processor else []
        )
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(body["seed"])
            out = model.generate(**given, generation_config=config, logits_processor=processors)[0]
        return (out if name == "inputs_embeds" else out[len(entering) :]).tolist()

    def _processed(self, said):
        """The V1 processor as the engine drives it, for a batch of one."""
        params, written = SimpleNamespace(extra_args=said), []
        try:
            self.processor.validate_params(params)
        except ValueError as error:
            raise Refused(str(error)) from None
        processor = self.processor(vllm_config(self.lm.source), "cpu", False)
        processor.update_state(SimpleNamespace(removed=[], added=[(0, params, None, written)], moved=[]))
        first: list[int] = []

        def process(ids, scores):
            first.append(ids.shape[1])
            written[:] = ids[0, first[0] :].tolist()
            return processor.apply(scores)

        return process

    async def _events(self, body, ids, *, chat: bool):
        whole = False
        try:
            async for line in self._lines(body, ids, chat=chat):
                yield line
            whole = True
        finally:
            if not whole:
                self.left.set()

    async def _lines(self, body, ids, *, chat: bool):
        ends = {self.lm.tokenizer.eos_token_id, *body.get("stop_token_ids", ())}
        finish = "stop" if ids and ids[-1] in ends else "length"
        options = body.get("stream_options") or {}
        text, number = "", 0
        for number, token in enumerate(ids, 1):
            await asyncio.sleep(self.pause)
            so_far = self.lm.tokenizer.decode(ids[:number], skip_special_tokens=True)
            if so_far.endswith("\ufffd") and number < len(ids):
                so_far = text  # a character is not whole yet
            new, text = so_far[len(text) :], so_far
            choice = {"index": 0, "finish_reason": finish if number == len(ids) else None, "logprobs": None}
            if choice["finish_reason"] and self.fail == "cut":
                raise RuntimeError("the server dies")
            choice |= {"delta": {"content": new}} if chat else {"text": new}
            if body.get("return_token_ids"):
                choice["token_ids"] = [token]
            event = {"choices": [choice]}
            if options.get("continuous_usage_stats"):
                event["usage"] = {"completion_tokens": number}
            yield self._spoilt(event, number)
            if self.fail == "stall" and number == 2:
                await asyncio.sleep(30)
        if options.get("include_usage") and self.fail != "silent":
            yield _line({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": number}})
        yield b"data: [DONE]\n\n"

    def _spoilt(self, event, number: int) -> bytes:
        if self.fail == "broken" and number == 2:
            return b"data: {no json\n\n"
        if self.fail == "error" and number == 2:
            return _line({"error": {"message": "quoting the prompt", "type": "InternalServerError"}})
        return b": ping\n\n" + _line(event)

    # --- as a server ----------------------------------------------------------------------------------------------------
    @contextmanager
    def running(self, port: int = 0):
        """The address while it serves."""
        config = uvicorn.Config(self.app, port=port, log_level="critical", ws="none", lifespan="off")
        server = uvicorn.Server(config)
        started = threading.Event()
        startup = server.startup

        async def told(*args, **kwargs):
            await startup(*args, **kwargs)
            started.set()

        server.startup = told
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        assert started.wait(20)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(20)


def _line(event) -> bytes:
    return b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"


def vllm_config(folder):
    """As much of vLLM's configuration as a processor looks at."""
    return SimpleNamespace(model_config=SimpleNamespace(tokenizer=str(folder), model=str(folder)))


class Direction(Enum):
    UNIDIRECTIONAL = 0
    SWAP = 1


def decoded(text: str, hidden: int, dtype: torch.dtype) -> torch.Tensor:
    """A tensor by vLLM's rules, with its sentences. NaN passes, as there."""
    try:
        tensor = torch.load(io.BytesIO(base64.b64decode(text, validate=True)), weights_only=True)
    except binascii.Error as error:
        raise Refused(str(error)) from None
    except Exception as error:
        raise Refused(f"`prompt_embeds` could not be deserialized as a torch tensor: {error}") from None
    if tensor.dim() > 2:
        tensor = tensor.squeeze(0)
    if tensor.dim() != 2:
        raise Refused(
            f"`prompt_embeds` must be a 2D tensor of shape (num_tokens, hidden_size); got shape {tuple(tensor.shape)}."
        )
    if tensor.shape[1] != hidden:
        raise Refused(
            f"`prompt_embeds` hidden_size {tensor.shape[1]} does not match the model's hidden_size {hidden}."
        )
    if not tensor.is_floating_point():
        raise Refused(
            f"`prompt_embeds` dtype {tensor.dtype} is not a floating-point type, cannot safely cast to the model's dtype {dtype}."
        )
    return tensor.to(dtype)


def with_chat(folder: Path, out: Path) -> Path:
    """A copy of a model folder whose tokenizer has a chat template."""
    import shutil

    from expunge.models.load import load_tokenizer

    shutil.copytree(folder, out)
    tokenizer = load_tokenizer(out)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    tokenizer.save_pretrained(out)
    return out
