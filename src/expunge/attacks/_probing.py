"""What probes share: states of every block at the end of prompts, and splits in which nobody stands on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from expunge.attacks._case import Case
from expunge.attacks._recall import whose
from expunge.data.batching import by_length, collate
from expunge.models.hidden import find_blocks

if TYPE_CHECKING:
    from expunge.models.language_model import TransformerLM
    from expunge.types import Prompt

FOLDS = 5


def every_state(lm: TransformerLM, prompts: Sequence[Prompt]) -> np.ndarray:
    """[blocks, n, hidden] float32: what each block puts out (before any final norm) at the last token of each prompt, in one forward."""
    encoded = lm.encoder.prompts(prompts)
    blocks = find_blocks(lm.model, 0)
    owner: Any = blocks.owner
    width = lm.model.config.get_text_config().hidden_size
    found = np.empty((len(blocks.modules), len(encoded), width), dtype=np.float32)
    seen: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output  # [batch, tokens, hidden]
            seen[number] = hidden

        return hook

    handles = [block.register_forward_hook(keep(number)) for number, block in enumerate(blocks.modules)]
    try:
        with lm._lock, torch.inference_mode():
            for rows in by_length([len(row.ids) for row in encoded], lm.batch_tokens):
                batch = collate([encoded[row] for row in rows], lm.pad_id, device=lm.model.device)
                ends = batch.attention.sum(1) - 1
                owner(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False)
                for number, hidden in seen.items():
                    at = torch.arange(len(rows), device=hidden.device)
                    found[number, rows] = hidden[at, ends.to(hidden.device)].float().cpu().numpy()
    finally:
        for handle in handles:
            handle.remove()
    return found


def people(cases: Sequence[Case]) -> list[str]:
    """Whom each row is about."""
    return [whose(case) for case in cases]


def folds(groups: Sequence[str], rng: np.random.Generator, count: int = FOLDS) -> np.ndarray:
    """[n] the fold of each row: all rows of a group are in one, and groups are dealt out evenly."""
    names = sorted(set(groups))
    place = {names[i]: turn % count for turn, i in enumerate(rng.permutation(len(names)))}
    return np.array([place[group] for group in groups])


class Line(NamedTuple):
    """A logistic probe: log-odds = x · weights + bias, on states as they are."""

    weights: np.ndarray  # [hidden]
    bias: float

    def odds(self, x: np.ndarray) -> np.ndarray:
        """[n, hidden] to [n] log-odds."""
        return x @ self.weights + self.bias


def fit_line(x: np.ndarray, labels: np.ndarray) -> Line:
    """On states [n, hidden] and 0/1 labels, both classes counting alike; learned on standardised states in float64."""
    from sklearn.linear_model import LogisticRegression

    x = np.asarray(x, dtype=np.float64)
    mean, deviation = x.mean(0), x.std(0) + 1e-8
    found = LogisticRegression(class_weight="balanced", max_iter=10_000).fit((x - mean) / deviation, labels)
    weights = found.coef_[0] / deviation
    return Line(weights, float(found.intercept_[0] - weights @ mean))
