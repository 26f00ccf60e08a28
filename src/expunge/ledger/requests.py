"""A removal request: whom or what it is about, where it holds, what is done at once, and from when until when."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import ValidationError, ValidationInfo, field_validator, model_validator

from expunge import catalog
from expunge.config import Settings
from expunge.data.dataset import Record
from expunge.errors import StorageError, did_you_mean
from expunge.types import Scope

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
TENANT = re.compile(r"[A-Za-z0-9._@-]{0,100}")
TELLING = 3
"""Letters of a word that gives a name away."""
SHORT = 4
"""A name with fewer letters is found where nobody meant it."""

KEPT = {"kept": True}
"""Context of a request that was checked when it was written: what is refused later keeps no ledger from opening."""

Status = Literal["pending", "active", "withdrawn", "expired"]


class LedgerError(StorageError):
    """A ledger that is missing, broken, of another program or of another key. It is never replaced by an empty one."""


class Pair(Settings):
    question: str
    answer: str = ""

    @field_validator("question")
    @classmethod
    def _asks(cls, question: str) -> str:
        if not question.strip():
            raise ValueError("it is empty")
        return question


class RemovalRequest(Settings):
    id: str = ""
    """Its name for good; it stays readable after the request is gone, so it may hold no word of a name. Default: a random one."""
    tenant: str = ""
    """Whose users it binds; empty: everybody."""
    subject: str = ""
    """Whom or what it is about, by name."""
    aliases: tuple[str, ...] = ()
    """Other names of the subject."""
    statements: tuple[str, ...] = ()
    """Sentences that may no longer be told."""
    pairs: tuple[Pair, ...] = ()
    """Questions that may no longer be answered."""
    scope: Scope = Scope()
    """Where it holds."""
    action: str | dict[str, Any] = "refuse"
    """What answers at once: a guard action, or one with settings such as {"name": "eco", "strength": 2.0}."""
    method: str = ""
    """A guard recipe that is fitted behind the action and takes its place, such as eco; empty: none."""
    effective: datetime | None = None
    """From when on; default: at once. A time without a zone is UTC."""
    expires: datetime | None = None
    """Until when; default: until it is withdrawn."""
    note: str = ""
    """For whoever administers it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The subject and its aliases, each once."""
        return tuple(dict.fromkeys(name for name in (self.subject, *self.aliases) if name))

    @property
    def action_name(self) -> str:
        return self.action if isinstance(self.action, str) else self.action["name"]

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why it may stop more than is meant."""
        return tuple(doubt for name in self.names if (doubt := _doubt(name)))

    def records(self) -> list[Record]:
        """As rows of a forget set: the subject, each statement, each pair."""
        known: dict[str, Any] = {"subject": self.subject, "group": self.subject, "aliases": self.aliases}
        rows = [Record("subject", **known)] if self.subject else []
        rows += [
            Record(f"statement-{i}", text=text, **known) for i, text in enumerate(self.statements, start=1)
        ]
        return rows + [
            Record(f"pair-{i}", pair.question, pair.answer, **known)
            for i, pair in enumerate(self.pairs, start=1)
        ]

    def held_names(self, text: str) -> list[str]:
        """Words of the names that stand in a text that everybody may read."""
        words = {word for name in self.names for word in _words(name) if len(word) >= TELLING}
        return sorted(words.intersection(_words(text)))

    def holds_name(self, text: str) -> bool:
        """Whether a whole name stands in a text."""
        words = f" {' '.join(_words(text))} "
        return any(f" {' '.join(_words(name))} " in words for name in self.names)

    @classmethod
    def _explain(cls, error: ValidationError, where: str) -> str:
        """Without what was given: it may be the text that nobody is to read."""
        lines = []
        for problem in error.errors(include_input=False, include_url=False):
            name = ".".join(
                str(part) for part in problem["loc"] if not str(part).startswith(("function-", "dict["))
            )
            field = f"'{name}': " if name else ""
            if problem["type"] == "extra_forbidden":
                why = f"there is no such field.{did_you_mean(name, cls.model_fields)}"
            else:
                why = problem["msg"].removeprefix("Value error, ") + "."
            lines.append(f"{where}: {field}{why[0].lower()}{why[1:]}")
        return "\n".join([*lines, f"A request takes: {', '.join(cls.model_fields)}."])

    @field_validator("subject", "aliases", "statements", mode="after")
    @classmethod
    def _trimmed(cls, value: Any) -> Any:
        if isinstance(value, str):
            return value.strip()
        if not all(text.strip() for text in value):
            raise ValueError("one of them is empty")
        return tuple(dict.fromkeys(text.strip() for text in value))

    @field_validator("scope", mode="before")
    @classmethod
    def _whole_scope(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name in value:
                if name not in Scope.__dataclass_fields__:
                    raise ValueError(
                        f"there is no '{name}' in it, only {', '.join(Scope.__dataclass_fields__)}"
                    )
        return value

    @field_validator("action")
    @classmethod
    def _known_action(cls, action: str | dict[str, Any]) -> str | dict[str, Any]:
        name = action if isinstance(action, str) else action.get("name")
        known = catalog.entries("action")
        if not isinstance(name, str) or name not in known:
            near = did_you_mean(name, known) if isinstance(name, str) else ""
            raise ValueError(f"there is no such action.{near} There are: {', '.join(known)}")
        return action

    @field_validator("effective", "expires")
    @classmethod
    def _in_utc(cls, at: datetime | None) -> datetime | None:
        return None if at is None else in_utc(at)

    @model_validator(mode="after")
    def _makes_sense(self, info: ValidationInfo) -> Self:
        if info.context is KEPT:
            return self
        if self.id and not ID.fullmatch(self.id):
            raise ValueError(
                "'id' takes up to 100 letters, digits, dots, '-' and '_', and begins with one of the first two"
            )
        if not TENANT.fullmatch(self.tenant):
            raise ValueError("'tenant' takes up to 100 letters, digits, dots, '-', '_' and '@'")
        if not (self.subject or self.statements or self.pairs):
            raise ValueError("it asks for nothing: give a subject, statements or pairs")
        if self.aliases and not self.subject:
            raise ValueError("'aliases' are other names of a subject: give the subject too")
        for name in self.names:
            if sum(letter.isalnum() for letter in name) < 2:
                raise ValueError(
                    f"the name '{name}' has fewer than two letters and would be found everywhere"
                )
        if held := self.held_names(self.id):
            raise ValueError(
                f"'id' holds '{held[0]}', a word of the names; ids stay readable for ever, so choose another or none"
            )
        if not (self.scope.input or self.scope.context or self.scope.output):
            raise ValueError("'scope' is false everywhere, so it would hold nowhere")
        if self.effective and self.expires and self.expires <= self.effective:
            raise ValueError("it 'expires' before it is 'effective'")
        return self


class Artifact(Settings):
    """What was made for a request."""

    folder: str
    sha256: str
    recipe: str
    recorded: datetime


class Evidence(Settings):
    """What was measured for a request."""

    kind: str
    """evaluation, audit ..."""
    digest: str
    """SHA-256 of the file."""
    summary: dict[str, Any]
    """Headline figures."""
    path: str
    recorded: datetime


@dataclass(frozen=True)
class Entry:
    """A request as the ledger holds it."""

    id: str
    tenant: str
    version: int
    """1, and one more with each change."""
    status: Status
    """Only an active one is enforced."""
    epoch: int
    """Number of the history row that last changed what is enforced of it."""
    created: datetime
    effective: datetime | None
    expires: datetime | None
    scope: Scope
    action: str | dict[str, Any]
    """Of one whose key is destroyed, the name alone."""
    method: str
    request: RemovalRequest | None
    """None once its key is destroyed."""
    artifacts: tuple[Artifact, ...] = field(default=())
    """Of this version."""
    evidence: tuple[Evidence, ...] = field(default=())
    """Of this version."""

    def describe(self, texts: bool = False) -> dict[str, Any]:
        """As plain values. Without `texts` nothing tells what the request is about."""
        request = self.request
        return {
            **{
                name: getattr(self, name) for name in ("id", "tenant", "version", "status", "epoch", "method")
            },
            **{name: _when(getattr(self, name)) for name in ("created", "effective", "expires")},
            "scope": {name: getattr(self.scope, name) for name in Scope.__dataclass_fields__},
            "action": self.action if texts or isinstance(self.action, str) else self.action["name"],
            "holds": request
            and {
                "names": len(request.names),
                "statements": len(request.statements),
                "pairs": len(request.pairs),
            },
            **({"request": request and request.model_dump(mode="json")} if texts else {}),
            "artifacts": [made.model_dump(mode="json") for made in self.artifacts],
            "evidence": [found.model_dump(mode="json") for found in self.evidence],
            "claim": "suppression",
        }


def in_utc(at: datetime) -> datetime:
    """A time without a zone is UTC already. Raises ValueError."""
    try:
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except OverflowError:
        raise ValueError("it is out of range") from None


def _when(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _doubt(name: str) -> str:
    letters = sum(letter.isalnum() for letter in name)
    if letters < SHORT:
        return f"the name '{name}' has only {letters} letters: other words may be taken for it"
    if len(name.split()) == 1 and name.islower():
        return f"the name '{name}' is one word in small letters: it is found wherever the word is used"
    return ""
