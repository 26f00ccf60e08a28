"""What a server can be told."""

from __future__ import annotations

from expunge.config import Settings
from expunge.guards.actions.refuse import Refuse


class ServeSettings(Settings):
    refusal: str = Refuse().text
    """What is said in place of an answer, the same for every request."""
    no_auth: bool = False
    """Nobody needs a key, and everybody is an administrator."""
    allow_plain: bool = False
    """Administrators may ask without the guard. Each use is written to the ledger."""
    max_concurrent: int = 64
    """Answers under way together; further ones are told to come back."""
    per_key: int = 32
    """Answers under way together for one key."""
    requests_per_minute: int = 1_200
    """Of a key that has no limit of its own."""
    tokens_per_minute: int = 1_000_000
    """Of a key that has no limit of its own: prompt and answer together."""
    answer_tokens: int = 256
    """Tokens of a chat answer where the client names no number."""
    body_bytes: int = 1 << 20
    """Longer bodies are refused before they are read."""
    body_seconds: float = 20.0
    """To send a body in."""
    write_seconds: float = 30.0
    """For which a client may take nothing of its answer."""
    answer_seconds: float = 600.0
    """For a whole answer."""
    decide_seconds: float = 10.0
    """For the decision on a prompt. A decision that comes later counts as a broken guard: there is no answer."""
    ping_seconds: float = 15.0
    """Between signs of life in a stream that has nothing to say."""
    canary_seconds: float = 60.0
    """Between two checks that the guard is live."""
    stop_seconds: float = 10.0
    """That answers under way get when the server stops."""
    decisions_kept: int = 1_000
    """Recent decisions in memory, for the console."""
