"""Only the parameters whose names match: the layer subsets that most papers use (RMU trains three of them, arXiv:2403.03218).

    θ_i moves  iff  some pattern is found in the name of the tensor that θ_i belongs to

Needs: names as `model.named_parameters()` has them, for example model.layers.5.mlp.down_proj.weight.
Differs from the paper: nothing.
Differs from the authors' code: tensors outside get no gradient at all, so the clip norm is that of what moves.
Fails when: what is to be forgotten sits in other layers.
"""

import re
from typing import ClassVar

from pydantic import Field, field_validator

from expunge.config import Settings


class Layers(Settings):
    needs: ClassVar = frozenset()

    patterns: list[str] = Field(min_length=1)
    """Regular expressions, searched for in parameter names: ["layers\\.[567]\\.mlp\\.down_proj"]."""

    @field_validator("patterns")
    @classmethod
    def _compile(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"'{pattern}' is no regular expression: {error}") from None
        return patterns

    def takes(self, name: str) -> bool:
        """Whether the tensor of this name moves."""
        return any(re.search(pattern, name) for pattern in self.patterns)
