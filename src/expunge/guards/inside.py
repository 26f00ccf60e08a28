"""What actions inside the model share: one intervention, from which scores and answers follow alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from expunge.types import Example, Generation, GenerationParams, Prompt, Score

if TYPE_CHECKING:
    from expunge.models.intervention import Intervention
    from expunge.models.language_model import TransformerLM


class InsideAction:
    change: Intervention
    """What happens to the rows in scope; set by the action."""

    def score(
        self, model: TransformerLM, examples: Sequence[Example], flagged: Sequence[bool]
    ) -> list[Score]:
        return model.score(examples, self.change, flagged)

    def generate(
        self,
        model: TransformerLM,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        flagged: Sequence[bool],
    ) -> list[list[Generation]]:
        return model.generate(prompts, params, self.change, flagged)
