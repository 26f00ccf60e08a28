"""Concept concentration: reason first whether a request is touched, then erase which one (Yang et al., 2025, arXiv:2505.18672).

    r*   = the likelier of two reasonings: "touches a request, so decline", "touches none, so answer"
    h~_t = LEACE( h_t ; which request )  at every token, behind each chosen block;      answer ~ p_tuned( · | x, r* ; h~ )

A LoRA adapter learns to say one of the two reasonings before it declines (forget rows) or answers (retain rows). That draws what
separates requests from everything else together, so that a linear erasure takes more of it away. On a pocket world, every prompt
flagged, greedy answers state 1.00 of the facts before, 0.38 under the erasure alone, 0.00 under the tuning alone and 0.01 under
both; with the start of the answer given, 1.00, 0.46, 0.63 and 0.17. Asked in other words, 0.29 are declined and 0.02 stated.
The reasoning is never shown: it stands in front of the visible answer, whose distribution given it is what `score` gives.
Needs: the weights; forget and retain rows that are pairs; a second copy of the model in memory. Rows' groups (or subjects) say which
request is which; where there is one, whether it is touched is erased. The erasure takes as many dimensions as there are requests.
Differs from the paper: requests instead of harmful concepts; the reasonings are two fixed texts that say whether, not whom, so there
is nobody in them to leak; LEACE (see `guards.erasure`) instead of trained interventions, block after block on states that are
erased already, and on flagged rows whatever they reason: a guard fails closed. Erasing "touched or not" at
the end of the reasoning alone takes the decision to decline away with it, and facts come back (0.11 to 0.23 after 200 steps).
Differs from the authors' code: code not read.
Fails when: the reasonings' words are no tokens of the model's (a pocket model never learnt them byte by byte in 200 steps); when
requests are as many as dimensions. Answers to prompts flagged by mistake lose facts too, six of ten in so small a model.
Nothing linear is left behind the chosen blocks on rows like those it was fitted on; the weights still hold all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.errors import DataError
from expunge.guards.erasure import Eraser, Moments
from expunge.models.edited import EditedStates
from expunge.models.states import block_number, token_states
from expunge.types import Example, Generation, GenerationParams, Prompt, Score

if TYPE_CHECKING:
    from expunge.data.dataset import Record
    from expunge.guards.guard import FitData, Place
    from expunge.models.language_model import TransformerLM

PART = "reasoning"
"""The adapter's folder within the guard's."""
AT_ONCE = 256
"""Rows whose states are held at a time."""


class COCA(Settings):
    claim: ClassVar = "suppression"
    needs: ClassVar = frozenset({"weights"})
    trains: ClassVar = True

    touched: str = Field("This touches a removal request, so I decline.", min_length=1)
    """The hidden reasoning before a refusal. Take words that the model knows."""
    untouched: str = Field("This touches no removal request, so I answer.", min_length=1)
    """The hidden reasoning before an answer."""
    refusal: str = Field("I do not know.", min_length=1)
    """What is learnt as the answer to forget prompts."""
    layers: list[int] | None = None
    """Blocks behind which is erased; negative numbers count from the last one, -1. None: the middle one. [] erases nothing."""

    def fit(self, model: TransformerLM, data: FitData) -> FittedCOCA:
        """Train the adapter and fit the erasure. Raises DataError without forget and retain pairs."""
        forget, retain = ([row for row in rows if row.shape == "pair"] for rows in (data.forget, data.retain))
        if not forget or not retain:
            raise DataError(
                "coca learns when to decline from question-answer pairs on both sides, and there are none "
                f"on the {'forget' if not forget else 'retain'} side.\nGive --forget and --retain rows with question and answer, or take refuse."
            )
        folder = data.make(
            PART,
            "imitate+nll+alternates+lora",
            [replace(row, alternates=(f"{self.touched} {self.refusal}",)) for row in forget],
            [replace(row, answer=f"{self.untouched} {row.answer}") for row in retain],
        )
        tuned: Any = data.place.open(str(folder))
        count = tuned.model.config.get_text_config().num_hidden_layers
        layers = [(count - 1) // 2] if self.layers is None else self.layers
        blocks = sorted({block_number(tuned, layer) for layer in layers})
        fitted = FittedCOCA(self, tuned, {})
        examples = fitted.reasoned([row.example() for row in (*forget, *retain)])
        labels = request_labels(forget, retain)
        for block in blocks:
            fitted.erasers[block] = _moments(tuned, examples, labels, block, fitted.edits()).eraser()
        return fitted


def request_labels(forget: Sequence[Record], retain: Sequence[Record]) -> np.ndarray:
    """[rows, requests] 1 where a row belongs to a request; retain rows belong to none."""
    names = [row.group or row.subject for row in forget]
    columns = {name: i for i, name in enumerate(dict.fromkeys(names))}
    labels = np.zeros((len(forget) + len(retain), len(columns)))
    labels[np.arange(len(forget)), [columns[name] for name in names]] = 1
    return labels


def _moments(
    lm: TransformerLM, examples: Sequence[Example], labels: np.ndarray, block: int, edits: Any
) -> Moments:
    """Over every token of the rows, which carries its row's label."""
    total = None
    for first in range(0, len(examples), AT_ONCE):
        found = token_states(lm, examples[first : first + AT_ONCE], block, edits)
        part = Moments.of(
            np.concatenate(found), np.repeat(labels[first : first + AT_ONCE], [len(x) for x in found], axis=0)
        )
        total = total + part if total else part
    assert total is not None  # there are rows
    return total


class FittedCOCA:
    def __init__(self, settings: COCA, tuned: TransformerLM, erasers: dict[int, Eraser]):
        self.settings, self.tuned, self.erasers = settings, tuned, erasers

    def score(
        self, model: TransformerLM, examples: Sequence[Example], flagged: Sequence[bool]
    ) -> list[Score]:
        """A flagged answer given the reasoning that its prompt leads to; a raw text counts as the answer to an empty question."""
        plain = model.score(examples)
        asked = self.reasoned([example for example, flag in zip(examples, flagged, strict=True) if flag])
        found = iter(self.tuned.score(asked, EditedStates(self.edits()), [True] * len(asked)))
        return [next(found) if flag else score for score, flag in zip(plain, flagged, strict=True)]

    def generate(
        self,
        model: TransformerLM,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        flagged: Sequence[bool],
    ) -> list[list[Generation]]:
        """Flagged prompts never reach the plain model, and the reasoning never leaves this place."""
        sides = [[p for p, flag in zip(prompts, flagged, strict=True) if flag is side] for side in (True, False)]  # fmt: skip
        asked = [self._with_reasoning(p, r) for p, r in zip(sides[0], self._reasonings(sides[0]), strict=True)]  # fmt: skip
        declined = iter(self.tuned.generate(asked, params, EditedStates(self.edits()), [True] * len(asked)))
        passed = iter(model.generate(sides[1], params))
        return [next(declined) if flag else next(passed) for flag in flagged]

    def reasoned(self, examples: Sequence[Example]) -> list[Example]:
        """The same answers behind the reasoning that each prompt leads to."""
        prompts = [example.prompt or Prompt.ask("") for example in examples]
        return [
            Example(self._with_reasoning(prompt, reasoning), example.answer, example.id)
            for prompt, reasoning, example in zip(prompts, self._reasonings(prompts), examples, strict=True)
        ]

    def _reasonings(self, prompts: Sequence[Prompt]) -> list[str]:
        """The likelier one for each prompt, whatever start of the answer it puts in; `touched` where that cannot be told."""
        both = (self.settings.touched, self.settings.untouched)
        scores = self.tuned.score([Example(Prompt(p.messages), text) for p in prompts for text in both])
        likely = np.array([s.token_logprobs[:-1].sum() for s in scores]).reshape(-1, 2)  # no end token
        return [both[int(touched < untouched)] for touched, untouched in likely]

    def _with_reasoning(self, prompt: Prompt, reasoning: str) -> Prompt:
        return replace(prompt, prefill=f"{reasoning} {prompt.prefill}".strip())

    def edits(self) -> dict[int, Any]:
        return {block: _Edit(eraser, self.tuned.model.device) for block, eraser in self.erasers.items()}

    def state(self) -> dict[str, Any]:
        erasers = {str(block): eraser._asdict() for block, eraser in self.erasers.items()}
        return {"settings": self.settings.model_dump(mode="json"), "erasers": erasers}

    @classmethod
    def from_state(cls, state: dict[str, Any], model: TransformerLM, place: Place) -> FittedCOCA:
        tuned: Any = place.open(str(place.folder / PART))
        erasers = {int(block): Eraser(**parts) for block, parts in state["erasers"].items()}
        return cls(COCA.parse(state["settings"], "guard"), tuned, erasers)


class _Edit:
    """An eraser on the model's device, in float32 whatever the model runs in."""

    def __init__(self, eraser: Eraser, device: torch.device):
        self.parts = Eraser(*(torch.as_tensor(part, dtype=torch.float32, device=device) for part in eraser))

    def __call__(self, hidden: Tensor) -> Tensor:
        return self.parts(hidden.float()).to(hidden.dtype)
