"""Made-up namesakes: hard negatives for every detector that learns what a target looks like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NAMESAKES = 4
"""People made up for each forget prompt, from its own name and so many other target names, two of each pair."""


def namesakes(texts: Sequence[str], names: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The same prompts about people who are not targets but share half a name with two of them: hard negatives.

    Without them the halves of a name count for as much as the whole, and every namesake is flagged.
    """
    parts = [name.split() for name in names if len(name.split()) > 1]
    if len(parts) < 2:
        return []
    targets = {name.casefold() for name in names}
    found = []
    for text in texts:
        own = next((name for name in names if len(name.split()) > 1 and name in text), None)
        if own is None:
            continue
        for i in rng.permutation(len(parts))[:NAMESAKES]:
            first, last = own.split(), parts[i]
            made = (" ".join([*first[:-1], last[-1]]), " ".join([*last[:-1], first[-1]]))
            found += [text.replace(own, name) for name in made if name.casefold() not in targets]
    return found
