"""Answers that are fixed in advance: what they cost, and how likely a given answer is beside them."""

from __future__ import annotations

import numpy as np

from expunge.types import FLOOR, Example, Generation, LanguageModel, Score


def said(model: LanguageModel, text: str) -> Generation:
    """A fixed text as if the model had written it; an endpoint, which has no tokenizer here, counts words."""
    tokenizer = getattr(model, "tokenizer", None)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"] if tokenizer else text.split()
    return Generation(text, len(tokens) + 1, True)


def fixed(example: Example, plain: Score, text: str) -> Score:
    """The score of a given answer where `text` is all that is ever said: probability 1 for it, none for anything else."""
    same = example.answer.strip() == text
    return Score(
        np.full(plain.tokens, 0.0 if same else FLOOR, dtype=np.float32),
        np.full(plain.tokens, same),
        floored=not same,
    )
