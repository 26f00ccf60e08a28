"""Pruning: switch off the neurons that are most active where forgotten rows are asked for.

    a_n = mean over tokens of | what neuron n puts out |,    d_n = a_n( forget questions ) - a_n( retain questions )
    switched off: in each block, the share p of neurons with the largest d_n;    p = 1 %, 3 %, 10 %

Neurons are the inputs of the layer that ends a block's feed-forward part. Training that hides a fact can do so by few neurons that wake at
the name and turn the answer away; without them the fact is back. The attacker needs questions for that, and no answers.
Needs: the weights; retain rows; feed-forward layers with neurons of their own, which a mixture of experts with fused experts has not.
Differs from the paper: no single paper.
Differs from the authors' code: no code.
Fails when: what hides the fact is spread over the attention or over most neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.attacks._attack import Found, Opened, OpeningAttack, Reading
from expunge.attacks._case import Case
from expunge.attacks._recall import recalled
from expunge.attacks._weights import RETAIN_ROWS, answered, feed_forward_ends, rewritten
from expunge.models.merged import merge_adapters
from expunge.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.models.language_model import TransformerLM


class Pruning(OpeningAttack):
    id: ClassVar[str] = "W8a"

    shares: tuple[float, ...] = Field((0.01, 0.03, 0.1), min_length=1)
    """p, of the neurons of each block; one neuron at least."""

    def read(self, opened: Opened) -> Reading:
        lm = opened.lm
        merge_adapters(lm.model)
        ends = feed_forward_ends(lm.model)
        if not ends:
            return Reading(why="its feed-forward parts have no neurons of their own: experts are fused")
        if not opened.retain or not opened.cases:
            return Reading(why="there are no retain rows to tell neurons of forgotten rows by")
        forget, retain = (activity(lm, rows) for rows in (opened.cases, opened.retain[:RETAIN_ROWS]))
        weights = {str(block): layer.weight for block, layer in ends.items()}
        found: list[Found] = []
        notes: dict[str, float | None] = {"retain rows answered before": answered(lm, opened.retain)}
        for share in self.shares:
            off = {str(block): most_active(forget[block] - retain[block], share) for block in ends}
            variant = f"{share:.0%} of the neurons"
            with rewritten(weights, lambda name, weight, off=off: weight.masked_fill(off[name], 0)):
                found += recalled(lm, opened.cases, variant)
                notes[f"{variant}: retain rows answered"] = answered(lm, opened.retain)
        return Reading(found, notes)


def activity(lm: TransformerLM, cases: Sequence[Case]) -> dict[int, Tensor]:
    """By block, [neurons] mean size of what each neuron puts out, over the tokens of the questions."""
    from expunge.data.batching import by_length, collate
    from expunge.models.activations import run_blocks, watched

    rows = lm.encoder.prompts([Prompt.ask(case.question) for case in cases])
    sums: dict[int, Tensor] = {}
    with watched(feed_forward_ends(lm.model), "input") as seen:
        for near in by_length([len(row.ids) for row in rows], lm.batch_tokens):
            batch = collate([rows[i] for i in near], lm.pad_id, device=lm.model.device)
            run_blocks(lm.model, batch)
            for block, entering in seen.items():
                sums[block] = sums.get(block, 0) + entering[batch.attention.bool()].abs().sum(0)
    tokens = sum(len(row.ids) for row in rows)
    return {block: total / tokens for block, total in sums.items()}


def most_active(difference: Tensor, share: float) -> Tensor:
    """[neurons] bool: the share with the largest difference, one at least."""
    import torch

    off = torch.zeros_like(difference, dtype=torch.bool)
    off[difference.topk(max(1, round(share * len(difference)))).indices] = True
    return off
