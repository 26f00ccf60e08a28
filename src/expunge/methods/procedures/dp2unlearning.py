"""DP2Unlearning, a private base that is then tuned on what may stay (Al Mahmud et al., 2025, arXiv:2504.13774).

    θ_p = DP-SGD( base; forget and retain rows; ε, δ ):     θ <- θ - η/(qN) · ( Σ_i g_i · min(1, C/||g_i||) + σC · N(0, I) )
    or, with rows that were rewritten privately (data dp_mlm):     θ_p = ordinary training of the base on the rewritten rows
    θ*  = fine-tuning of θ_p on the retain rows as they are, for half the epochs of a retraining

The first stage sees every row, but little of any single one: each row enters a step by chance (q), its gradient is cut to the
length C, and noise covers the rest. Its result does not depend on what is asked to be forgotten, so one could serve all later
requests, each for half a retraining; here every run makes its own. Rows are taken in the order of their content, so that moving a row from
the retain to the forget set gives the same θ_p.
Needs: the base model from which the target was trained, the retain set, and the library opacus (expunge[dp]).
Differs from the paper: nothing is left of DP-SGD where the rows are rewritten; that ε is per word, so that a row of fifty words gets
fifty times as much.
Differs from the authors' code: a row's loss is the mean over its own answer tokens (theirs divides by the tokens of the batch, which
ties rows to each other); a step that draws no row still adds its noise (theirs skips it, though the accountant counts it); no weight
decay in the private stage.
Fails when: rows hang together. ε is per row; k rows of one person have k · ε and δ' = k · e^((k-1)ε) · δ, which soon says nothing:
the manifest has both. Or when the base hardly learns: the authors' step of 5e-5 over 2,500 steps moves θ by 0.125 at most, all that
follows is then `retrain_half`, the control to compare with. The guarantee is against those who do not have the run's seed, from
which its noise could be drawn again, nor its trace, whose losses carry no noise.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import Field

from expunge.config import Settings
from expunge.recipes import TrainSettings, recipe
from expunge.types import Course, Shown, Stage

if TYPE_CHECKING:
    from expunge.recipes import Recipe


class Privacy(NamedTuple):
    """What the private stage promises about each row, and how it trains."""

    epsilon: float
    delta: float
    clip: float
    group: int
    """Most rows of one person or document."""
    train: TrainSettings


class DP2Unlearning(Settings):
    claim: ClassVar = "approximate"
    forgets: ClassVar = False
    start: ClassVar = "base"

    epsilon: float = Field(1.0, gt=0)
    """ε of the private stage, per row; of DP-SGD alone, as are the settings below but epochs. The authors try 0.1 to 100."""
    delta: float = Field(1e-5, gt=0, lt=1)
    """δ of the private stage, per row; far below one by the number of rows. The authors take 1e-12, and 1e-11 to 1e-9 for large ε."""
    clip: float = Field(1.0, gt=0)
    """C: the length that no row's gradient exceeds."""
    epochs: int = Field(10, ge=1)
    """Passes over all rows in the private stage, on average. The authors take 10 for Phi-1.5B and 6 for Llama-2-7B."""
    learning_rate: float = Field(5e-5, gt=0)
    """η of the private stage: plain SGD, constant."""
    batch_size: int = Field(16, ge=1)
    """Rows that a private step draws, on average."""

    def stage(self, number: int, course: Course) -> Stage | None:
        """Private training on all rows, then half a retraining on the retain rows."""
        if number == 0 and getattr(course.recipe.axes["data"], "private", False):
            shown = course.show(course.forget)
            train = course.recipe.train.model_copy(update={"epochs": self.epochs, "max_steps": None})
            rows = [*shown.forget, *shown.retain]
            return Stage(_retraining(course.recipe, train), Shown([], rows, []), "base on rewritten rows")
        if number == 0:
            records = [r for r in (*course.forget, *course.retain) if r.shape != "subject"]
            records.sort(key=lambda record: record.content)
            rows = [record.example() for record in records]
            made = self._private(course.recipe)
            group = max(Counter(record.group or record.content for record in records).values())
            privacy = Privacy(self.epsilon, self.delta, self.clip, group, made.train)
            return Stage(made, Shown([], rows, []), "private base", privacy=privacy)
        if number == 1:
            rows = [record.example() for record in course.retain]
            return Stage(_tuned(course.recipe), Shown([], rows, []), "fine-tuning")
        return None

    def _private(self, whole: Recipe) -> Recipe:
        """What of the recipe's settings the private stage uses, beside its own: how a step is cut and how often it is saved."""
        train = TrainSettings(
            learning_rate=self.learning_rate,
            epochs=self.epochs,
            batch_size=self.batch_size,
            micro_batch=whole.train.micro_batch,
            schedule="constant",
            weight_decay=0.0,
            clip_norm=None,
            checkpoint_every=whole.train.checkpoint_every,
            probe_every=whole.train.probe_every,
            max_loss=whole.train.max_loss,
        )
        return _retraining(whole, train)


def _tuned(whole: Recipe) -> Recipe:
    half = {
        name: value and max(1, round(value / 2))
        for name, value in (("epochs", whole.train.epochs), ("max_steps", whole.train.max_steps))
    }
    return _retraining(whole, whole.train.model_copy(update=half))


def _retraining(whole: Recipe, train: TrainSettings) -> Recipe:
    """The recipe, with a plain retraining in the place of this procedure."""
    settings = {**whole.describe(), "procedure": {"name": "retrain"}, "train": train}
    del settings["method"]
    return recipe("retrain", **settings)
