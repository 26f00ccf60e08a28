"""UNDO, unlearn, noise, distil on outputs (Lee et al., 2025, arXiv:2506.06278).

    θ_u = any recipe's result;    θ_0 = (1 - α) θ_u + α β N;    θ* = argmin over θ of mean KL( p_θu || p_θ ),   from θ_0

Relearning after unlearning is quick because the knowledge is only hidden in the weights. A student that is damaged by noise and
then taught the outputs of the unlearned model takes over what that model says, not what it hides. N is drawn as fresh weights
would be (Xavier, uniform); α says how much of the old weights goes.
Needs: forget and retain rows, and about as much training again.
Differs from the paper: distilled on the request's rows, not on a share of the pretraining text; on answer tokens alone.
Differs from the authors' code: norm scales and biases are left as they are (theirs shrinks them by 1 - α, which silences norms
that multiply by their scale); the noise follows the recipe's seed.
Fails when: the rows are too few to teach back what the noise took: utility then falls with α.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from expunge.config import Settings
from expunge.recipes import recipe
from expunge.types import Course, Seed, Shown, Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class UNDO(Settings):
    needs: ClassVar = frozenset({"retain"})
    claim: ClassVar = "approximate"
    forgets: ClassVar = True
    start: ClassVar = "target"
    all_weights: ClassVar = True

    alpha: float = Field(0.6, ge=0, le=1)
    """α: how much of the unlearned weights is taken away. The paper recommends 0.6, and 0.25 for a 2B model."""
    beta: float = Field(0.1, ge=0)
    """β: size of the noise beside fresh weights."""
    learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate of the distillation."""
    steps: int = Field(500, ge=1)
    """Optimiser steps of the distillation."""
    on: tuple[Literal["retain", "forget"], ...] = Field(("retain", "forget"), min_length=1)
    """Rows on which the unlearned model's outputs are taught. The paper takes both; for WMDP no forget text."""

    def stage(self, number: int, course: Course) -> Stage | None:
        shown = course.show(course.forget)
        if number == 0:
            return Stage(course.recipe, shown, "unlearn")
        if number > 1:
            return None
        train = course.recipe.train.model_copy(
            update={
                "learning_rate": self.learning_rate,
                "max_steps": self.steps,
                "select": "last",
                "weight_decay": 0.0,
                "warmup": 0.1,
            }
        )
        teach = recipe("retrain", retain="kl", train=train, seed=course.recipe.seed)
        rows = [row for name in self.on for row in getattr(shown, name)]
        seed = Seed(course.recipe.seed).child("noise")
        return Stage(teach, Shown([], rows, []), "distil", prepare=lambda model: self.damage(model, seed))

    def damage(self, model: PreTrainedModel, seed: Seed) -> None:
        """Shrink every matrix of `model` by 1 - α and add α β N, in place."""
        import torch

        with torch.no_grad(), torch.random.fork_rng():
            for name, weight in model.named_parameters():
                if weight.dim() >= 2:
                    torch.manual_seed(seed.child(name).number % 2**63)
                    fresh = torch.nn.init.xavier_uniform_(torch.empty(weight.shape))
                    weight.mul_(1 - self.alpha).add_(fresh.to(weight), alpha=self.alpha * self.beta)
