"""What the gateway asks of whatever writes the answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from expunge.types import GenerationParams, Prompt


@dataclass(frozen=True, slots=True)
class Ask:
    """One answer to one prompt, decided on already."""

    prompt: Prompt
    params: GenerationParams
    """`copies` and `beams` are 1; `seed` is this answer's own."""
    action: Any = None
    """The fitted action that answers in place of the plain model; None: the plain model."""
    tenant: str = ""
    """Whose request it is: nothing that is kept between requests may be shared over tenants."""
    logprobs: bool = False
    """Whether the pieces carry the log-probabilities of their tokens."""


class Piece(NamedTuple):
    """What was written since the last piece."""

    text: str
    tokens: int
    """Tokens written so far, over all pieces, the end token included."""
    finish: str = ""
    """In the last piece: "stop" where the model ended the answer itself, "length" where it was cut."""
    logprobs: tuple[tuple[str, float], ...] = ()
    """Each token of this piece and its log-probability, nats, under the distribution that a user faces."""


class BusyError(Exception):
    """The queue is full: the gateway answers 503 with Retry-After."""


class BackendError(Exception):
    """The backend cannot answer now (an upstream is gone, a forward failed). The message says what, and holds no prompt text."""


class Backend(Protocol):
    name: str
    """The model's public name."""
    context: int
    """Tokens of a prompt and its answer together, at most."""

    def count(self, prompt: Prompt) -> int:
        """Tokens of a prompt."""
        ...

    def refuse_action(self, action: Any) -> None:
        """Raises ConfigError where this backend cannot carry a fitted action out, saying which can."""
        ...

    def stream(self, ask: Ask) -> AsyncGenerator[Piece]:
        """The answer as it is written. Closing the generator ends the work. Raises BusyError, BackendError."""
        ...

    async def check(self) -> str:
        """Why it answers nothing now, in one sentence; empty where it may answer."""
        ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...
