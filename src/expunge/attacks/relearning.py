"""Relearning: train on some of the forgotten people, and see how much comes back of others (Hu et al., 2024, arXiv:2406.13356).

    θ' = `steps` of AdamW on -log p( answers of people A ),    recovered = right answers about people B,    A and B disjoint
    excess = recovered( θ' of the artifact ) - recovered( θ' of the gold ),    the same rows, order and settings for both

What was hidden comes back by itself once something near it is trained; what is gone has to be taught. A gold learns a little
too, so the excess over it is the number to read. All weights are trained; adapters are merged first.
Tier T3: whoever has the weights, or an endpoint that fine-tunes them.
Needs: the weights. A guard has none to train: the knowledge behind it was never forgotten.
Differs from the paper: the rows trained on are about other forgotten people, not about the same ones; a retrained model gets the same budget.
Differs from the authors' code: not used; all weights instead of an adapter.
Fails when: the learning rate is so low that nobody learns, or so high that all break: the gold's loss on the trained rows says which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from expunge.config import Settings
from expunge.metrics.accuracy import is_accurate
from expunge.recipes import TrainSettings
from expunge.types import Example, GenerationParams, LanguageModel, Probe, Prompt


class Relearning(Settings):
    version: ClassVar = 1
    needs: ClassVar = frozenset({"weights"})
    why_not: ClassVar = "suppression: the weights still hold the knowledge, so there is nothing to relearn"
    """What stands in place of a number where `needs` are not met."""
    tier: ClassVar = "T3"

    steps: int = Field(20, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    """The same for artifact and gold. Models of billions of parameters want about 1e-5."""
    seed: int = 0
    """Of the order of the rows."""

    @property
    def training(self) -> TrainSettings:
        """How the model is trained before `run` sees it."""
        return TrainSettings(
            learning_rate=self.learning_rate,
            max_steps=self.steps,
            batch_size=self.batch_size,
            schedule="constant",
            weight_decay=0.0,
        )

    def run(self, model: LanguageModel, probes: Sequence[Probe]) -> list[dict[str, Any]]:
        """One record a row of people that were not trained on, asked of the model after its training."""
        prompts = [Prompt.ask(probe.question) for probe in probes]
        longest = max(len(probe.answer.split()) for probe in probes)
        answers = model.generate(prompts, GenerationParams(max_new_tokens=4 * longest + 8))
        scores = model.score(
            [Example(*pair) for pair in zip(prompts, (p.answer for p in probes), strict=True)]
        )
        return [
            {
                "id": probe.id,
                "subject": probe.subject,
                "prompt": probe.question,
                "reference": probe.answer,
                "generation": answer[0].text,
                "recovered": is_accurate(answer[0].text, probe.answer, probe.value),
                "probability": math.exp(score.mean_logprob),
            }
            for probe, answer, score in zip(probes, answers, scores, strict=True)
        ]
