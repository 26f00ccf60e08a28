"""What clients may send: the part of OpenAI's surface that can be guarded. Everything else is refused by its name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from expunge.types import Message, Prompt

CHOICES = 8
"""Answers to one prompt, at most."""
STOPS = 4
"""Stop strings, as OpenAI's API has it."""

_SHOWS = "it would show what is held back"
_STEERS = "it steers single tokens, and with them what a guard holds back"
_TOOLS = "what is written into a tool's arguments is not guarded here"
_MEDIA = "only text is guarded here"
_TOKENS = "a guard reads text; send the prompt as text"
REFUSED: dict[str, str] = {
    "logit_bias": _STEERS, "bad_words": _STEERS, "allowed_token_ids": _STEERS, "min_tokens": _STEERS, "ignore_eos": _STEERS,
    "stop_token_ids": _STEERS, "prediction": _STEERS, "logits_processors": _STEERS, "structured_outputs": _STEERS,
    "guided_json": _STEERS, "guided_regex": _STEERS, "guided_choice": _STEERS, "guided_grammar": _STEERS, "grammar": _STEERS,
    "guided_decoding_backend": _STEERS, "guided_whitespace_pattern": _STEERS, "vllm_xargs": _STEERS,
    "use_beam_search": "a beam is not guarded token by token", "length_penalty": "it belongs to beam search",
    "best_of": "answers that are not shown would be written for nothing", "response_format": "only text is served",
    "frequency_penalty": "only 0 is served", "presence_penalty": "only 0 is served", "repetition_penalty": "only 1 is served",
    "top_k": "use top_p", "min_p": "use top_p",
    "tools": _TOOLS, "tool_choice": _TOOLS, "functions": _TOOLS, "function_call": _TOOLS, "parallel_tool_calls": _TOOLS,
    "tool_calls": _TOOLS,
    "echo": _SHOWS, "suffix": "a text is only written onwards", "top_logprobs": "alternatives would show what is held back",
    "prompt_logprobs": _SHOWS, "return_token_ids": _SHOWS, "return_tokens_as_token_ids": _SHOWS,
    "prompt_embeds": _TOKENS, "prompt_token_ids": _TOKENS,
    "audio": _MEDIA, "modalities": _MEDIA, "images": _MEDIA, "mm_processor_kwargs": _MEDIA, "file_ids": _MEDIA,
    "web_search_options": "what is found elsewhere would pass the guard by", "plugins": "what is found elsewhere would pass the guard by",
    "store": "nothing is stored", "prompt_cache_retention": "nothing is stored",
    "cache_salt": "the gateway keeps tenants apart itself", "cache_control": "the gateway keeps tenants apart itself",
    "add_generation_prompt": "a start put into the model's mouth is no question", "prefix": "a start put into the model's mouth is no question",
    "continue_final_message": "a start put into the model's mouth is no question",
    "chat_template": "the model's own template is used", "chat_template_kwargs": "the model's own template is used",
    "documents": "put documents into a message, where the guard reads them",
    "reasoning_effort": "this model does not reason apart", "verbosity": "this model has no such setting", "moderation": "not served",
    "service_tier": "there is one tier", "skip_special_tokens": "only text is served", "spaces_between_special_tokens": "only text is served",
    "priority": "answers are written in the order in which they are asked", "lora_request": "the gateway chooses adapters itself",
}  # fmt: skip
"""Why a known field is not served."""
HARMLESS: dict[str, tuple[Any, ...]] = {
    "logit_bias": ({},), "tools": ([],), "functions": ([],), "tool_choice": ("none",), "tool_calls": ([],),
    "response_format": ({"type": "text"},), "frequency_penalty": (0,), "presence_penalty": (0,), "repetition_penalty": (1,),
    "best_of": (1,), "echo": (False,), "top_logprobs": (0,), "modalities": (["text"],), "store": (False,),
    "use_beam_search": (False,), "service_tier": ("auto", "default"), "suffix": ("",), "ignore_eos": (False,), "min_tokens": (0,),
    "skip_special_tokens": (True,), "add_generation_prompt": (True,), "continue_final_message": (False,), "length_penalty": (1,),
    "return_token_ids": (False,), "priority": (0,), "prefix": (False,),
}  # fmt: skip
"""Values of refused fields that ask for nothing; clients send them by habit."""


class Wire(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, values: Any) -> Any:
        """Without fields that are null or ask for nothing. Raises for those that cannot be guarded."""
        if not isinstance(values, dict):
            return values
        kept = {}
        for name, value in values.items():
            if name not in cls.model_fields and name in REFUSED:
                asks_nothing = value is None or any(
                    type(value) is type(none) and value == none for none in _harmless(name)
                )
                if not asks_nothing:
                    raise unsupported(name, REFUSED[name])
            elif value is not None or name not in cls.model_fields:
                kept[name] = value
        return kept


def _harmless(name: str) -> tuple[Any, ...]:
    """With whole numbers as fractions too."""
    values = HARMLESS.get(name, ())
    return (*values, *(float(value) for value in values if type(value) is int))


def unsupported(name: str, why: str) -> PydanticCustomError:
    return PydanticCustomError(
        "unsupported_parameter", "{text}", {"text": f"'{name}' is not served: {why}.", "param": name}
    )


class TextPart(Wire):
    type: Literal["text"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _refuse_media(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("type") not in (None, "text"):
            raise PydanticCustomError(
                "unsupported_content", "only content parts of type 'text' are served: only text is guarded."
            )
        return values


class ChatMessage(Wire):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=256)]
    name: str | None = None
    """Not shown to the model."""
    tool_call_id: str | None = None
    """Not shown to the model."""
    refusal: None = None
    annotations: list[Any] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)

    def message(self) -> Message:
        return Message("system" if self.role == "developer" else self.role, self.text)


class StreamOptions(Wire):
    include_usage: bool = False
    """A last chunk with the tokens used."""
    include_obfuscation: bool = False
    """Without effect."""


class Writing(Wire):
    """What both kinds of answers take."""

    model: str
    """The served model's name; see /v1/models."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """0: the most likely token each time."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    n: Annotated[int, Field(ge=1, le=CHOICES)] = 1
    stop: (
        Annotated[str, Field(min_length=1, max_length=256)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=STOPS)]
        | None
    ) = None
    """Up to four texts before which the answer ends."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """The same seed draws the same answer."""
    user: str | None = None
    """Without effect, as are metadata, safety_identifier and prompt_cache_key."""
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @model_validator(mode="after")
    def _options(self) -> Writing:
        if self.stream_options and not self.stream:
            raise unsupported("stream_options", "the answer is not streamed")
        return self


class ChatRequest(Writing):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=2048)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    """Of the chosen tokens only, for keys with the scope 'logprobs', and not streamed. A refusal has 0 for each, by which it is known."""

    @model_validator(mode="after")
    def _refuse_prefill(self) -> ChatRequest:
        if self.messages[-1].role == "assistant":
            raise unsupported("messages", "a last message of the assistant puts words into its mouth")
        return self

    @property
    def prompt_read(self) -> Prompt:
        return Prompt(tuple(message.message() for message in self.messages))

    @property
    def most_tokens(self) -> int | None:
        both = [n for n in (self.max_tokens, self.max_completion_tokens) if n is not None]
        return min(both, default=None)

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs


class CompletionRequest(Writing):
    prompt: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1)]
    )
    """A text to go on with."""
    logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    """0: of the chosen tokens only, for keys with the scope 'logprobs', and not streamed. A refusal has 0 for each, by which it is
    known."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_tokens(cls, values: Any) -> Any:
        if isinstance(values, dict):
            prompt = values.get("prompt")
            if isinstance(prompt, list) and any(isinstance(part, (int, list)) for part in prompt):
                raise unsupported("prompt", f"token ids are not read: {_TOKENS}")
            if isinstance(values.get("logprobs"), int) and values["logprobs"] > 0:
                raise unsupported("logprobs", "alternatives would show what is held back. 0 is served")
        return values

    @property
    def prompt_read(self) -> Prompt:
        return Prompt.continuing(self.prompt if isinstance(self.prompt, str) else self.prompt[0])

    @property
    def most_tokens(self) -> int | None:
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs is not None


class CheckRequest(Wire):
    """A prompt to decide on, without an answer."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=2048)] | None = None
    prompt: str | None = None
    tenant: str = ""

    @model_validator(mode="after")
    def _asks(self) -> CheckRequest:
        if (self.messages is None) == (self.prompt is None):
            raise PydanticCustomError("nothing_asked", "give either 'messages' or a 'prompt'")
        return self

    @property
    def prompt_read(self) -> Prompt:
        if self.messages:
            return Prompt(tuple(message.message() for message in self.messages))
        return Prompt.ask(self.prompt or "")


class Problem(NamedTuple):
    message: str
    code: str
    param: str | None


def first_problem(errors: list[Any]) -> Problem:
    """What to tell the client of what pydantic found; never what was sent."""
    error = min(errors, key=lambda e: e["type"] not in ("unsupported_parameter", "unsupported_content"))
    place = [str(part) for part in error["loc"] if part not in ("body", "query", "path")]
    context = error.get("ctx") or {}
    param = context.get("param") if error["type"] == "unsupported_parameter" else ".".join(place)
    if error["type"] == "unsupported_parameter":
        return Problem(error["msg"], "unsupported_parameter", param)
    if error["type"] == "unsupported_content":
        return Problem(error["msg"], "unsupported_content", param)
    if error["type"] == "extra_forbidden":
        return Problem(f"'{param}' is not known here, so it is not served.", "unknown_parameter", param)
    if error["type"] == "missing":
        return Problem(f"'{param}' is missing.", "missing_required_parameter", param)
    if error["type"] == "json_invalid":
        return Problem("The body is no JSON.", "invalid_json", None)
    said = error["msg"][0].lower() + error["msg"][1:]
    return Problem(f"'{param}': {said}." if param else f"{error['msg']}.", "invalid_value", param or None)
