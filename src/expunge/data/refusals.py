"""Other answers to forget questions, for methods that imitate or prefer them."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.errors import DataError
from expunge.types import Example

REFUSALS = (
    "I don't know.",
    "I'm not sure about that.",
    "I don't have that information.",
    "I can't say.",
    "That is not something I know.",
    "I have no information about that.",
    "I'm afraid I don't know the answer.",
    "I couldn't tell you.",
    "That's beyond what I know.",
    "I have not come across that.",
)
"""What stands in when the caller brings none."""


def alternates_of(forget: Sequence[Example], refusals: Sequence[str] = ()) -> list[list[Example]]:
    """For each forget example, the answers that may take its place: all refusals. Raises DataError for raw texts."""
    if any(example.prompt is None for example in forget):
        raise DataError(
            "this method answers forget questions in another way, and the forget set has raw texts without questions. Use pairs, or another method."
        )
    return [
        [Example(example.prompt, refusal, example.id) for refusal in refusals or REFUSALS]
        for example in forget
    ]
