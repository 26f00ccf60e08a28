"""ECO, embedding-corrupted prompts (Liu et al., 2024, arXiv:2406.07933).

    e~_t = e_t + σ · rms · z_t   for every token t of a target name,   z fixed per token id (±1 or Gaussian)
    σ*   = the smallest σ at which right answers are no likelier than wrong ones

A prompt in scope reaches the model with the target names made unreadable; other prompts pass untouched, bit for bit. Names are
corrupted wherever they stand: in the prompt, in a prefilled answer, in what the model writes. Otherwise the answer's own
mention of the name brings the fact back. Scoring and generating go through one rule, so a score is what a user would meet.
Needs: a detector, the target names, and forget pairs of the selection half to find σ (wrong answers beside them are better).
Differs from the paper: names anywhere instead of prompt tokens only; ±σ instead of Gaussian noise, which leaves 8 % of tokens
nearly clean; σ in units of the embedding RMS; a search with common random numbers instead of zeroth-order descent, and no
look at a retrained model; the same token always becomes the same vector, so asking again averages nothing away.
Differs from the authors' code: scored with the mask that is deployed; no hooks; beams and copies follow their prompt.
Fails when: the prompt describes the subject without naming it, and against anyone who holds the weights: nothing is erased.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.errors import ConfigError, DataError
from expunge.guards.target_names import TargetNames, WrittenNames
from expunge.models.corrupted import CorruptedInputs
from expunge.types import Example, Generation, GenerationParams, Prompt, Score, Seed

if TYPE_CHECKING:
    from expunge.data.tokenize import Encoded
    from expunge.guards.guard import FitData, Place
    from expunge.models.language_model import TransformerLM

Kind = Literal["rademacher", "noise", "zero", "flip"]
SEARCH = (0.25, 64.0)
"""Bounds of σ, in units of the embedding RMS; beyond the upper one nothing of the token is left to hide."""
NOISE_SEEDS = 8
"""Draws of the noise that every σ of the search is averaged over: the same for each σ."""


class ECO(Settings):
    claim: ClassVar = "suppression"
    needs: ClassVar = frozenset({"subject", "weights"})

    corruption: Kind = "rademacher"
    """rademacher: ±σ in every dimension; noise: Gaussian; zero and flip: set to zero or negate, without a strength."""
    strength: float | None = Field(None, gt=0, le=SEARCH[1])
    """σ in units of the embedding RMS. None: found on the selection half."""
    dims: float = Field(1.0, gt=0, le=1)
    """Share of the embedding's dimensions that are changed."""
    which: Literal["first", "top"] = "first"
    """Which dimensions: the first ones, or each token's largest."""
    tokens: Literal["names", "prompt"] = "names"
    """names: the target names, anywhere. prompt: besides, every prompt token but the last."""

    def fit(self, model: TransformerLM, data: FitData) -> FittedECO:
        """Find σ where the corruption has one and none is given. Raises DataError without names or rows to find it on."""
        if not data.names:
            raise DataError(
                "eco corrupts the target's names, and none is known.\n"
                "Add a 'subject' field (with 'aliases') to the forget rows, so that it knows which words to corrupt."
            )
        strength, curve = self.strength or 0.0, []
        if self.corruption in ("zero", "flip"):
            if self.strength is not None:
                raise ConfigError(
                    f"action eco: corruption '{self.corruption}' has no strength. Leave it out, or take rademacher or noise."
                )
        elif self.strength is None:
            strength, curve = find_strength(self, model, data)
        return FittedECO(
            self, TargetNames(data.names), model, strength, Seed(data.seed).child("eco").number, curve
        )


class FittedECO:
    """The guard's action with its numbers; also the `Corruption` that the model layer applies."""

    def __init__(
        self,
        settings: ECO,
        names: TargetNames,
        model: TransformerLM,
        strength: float,
        seed: int,
        curve: list[dict[str, float]],
        written: WrittenNames | None = None,
    ):
        self.settings, self.names, self.strength, self.curve = settings, names, strength, curve
        self.seed = Seed(seed)
        self.written = written or WrittenNames(names, model.tokenizer)
        table = model.model.get_input_embeddings()
        with torch.inference_mode():
            sample = table(torch.arange(min(len(model.tokenizer), 4096), device=model.model.device))
        self.rms = float(sample.float().pow(2).mean().sqrt())
        """Root mean square of the embedding entries, as they enter the first layer."""
        self._shifts: dict[int, Tensor] = {}

    def score(
        self, model: TransformerLM, examples: Sequence[Example], flagged: Sequence[bool]
    ) -> list[Score]:
        return model.score(examples, CorruptedInputs(self), flagged)

    def generate(
        self,
        model: TransformerLM,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        flagged: Sequence[bool],
    ) -> list[list[Generation]]:
        return model.generate(prompts, params, CorruptedInputs(self), flagged)

    # --- which tokens -------------------------------------------------------------------------------------------------
    def prompt_mask(self, encoded: Encoded) -> np.ndarray:
        """[start] bool. Without a name in sight everything but the last token is corrupted, and a lone token too."""
        spans = self.names.spans(encoded.text[: encoded.head])
        offsets = encoded.offsets[: encoded.start]
        mask = np.array([any(a < end and start < b for a, b in spans) for start, end in offsets], dtype=bool)
        if self.settings.tokens == "prompt" or not mask.any():
            mask[:-1] = True
        if not mask.any():
            mask[:] = True
        return mask

    def written_mask(self, ids: Sequence[int], start: int) -> np.ndarray:
        return self.written.mask(ids, start)

    @property
    def verdicts(self) -> Sequence[bool | None]:
        return self.written.verdicts

    # --- what becomes of them -------------------------------------------------------------------------------------------
    def apply(self, embeddings: Tensor, ids: Sequence[int]) -> Tensor:
        """[n, hidden] to [n, hidden]; the input is not changed."""
        hidden = embeddings.shape[-1]
        if self.settings.corruption == "zero":
            shift = -embeddings
        elif self.settings.corruption == "flip":
            shift = -2 * embeddings
        else:
            shift = torch.stack([self._shift(i, hidden) for i in ids]).to(embeddings)
        count = max(1, round(self.settings.dims * hidden))
        if count < hidden:
            change = torch.zeros_like(embeddings, dtype=torch.bool)
            if self.settings.which == "first":
                change[:, :count] = True
            else:
                change.scatter_(1, embeddings.abs().topk(count, dim=1).indices, True)
            shift = torch.where(change, shift, 0)
        return embeddings + shift

    def _shift(self, token: int, hidden: int) -> Tensor:
        """[hidden] what is added to a token id: one fixed draw, made on the CPU so that every device gives the same."""
        if token not in self._shifts:
            generator = torch.Generator().manual_seed(self.seed.child("token", token).number)
            noise = torch.randn(hidden, generator=generator)
            if self.settings.corruption == "rademacher":
                noise = noise.sign()
            self._shifts[token] = self.strength * self.rms * noise
        return self._shifts[token]

    def state(self) -> dict[str, Any]:
        return {
            "settings": self.settings.model_dump(mode="json"),
            "names": list(self.names.names),
            "strength": self.strength,
            "seed": self.seed.root,
            "rms": self.rms,
            "curve": self.curve,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], model: TransformerLM, place: Place) -> FittedECO:
        return cls(
            ECO.parse(state["settings"], "guard"),
            TargetNames(state["names"]),
            model,
            state["strength"],
            state["seed"],
            state["curve"],
        )


def find_strength(settings: ECO, model: TransformerLM, data: FitData) -> tuple[float, list[dict[str, float]]]:
    """The smallest σ that reaches the level, and the whole curve that was seen.

    With wrong answers beside the rows, the statistic is the mean of log p(right) - mean log p(wrong) per token, and the level
    is twice its standard error: no likelier than wrong, as far as so many rows can tell. Without them it is mean log p(answer) per token, and the level is the
    plateau at the upper bound plus 5 % of the way down to it. No retrained model is looked at.
    """
    rows = [record for record in data.selection if record.shape == "pair"]
    if not rows:
        raise DataError(
            "eco finds its strength on question-answer pairs of the forget set, and there are none.\n"
            "Add pairs, or set the strength yourself: --set action.strength=4"
        )
    contrast = all(record.perturbed_answer for record in rows)
    written = WrittenNames(TargetNames(data.names), model.tokenizer)
    seeds = [Seed(data.seed).child("eco", "search", i).number for i in range(NOISE_SEEDS)]

    def measure(strength: float) -> dict[str, float]:
        per_row = np.mean(
            [
                _row_statistics(
                    FittedECO(settings, written.names, model, strength, s, [], written), model, rows, contrast
                )
                for s in seeds
            ],
            axis=0,
        )
        return {
            "strength": strength,
            "mean": float(per_row.mean()),
            "standard_error": float(per_row.std(ddof=1) / len(rows) ** 0.5) if len(rows) > 1 else 0.0,
        }

    low, high = SEARCH
    curve = {high: measure(high)}
    start = float(_row_statistics(None, model, rows, contrast).mean())
    plateau = curve[high]["mean"] + 0.05 * (start - curve[high]["mean"])

    def reached(strength: float) -> bool:
        if strength not in curve:
            curve[strength] = measure(strength)
        point = curve[strength]
        return point["mean"] <= (2 * point["standard_error"] if contrast else plateau)

    below, strength = low, low
    while not reached(strength) and strength < high:
        below, strength = strength, min(high, 2 * strength)
    for _ in range(3):  # the σ sought lies in (below, strength]
        middle = (below * strength) ** 0.5
        if below == strength:
            break
        below, strength = (below, middle) if reached(middle) else (middle, strength)
    points = [{"strength": 0.0, "mean": start, "standard_error": 0.0}, *(curve[key] for key in sorted(curve))]
    return strength, [
        {**point, "reached": bool(point["strength"] and reached(point["strength"]))} for point in points
    ]


def _row_statistics(
    corruption: FittedECO | None, model: TransformerLM, rows: Sequence[Any], contrast: bool
) -> np.ndarray:
    """[rows] the search's statistic, nats per token, with every prompt in scope."""
    asked = [Prompt.ask(record.question) for record in rows]
    right = [record.paraphrased_answer or record.answer if contrast else record.answer for record in rows]
    examples = [Example(prompt, answer) for prompt, answer in zip(asked, right, strict=True)]
    examples += [
        Example(prompt, wrong)
        for prompt, record in zip(asked, rows, strict=True)
        for wrong in (record.perturbed_answer if contrast else ())
    ]
    means = np.array(
        [
            score.mean_logprob
            for score in model.score(
                examples, CorruptedInputs(corruption) if corruption else None, [True] * len(examples)
            )
        ]
    )
    found, rest = means[: len(rows)], means[len(rows) :]
    if contrast:
        cuts = np.cumsum([len(record.perturbed_answer) for record in rows])[:-1]
        found = found - np.array([part.mean() for part in np.split(rest, cuts)])
    return found
