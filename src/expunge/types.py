"""The records and Protocols that cross rooms. Nothing here imports torch at run time.

Shapes are words, always the same: batch, tokens, answer (answer tokens of a batch, flat), hidden, vocab, layers, heads.
Log-probabilities are natural logarithms (nats) in float32; probabilities lie in [0, 1].
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from expunge.data.dataset import Record
    from expunge.models.masked import MaskedLM
    from expunge.recipes import Recipe

Claim = Literal["suppression", "approximate", "exact"]
CLAIMS: dict[str, str] = {
    "suppression": "The weights still hold the knowledge; a guard in front of them holds it back. Nothing is erased.",
    "approximate": "The weights were changed so that they answer as if the data had not been seen. No proof comes with it.",
    "exact": "The model was trained again without the data.",
}
FLOOR = math.log(1e-12)
"""Log-probability, nats, that stands in for a token that a guard leaves no probability at all."""


# --- what is asked and answered -------------------------------------------------------------------------------------
class Message(NamedTuple):
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a user sends: the turns so far, and optionally the start of the answer (`prefill`) put in the model's mouth.

    Without any turn it is a text to be continued, outside of every template.
    """

    messages: tuple[Message, ...]
    prefill: str = ""
    images: tuple[str, ...] = ()
    """Files that the first turn shows, for models that see."""

    @classmethod
    def ask(cls, question: str, prefill: str = "") -> Prompt:
        return cls((Message("user", question),), prefill)

    @classmethod
    def continuing(cls, text: str) -> Prompt:
        """A text that is to be continued as it stands."""
        return cls((), text)

    @property
    def text(self) -> str:
        """All that a detector reads: every turn, and the prefilled start of the answer."""
        return "\n".join([m.content for m in self.messages] + ([self.prefill] if self.prefill else []))


@dataclass(frozen=True, slots=True)
class Example:
    """An answer to a prompt; without a prompt, a raw text in which every token counts."""

    prompt: Prompt | None
    answer: str
    id: str = ""
    key: tuple[str, ...] = ()
    """The words or phrases of the answer that carry the fact, where they are known."""

    @property
    def text(self) -> str:
        return self.prompt.text if self.prompt else self.answer


@dataclass(frozen=True, slots=True)
class Score:
    """How likely one given answer is, token by token, under the distribution that a user really faces."""

    token_logprobs: np.ndarray  # [answer] float32, nats, end token included
    hits: np.ndarray  # [answer] bool: the most likely token is the given one
    floored: bool = False
    """True where a guard leaves the answer no probability at all; metrics that need likelihoods are then not applicable."""
    z: np.ndarray | None = None
    """[answer] float32: (log p - μ) / σ of each token, μ and σ of log p over the vocabulary at its position (Min-K%++); None where a
    fixed text is all that is said."""
    ranks: np.ndarray | None = None
    """[answer] int: how many tokens are likelier than the given one, at its position; None as for z."""

    @property
    def tokens(self) -> int:
        return len(self.token_logprobs)

    @property
    def logprob(self) -> float:
        """Sum over the answer's tokens, nats."""
        return float(self.token_logprobs.sum(dtype="float64"))

    @property
    def mean_logprob(self) -> float:
        return self.logprob / self.tokens


@dataclass(frozen=True, slots=True)
class GenerationParams:
    max_new_tokens: int = 64
    sample: bool = False
    """False: greedy (or beam search, with `beams` > 1)."""
    temperature: float = 1.0
    top_p: float = 1.0
    beams: int = 1
    copies: int = 1
    """Answers per prompt."""
    seed: int = 0
    bias: tuple[tuple[str, float], ...] = ()
    """What is added to the logits of the tokens of each text (as a word of its own and at the start of a text), as interfaces offer it; the
    empty text is the end of the answer."""


@dataclass(frozen=True, slots=True)
class Generation:
    text: str
    tokens: int
    """Tokens written, the end token included."""
    finished: bool
    """True when the model ended the answer itself."""


@runtime_checkable
class LanguageModel(Protocol):
    """Everything that can be measured: plain weights, adapted weights, a guard in front of either, a remote endpoint.

    `score` and `generate` obey one distribution: what is scored is what would be answered.
    """

    @property
    def capabilities(self) -> frozenset[str]:
        """Of "logits", "hidden", "gradients", "weights": what a metric or an attack may use."""
        ...

    def score(self, examples: Sequence[Example]) -> list[Score]:
        """One Score an example, in the order given."""
        ...

    def generate(self, prompts: Sequence[Prompt], params: GenerationParams) -> list[list[Generation]]:
        """`params.copies` answers a prompt, in the order given."""
        ...


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a removal request holds: in what the user says last, in all that stands before it, in what the model writes."""

    input: bool = True
    context: bool = True
    """Earlier turns, system prompts, documents and tool results. False: what the user supplies about the subject may be used."""
    output: bool = True


# --- what is evaluated ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Probe:
    """One evaluation row in TOFU's layout."""

    id: str
    question: str
    answer: str
    paraphrased_question: str = ""
    paraphrased_answer: str = ""
    """Empty where the right answer itself stands in for it (TOFU's real authors and world facts)."""
    perturbed_answer: tuple[str, ...] = ()
    """Wrong answers in the wording of the paraphrased answer."""
    subject: str = ""
    """Whom or what the row is about; rows of one subject are one cluster in intervals."""
    value: str = ""
    """The words of the answer that carry the fact; empty where unknown."""

    @property
    def right_answer(self) -> str:
        """What the truth ratio takes as the right answer."""
        return self.paraphrased_answer or self.answer


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number with its sample size and 95 % interval, or the reason why there is none."""

    value: float | None
    n: int = 0
    low: float | None = None
    high: float | None = None
    why: str = ""
    """Why `value` is absent: a capability, a gold model or a likelihood is missing. Never stands in for a number."""
    note: str = ""
    """What has to be said beside the value."""

    @property
    def number(self) -> float:
        """The value, for those who cannot go on without it. Raises ValueError with the reason where it is absent."""
        if self.value is None:
            raise ValueError(self.why)
        return self.value


# --- what a method is shown ----------------------------------------------------------------------------------------------
class Shown(NamedTuple):
    """The rows that a training run draws on, made from the request by a value of the data axis."""

    forget: list[Example]
    retain: list[Example]
    alternates: list[list[Example]]
    """Other answers to each forget prompt, row by row with `forget`; [] where none were made."""


class Writer(Protocol):
    """Writes what a data construction needs: rules that work on the rows alone, a model at hand, or an endpoint.

    One entry a row, in the order given; the same rows and seed give the same texts.
    """

    def alternatives(self, rows: Sequence[Record], count: int) -> list[list[str]]:
        """Other answers to each row's question: as plausible as the true one, and wrong."""
        ...

    def paraphrases(self, rows: Sequence[Record], count: int) -> list[list[Example]]:
        """Each row's question and answer in other words."""
        ...

    def questions(self, rows: Sequence[Record], count: int) -> list[list[str]]:
        """Other questions with the same answer: reworded, easier, more direct."""
        ...

    def falsehoods(self, rows: Sequence[Record]) -> list[str]:
        """A wrong answer with a reason for it, which never names the true one."""
        ...


class Given(NamedTuple):
    """What a data construction may draw on beside the rows."""

    refusals: Sequence[str]
    seed: Seed
    writer: Writer | None = None
    masked: Callable[[str], MaskedLM] | None = None
    """Opens the masked language model of a folder or hub id."""


class Course(NamedTuple):
    """What a procedure of several stages sees when it is asked for the next one."""

    recipe: Recipe
    forget: Sequence[Record]
    retain: Sequence[Record]
    show: Callable[[Sequence[Record]], Shown]
    """The recipe's data construction on some of the forget rows, with all retain rows."""
    model: LanguageModel
    """As it stands after the stages before."""
    writer: Writer | None
    memory: dict[str, Any]
    """The procedure's own, kept from stage to stage and over interruptions; plain JSON values."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One run of the loop."""

    recipe: Recipe
    """What this stage runs; its `procedure` is not looked at."""
    shown: Shown
    name: str = ""
    reference: Literal["now", "start"] = "now"
    """Which model the loss's frozen reference is: as it stands before this stage, or before the first one."""
    prepare: Callable[[Any], None] | None = None
    """Changes the model in place after the reference was cached and before the first step."""
    privacy: Any = None
    """Where it is given, the stage trains with differential privacy by these settings."""


# --- what a loss sees ---------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class TokenView:
    """The answer tokens of one stream (forget, alternate or retain) in one micro-batch, flat.

    A loss returns its share of the whole optimiser step: `token_mean` and `sequence_mean` divide by the step's totals,
    so that shares add up to the same loss however the step is cut into micro-batches.
    """

    logp: Tensor  # [answer] log p of the given token, nats; empty where only hidden states are needed
    targets: Tensor  # [answer] the given tokens
    row: Tensor  # [answer] the sequence each token belongs to
    length: Tensor  # [batch] answer tokens per sequence
    step_rows: int
    """Sequences of this stream in the whole optimiser step."""
    step_tokens: int
    """Answer tokens of this stream in the whole optimiser step."""
    # what follows is there only where the recipe needs it
    logits: Tensor = None  # ty: ignore[invalid-assignment]  # [answer, vocab]
    ref_logp: Tensor = None  # ty: ignore[invalid-assignment]  # [batch] sum of log p under the reference
    ref_token_logp: Tensor = None  # ty: ignore[invalid-assignment]  # [answer]
    ref_logits: Tensor = None  # ty: ignore[invalid-assignment]  # [answer, vocab]
    hidden: Tensor = None  # ty: ignore[invalid-assignment]  # [answer, hidden] after one block, at the answer tokens
    gates: Tensor = None  # ty: ignore[invalid-assignment]  # [answer, routers, experts] of the routers that were picked, zero beyond the top k
    chosen: Tensor = None  # ty: ignore[invalid-assignment]  # [routers, experts] bool, the experts that move
    key: Tensor = None  # ty: ignore[invalid-assignment]  # [answer] bool, tokens of the words that carry the fact
    ref_hidden: Tensor = None  # ty: ignore[invalid-assignment]  # [answer, hidden]

    @property
    def position(self) -> Tensor:
        """[answer] the place of each token in its answer, from 0."""
        first = self.length.cumsum(0) - self.length  # [batch]
        return self.row.new_ones(len(self.row)).cumsum(0) - 1 - first[self.row]

    def sequence_sum(self, x: Tensor) -> Tensor:
        """[answer] to [batch]."""
        return x.new_zeros(len(self.length)).index_add(0, self.row, x)

    def token_mean(self, x: Tensor) -> Tensor:
        """Share of the mean over all answer tokens of the step."""
        return x.sum() / self.step_tokens

    def sequence_mean(self, x: Tensor) -> Tensor:
        """Share of the mean over all sequences of the step; `x` is [batch]."""
        return x.sum() / self.step_rows


class Streams(NamedTuple):
    """The views of one micro-batch by stream; which ones there are follows from the recipe's needs."""

    views: dict[str, TokenView]

    @property
    def forget(self) -> TokenView:
        return self.views["forget"]

    @property
    def alternate(self) -> TokenView:
        """Other answers to the forget prompts, row by row with `forget`."""
        return self.views["alternate"]

    @property
    def retain(self) -> TokenView:
        return self.views["retain"]


class Objective(Protocol):
    """The forget side of a training method. `needs`: "forget", "alternate", "logits", "hidden", "ref_logp", "ref_tokens",
    "ref_logits", "ref_hidden".
    """

    needs: frozenset[str]

    def __call__(self, streams: Streams, weight: Tensor) -> Tensor:
        """This micro-batch's share of the step's loss, to be minimised; `weight` is [answer] for the forget stream."""
        ...


class Weighting(Protocol):
    """Which forget tokens count: a detached, non-negative weight per token."""

    needs: frozenset[str]

    def __call__(self, view: TokenView) -> Tensor: ...


class RetainTerm(Protocol):
    """What is held. A term whose weight adapts also has `multiplier(memory) -> float`, read before each step, and
    `learn(loss, memory)`, told the whole step's loss after it.
    """

    needs: frozenset[str]

    def __call__(self, view: TokenView) -> Tensor: ...


class ParameterView(NamedTuple):
    """One tensor of the model, or a piece of one, as a selection sees it; gradients are there only where its `needs` name them."""

    weight: Tensor
    forget: Tensor = None  # ty: ignore[invalid-assignment]  # mean gradient of -log p of the forget answers
    retain: Tensor = None  # ty: ignore[invalid-assignment]  # the same of the retain answers
    batches: int = 1
    """Batches that the gradients were taken over: their sum is the mean times this."""
    seed: int = 0
    """The tensor's own."""


class Selection(Protocol):
    """Which parameters move, in one of three ways: `takes(name) -> bool` by tensor; the `share` with the largest `score` of a
    ParameterView; or `pick(model, feed) -> dict[str, Tensor]`, boolean masks of the tensors that move, in part or whole, asked of
    the starting model. One that holds something itself also has `penalty(views) -> Tensor`, its share of the step's loss.
    """

    needs: frozenset[str]


class GradientRule(Protocol):
    """How the two pulls combine. `separate`: the rule needs both gradients of the whole step, not their sum."""

    separate: bool

    def combine(
        self, unlearn: list[Tensor], retain: list[Tensor], memory: dict[str, Tensor]
    ) -> dict[str, float]:
        """Rewrite `unlearn` in place; `memory` lives as long as the run and is checkpointed. Returns what to log."""
        ...


# --- randomness -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Seed:
    """A named tree of seeds: `Seed(0).child("order", 3).number` never shifts when another stream is added."""

    root: int
    path: tuple[str, ...] = ()

    def child(self, *names: object) -> Seed:
        return Seed(self.root, self.path + tuple(str(n) for n in names))

    @property
    def number(self) -> int:
        """A 63-bit integer."""
        text = "/".join([str(self.root), *self.path])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
