"""ECO, embedding-corrupted prompts (Liu et al., 2024, arXiv:2406.07933).

    e~_t = e_t + σ · rms · z_t   for every token t of a target name,   z fixed per token id (±1, Gaussian, and thirteen other forms)
    σ*   = the smallest σ at which right answers are no likelier than wrong ones

A prompt in scope reaches the model with the target names made unreadable; other prompts pass untouched, bit for bit. Names are
corrupted wherever they stand: in the prompt, in a prefilled answer, in what the model writes. Otherwise the answer's own
mention of the name brings the fact back. Scoring and generating go through one rule, so a score is what a user would meet.
Needs: a detector, the target names, and forget pairs of the selection half to find σ (wrong answers beside them are better).
Differs from the paper: names anywhere instead of prompt tokens only; ±σ instead of Gaussian noise, which leaves 8 % of tokens
nearly clean; σ in units of the embedding RMS; a search with common random numbers instead of zeroth-order descent (which
`search` brings back), and no look at a retrained model; the same token always becomes the same vector, so asking again averages
nothing away.
Differs from the authors' code: scored with the mask that is deployed; no hooks; beams and copies follow their prompt; no
corruption touches a token or row that was not flagged.
Fails when: the prompt describes the subject without naming it, and against anyone who holds the weights: nothing is erased.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.errors import ConfigError, DataError
from expunge.guards.corruptions import REPLACE, STRENGTHLESS, Kind, Noise, Which, corrupt, replaced, swapped
from expunge.guards.inside import InsideAction
from expunge.guards.strength import BOUNDS, NOISE_SEEDS, Found, pairs, smallest, zeroth_order
from expunge.guards.target_names import TargetNames, WrittenNames
from expunge.models.corrupted import CorruptedInputs
from expunge.models.entities import EntityFinder
from expunge.types import Example, Prompt, Seed

if TYPE_CHECKING:
    from expunge.data.tokenize import Encoded
    from expunge.guards.guard import FitData, Place
    from expunge.models.language_model import TransformerLM


class ECO(Settings):
    claim: ClassVar = "suppression"
    needs: ClassVar = frozenset({"subject", "weights"})

    corruption: Kind = "rademacher"
    """rademacher: ±σ in every dimension; fixed: the same ±σ for all tokens; noise: Gaussian, and set_noise in place of the entry;
    add, subtract: a constant; zero, flip: without a strength; reverse, shuffle: the order of the corrupted prompt tokens; swap: another token."""
    strength: float | None = Field(None, gt=0, le=BOUNDS[1])
    """σ in units of the embedding RMS. None: found on the selection half."""
    dims: float = Field(1.0, gt=0, le=1)
    """Share of the embedding's dimensions that are changed."""
    which: Which = "first"
    """Which dimensions: the first ones, a random set, or each token's largest by size (top), by value (largest) or smallest."""
    tokens: Literal["names", "entities", "prompt"] = "names"
    """names: the target names, anywhere. entities: besides, what a token classifier marks in the prompt. prompt: besides, every
    prompt token but the last."""
    entities: str | None = None
    """The token classifier for tokens=entities: a folder or hub id, such as dslim/bert-base-NER."""
    outside: int = Field(0, ge=0)
    """Its label for tokens of no entity, by index."""
    search: Literal["smallest", "zeroth_order"] = "smallest"
    """How the strength is found: the smallest that will do, or the paper's zeroth-order descent on a surrogate."""
    surrogate: float = Field(0.5, ge=0, le=1)
    """For zeroth_order: the belief in right against wrong answers that a model without the knowledge would have."""

    def fit(self, model: TransformerLM, data: FitData) -> FittedECO:
        """Find σ where the corruption has one and none is given. Raises DataError without names or rows to find it on."""
        if not data.names:
            raise DataError(
                "eco corrupts the target's names, and none is known.\n"
                "Add a 'subject' field (with 'aliases') to the forget rows, so that it knows which words to corrupt."
            )
        if (self.tokens == "entities") != (self.entities is not None):
            raise ConfigError(
                "action eco: tokens=entities and the token classifier go together: --set action.tokens=entities --set action.entities=FOLDER_OR_HUB_ID"
            )
        names, seed = TargetNames(data.names), Seed(data.seed).child("eco").number
        if self.corruption in STRENGTHLESS:
            if self.strength is not None:
                raise ConfigError(
                    f"action eco: corruption '{self.corruption}' has no strength. Leave it out, or take rademacher or noise."
                )
            return FittedECO(self, names, model, 0.0, seed, [])
        if self.strength is not None:
            return FittedECO(self, names, model, self.strength, seed, [])
        sigma, curve = self._find(model, data, names)
        return FittedECO(self, names, model, sigma, seed, curve)

    def _find(self, model: TransformerLM, data: FitData, names: TargetNames) -> Found:
        rows = pairs(data.selection)
        contrast = all(record.perturbed_answer for record in rows)
        if self.search == "zeroth_order" and not contrast:
            raise DataError(
                "action eco: search=zeroth_order compares right with wrong answers, and not every forget pair has wrong ones ('perturbed_answer').\n"
                "Add them, or take --set action.search=smallest."
            )
        written = WrittenNames(names, model.tokenizer)
        seeds = [Seed(data.seed).child("eco", "search", i).number for i in range(NOISE_SEEDS)]

        def measure(sigma: float) -> np.ndarray:
            """[rows] the mean over the noise's draws; they are the same for every σ."""
            if not sigma:
                return _row_statistics(None, model, rows, contrast)
            tried = [FittedECO(self, names, model, sigma, seed, [], written) for seed in seeds]
            return np.mean([_row_statistics(action, model, rows, contrast) for action in tried], axis=0)

        if self.search == "zeroth_order":
            return zeroth_order(measure, self.surrogate)
        return smallest(measure, contrast=contrast)


class FittedECO(InsideAction):
    """The guard's action with its numbers; also the `Corruption` that the model layer applies."""

    def __init__(
        self,
        settings: ECO,
        names: TargetNames,
        model: TransformerLM,
        strength: float,
        seed: int,
        curve: Sequence[Mapping[str, Any]],
        written: WrittenNames | None = None,
    ):
        self.settings, self.names, self.strength, self.curve = settings, names, strength, list(curve)
        self.change = CorruptedInputs(self)
        self.noise = Noise(
            Seed(seed),
            signs=settings.corruption in ("rademacher", "fixed"),
            shared=settings.corruption == "fixed",
        )
        self.end_id, self.vocabulary = model.encoder.end_id, len(model.tokenizer)
        self.written = written or WrittenNames(names, model.tokenizer)
        self.entities = (
            EntityFinder(settings.entities, settings.outside, model.model.device)
            if settings.entities
            else None
        )
        table = model.model.get_input_embeddings()
        with torch.inference_mode():
            sample = table(torch.arange(min(len(model.tokenizer), 4096), device=model.model.device))
        self.rms = float(sample.float().pow(2).mean().sqrt())
        """Root mean square of the embedding entries, as they enter the first layer."""

    # --- which tokens -------------------------------------------------------------------------------------------------
    def prompt_mask(self, encoded: Encoded) -> np.ndarray:
        """[start] bool. Without a name in sight everything but the last token is corrupted, and a lone token too."""
        prompt = encoded.text[: encoded.head]
        spans = self.names.spans(prompt) + (self.entities.spans(prompt) if self.entities else [])
        offsets = encoded.offsets[: encoded.start]
        mask = np.array([any(a < end and start < b for a, b in spans) for start, end in offsets], dtype=bool)
        if self.settings.tokens == "prompt" or not mask.any():
            mask[:-1] = True
        if not mask.any():
            mask[:] = True
        return mask

    def entering(self, encoded: Encoded, mask: np.ndarray) -> Sequence[int]:
        ids, kind = encoded.ids[: encoded.start], self.settings.corruption
        return replaced(ids, mask, kind, self.noise.seed, self.vocabulary)

    def written_as(self, token: int) -> int:
        """A written name has no whole to be reordered in: the end token enters in its place."""
        if self.settings.corruption == "swap":
            return swapped(token, self.noise.seed, self.vocabulary)
        return self.end_id if self.settings.corruption in REPLACE else token

    def written_mask(self, ids: Sequence[int], start: int) -> np.ndarray:
        return self.written.mask(ids, start)

    @property
    def verdicts(self) -> Sequence[bool | None]:
        return self.written.verdicts

    # --- what becomes of them -------------------------------------------------------------------------------------------
    def apply(self, embeddings: Tensor, ids: Sequence[int]) -> Tensor:
        """[n, hidden] to [n, hidden]; the input is not changed."""
        count = max(1, round(self.settings.dims * embeddings.shape[-1]))
        kind, which = self.settings.corruption, self.settings.which
        return corrupt(embeddings, ids, kind, which, count, self.strength * self.rms, self.noise)

    def joined(self, others: Sequence[FittedECO], model: TransformerLM) -> FittedECO:
        """One action for a prompt under several requests: the names of all are corrupted, by the strongest of them."""
        strongest = max([self, *others], key=lambda action: action.strength)
        names = TargetNames([name for action in (self, *others) for name in action.names.names])
        return FittedECO(strongest.settings, names, model, strongest.strength, strongest.noise.seed.root, [])

    def state(self) -> dict[str, Any]:
        return {
            "settings": self.settings.model_dump(mode="json"),
            "names": list(self.names.names),
            "strength": self.strength,
            "seed": self.noise.seed.root,
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
