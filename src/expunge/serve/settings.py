"""What a server can be told."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt

from expunge.config import Settings
from expunge.guards.actions.refuse import Refuse


class ServeSettings(Settings):
    refusal: str = Field(Refuse().text, min_length=1)
    """What is said in place of an answer, the same for every request."""
    no_auth: bool = False
    """Nobody needs a key, and everybody is an administrator."""
    allow_plain: bool = False
    """Administrators may ask without the guard. Each use is written to the ledger."""
    max_concurrent: PositiveInt = 64
    """Answers under way together; further ones are told to come back."""
    per_key: PositiveInt = 32
    """Answers under way together for one key."""
    requests_per_minute: PositiveInt = 1_200
    """Of a key that has no limit of its own."""
    tokens_per_minute: PositiveInt = 1_000_000
    """Of a key that has no limit of its own: prompt and answer together."""
    answer_tokens: PositiveInt = 256
    """Tokens of a chat answer where the client names no number."""
    body_bytes: PositiveInt = 1 << 20
    """Longer bodies are refused before they are read."""
    head_seconds: PositiveFloat = 20.0
    """To send a request's first lines in."""
    body_seconds: PositiveFloat = 20.0
    """To send a body in."""
    write_seconds: PositiveFloat = 30.0
    """For which a client may take nothing of its answer."""
    answer_seconds: PositiveFloat = 600.0
    """For a whole answer."""
    decide_seconds: PositiveFloat = 10.0
    """For the decision on a prompt. A decision that comes later counts as a broken guard: there is no answer."""
    ping_seconds: PositiveFloat = 15.0
    """Between signs of life in a stream that has nothing to say."""
    canary_seconds: PositiveFloat = 60.0
    """Between two checks that the guard is live and the model there."""
    stop_seconds: PositiveFloat = 10.0
    """That answers under way get when the server stops."""
    decisions_kept: PositiveInt = 1_000
    """Recent decisions in memory, for the console."""
    adapters: str = ""
    """With vLLM: a folder that it sees too, in which adapters are written. By default a temporary one of this machine."""
