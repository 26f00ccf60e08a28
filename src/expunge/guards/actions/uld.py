"""ULD, unlearning from logit difference (Ji et al., 2024, arXiv:2406.08607).

    log p~(v) = l_v - w · log p_a(v) - log Z   for v in S,   0 probability elsewhere
    S = { v : l_v >= min( k-th largest l, max l + log ρ ) },   k = max(1, floor(ρ · vocabulary));   end tokens beside S: l_v

The assistant p_a is the target's first blocks with LoRA, trained to know the forget rows and to know nothing (uniform) anywhere
else. Where it knows, what the target would say is taken off; where it is uniform, a constant is, which changes nothing. The
target's weights are not touched: nothing is erased, it is held back.
Needs: a detector; forget rows that are pairs and retain rows, or an assistant made before.
Differs from the paper: a detector gates it, and only prompts in scope meet the subtraction (`uld+always` is the paper's form);
one distribution for scoring and writing, where the paper's truth ratios come from another one than its answers.
Differs from the authors' code: a positive weight; the assistant's logits are normalised before they are taken off, so its offset
makes no difference; blocked tokens are impossible (in the release they count 0 while writing, and keep the target's logits while
scoring); at least one token is kept; an end token is always possible, and outside S nothing is taken off it, or answers would
stop in mid-sentence; the uniform term reads answer tokens, not prompts and padding.
Fails when: the target is surer of a fact than the assistant is, or sure beyond ρ: only the fact is then left in S. The assistant
is never quite uniform on what must stay, so a higher weight harms it where nothing gates. Wrong answers fall off S, and truth
ratios are not applicable (keep=1 keeps all). In a small vocabulary the floor(ρ · vocabulary) tokens are soon all of them absurd.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from expunge.artifacts.manifest import hash_files
from expunge.config import Settings
from expunge.errors import ConfigError, DataError, ModelError
from expunge.guards.guard import tokenizer_hash
from expunge.guards.inside import InsideAction
from expunge.models.subtracted import Subtracted, disturbance
from expunge.types import GenerationParams, Seed

if TYPE_CHECKING:
    from expunge.guards.guard import FitData, Place
    from expunge.models.language_model import TransformerLM

PART = "assistant"
ROWS = 64
"""Retain rows, at most, on which the disturbance is measured."""


class ULD(Settings):
    claim: ClassVar = "suppression"
    needs: ClassVar = frozenset({"weights"})
    trains: ClassVar = True

    weight: float = Field(0.75, ge=0)
    """How much of the assistant's log-probabilities is taken off. 0.75 for TOFU in the paper, 0.8 in its code; 0.5 for books."""
    keep: float = Field(0.01, gt=0, le=1)
    """ρ: tokens are kept that are this likely beside the likeliest, and at least this share of the vocabulary. 1 keeps all."""
    assistant: str | None = None
    """A run folder made before by the method 'assistant'. None: trained as part of this guard, by the settings below."""
    blocks: int = Field(8, ge=1)
    """How many of the target's first blocks the assistant is made of."""
    rank: int = Field(32, ge=1)
    """Of the assistant's LoRA: 32 in the paper, 16 in its code."""
    alpha: int = Field(32, ge=1)
    retain_weight: float = Field(6.5, ge=0)
    """Weight of the uniform term: 6.5 in the paper, 5 in its code."""

    def fit(self, model: TransformerLM, data: FitData) -> FittedULD:
        """Train the assistant, or open the one given. Raises ConfigError, DataError, ModelError where there can be none."""
        folder, sha256 = None, ""
        if self.assistant is not None:
            folder = Path(self.assistant).resolve()
            if not folder.is_dir():
                raise ModelError(
                    f"action.assistant={self.assistant}: no such folder. Give a run of the method 'assistant', or leave it out "
                    "and one is trained."
                )
            sha256 = hash_files(folder)
        made = folder or self._train(model, data)
        assistant = open_assistant(str(made), model, data.place)
        fitted = FittedULD(self, model, assistant, None if folder is None else str(folder), sha256)
        rows = [row.example() for row in data.retain if row.shape != "subject"]
        if rows:
            rng = np.random.default_rng(Seed(data.seed).child("uld").number)
            drawn = [rows[i] for i in rng.permutation(len(rows))[:ROWS]]
            fitted.disturbance = {"kl": disturbance(model, fitted.subtracted, drawn), "rows": len(drawn)}
        return fitted

    def _train(self, model: TransformerLM, data: FitData) -> Path:
        count = model.model.config.get_text_config().num_hidden_layers
        if self.blocks > count:
            raise ConfigError(
                f"action uld: the assistant would be the first {self.blocks} blocks, and this model has {count}. "
                f"Take a quarter of them or so: --set action.blocks={max(1, count // 4)}"
            )
        if not any(row.shape != "subject" for row in data.retain):
            raise DataError(
                "uld trains an assistant that must know nothing but the forget rows, and there are no retain rows to hold it to "
                "that.\nAdd --retain FILE, or give an assistant made before: --set action.assistant=RUN"
            )
        return data.make(
            PART,
            "assistant",
            procedure={"blocks": self.blocks},
            adapter={"rank": self.rank, "alpha": self.alpha},
            retain_weight=self.retain_weight,
        )


class FittedULD(InsideAction):
    def __init__(
        self,
        settings: ULD,
        model: TransformerLM,
        assistant: TransformerLM,
        folder: str | None,
        sha256: str,
        disturbance: dict[str, Any] | None = None,
    ):
        """`folder` and `sha256`: of an assistant that does not lie in the guard's own folder."""
        self.settings, self.folder, self.sha256 = settings, folder, sha256
        self.disturbance = disturbance
        """What the subtraction would do to retain answers without a detector: `kl`, nats per token, over `rows`."""
        ends = model.generation_config(GenerationParams()).eos_token_id
        network: Any = assistant.model.to(device=model.model.device, dtype=model.model.dtype)
        self.change = self.subtracted = Subtracted(network, settings.weight, settings.keep, ends)

    def state(self) -> dict[str, Any]:
        return {
            "settings": self.settings.model_dump(mode="json"),
            "assistant": self.folder,
            "sha256": self.sha256,
            "disturbance": self.disturbance,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], model: TransformerLM, place: Place) -> FittedULD:
        """Raises ModelError when an assistant that lies elsewhere is gone, or is another one by now."""
        folder, sha256 = state["assistant"], state["sha256"]
        if folder is not None and hash_files(Path(folder)) != sha256:
            raise ModelError(
                f"{folder}: this guard was fitted with the assistant that was there, and it is gone or has changed.\n"
                "Put it back, or fit the guard again."
            )
        assistant = open_assistant(folder or str(place.folder / PART), model, place)
        settings = ULD.parse(state["settings"], "guard")
        return cls(settings, model, assistant, folder, sha256, state["disturbance"])


def open_assistant(folder: str, model: TransformerLM, place: Place) -> TransformerLM:
    """Raises ModelError when it is no model with weights, or does not speak the target's tokens."""
    assistant: Any = place.open(folder)
    if "weights" not in assistant.capabilities:
        raise ModelError(
            f"{folder}: a guard, and not a model of its own, so there is nothing to subtract. Give a run of the method 'assistant'."
        )
    sizes = [one.model.config.get_text_config().vocab_size for one in (model, assistant)]
    if tokenizer_hash(assistant) != tokenizer_hash(model) or len(set(sizes)) > 1:
        raise ModelError(
            f"{folder}: made for another tokenizer than this model's, so its logits are about other tokens.\n"
            "Give an assistant made from this model, or leave action.assistant out and one is trained."
        )
    return assistant
