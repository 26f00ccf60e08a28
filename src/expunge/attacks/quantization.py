"""Quantisation: round the weights to few bits, and see whether what was unlearned is back (Zhang et al., 2024, arXiv:2410.16454).

    s = 2 max|w| / 2^N,    ŵ = s round( w / s ),    s by row of a matrix, or by group of 128 weights in a row;    N = 8, 4
    κ = share of weights with the same code round( w / s ) as before unlearning
    ΔK = K( quantised ) - K( as it is ), on forget rows and on retain rows
    ρ = ( K(quantised) - K(as it is) ) / ( K(before unlearning) - K(as it is) )

Unlearning that moves weights by less than half a step is rounded away: κ near 1 says so without a single answer. Damage shows on retain
rows, return on forget rows. NF4 (Dettmers et al., 2023, arXiv:2305.14314) rounds w / max|w| of 64 neighbours to the nearest of its 16
levels. Adapters are merged first, as whoever quantises a model does.
Needs: the weights; the model before unlearning for κ and ρ.
Differs from the paper: rounding alone, no method that looks at data (GPTQ, AWQ). All compared models are rounded in the same way.
Differs from the authors' code: not used; weights are rounded and kept in float32. Embeddings and the output head stay as they are.
Fails when: the model cannot do with so few bits; then retain rows fall as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import Field

from expunge.attacks._attack import Found, Opened, OpeningAttack, Reading
from expunge.attacks._recall import rate, recalled
from expunge.attacks._weights import answered, change, matrices, rewritten, same_shapes
from expunge.metrics.attack_success import LEAST_SPAN
from expunge.models.merged import merge_adapters

if TYPE_CHECKING:
    from torch import Tensor

GROUP = 128
NF4_GROUP = 64
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of a normal distribution, with an exact zero."""


class Rounded(NamedTuple):
    codes: Tensor
    """Which level each weight went to, in the weight's shape."""
    weight: Tensor


class Quantization(OpeningAttack):
    id: ClassVar[str] = "W2"

    bits: tuple[int, ...] = Field((8, 4), min_length=1)
    """N. Each is tried by row and by group; 4 also as NF4."""

    @property
    def grids(self) -> dict[str, Callable[[Tensor], Rounded]]:
        """By variant, how a matrix is rounded."""
        made: dict[str, Callable[[Tensor], Rounded]] = {}
        for bits in self.bits:
            made[f"{bits} bits, rows"] = lambda w, bits=bits: round_uniform(w, bits)
            made[f"{bits} bits, groups of {GROUP}"] = lambda w, bits=bits: round_uniform(w, bits, GROUP)
        if 4 in self.bits:
            made["nf4"] = round_nf4
        return made

    def read(self, opened: Opened) -> Reading:
        lm = opened.lm
        merge_adapters(lm.model)
        before = self._before(opened)
        full, full_retain = rate(recalled(lm, opened.cases)), answered(lm, opened.retain)
        found: list[Found] = []
        notes: dict[str, float | None] = {}
        weights = matrices(lm.model)
        for variant, grid in self.grids.items():
            if before and before.codes:
                notes[f"{variant}: equal codes"] = before.codes[variant]
            with rewritten(weights, lambda name, weight, grid=grid: grid(weight).weight):
                rows = recalled(lm, opened.cases, variant)
                retain = answered(lm, opened.retain)
            found += rows
            notes[f"{variant}: change on forget rows"] = change(rate(rows), full)
            notes[f"{variant}: change on retain rows"] = change(retain, full_retain)
            if before:
                notes[f"{variant}: share regained"] = regained(rate(rows), full, before.recalled)
        return Reading(found, notes)

    def _before(self, opened: Opened) -> Before | None:
        """What has to be known of the model before unlearning, which is let go then."""
        if opened.original is None:
            return None
        original = opened.original()
        merge_adapters(original.model)
        mine, theirs = matrices(opened.lm.model), matrices(original.model)
        codes = {}
        if same_shapes(mine, theirs):
            codes = {variant: equal_codes(mine, theirs, grid) for variant, grid in self.grids.items()}
        return Before(rate(recalled(original, opened.cases)), codes)


class Before(NamedTuple):
    recalled: float | None
    codes: Mapping[str, float]
    """κ by variant; empty where the two models have not the same tensors."""


def round_uniform(weight: Tensor, bits: int, group: int = 0) -> Rounded:
    """To multiples of s, one s a row of the last axis, or one a group of so many weights in it. The two ends, ±2^(N-1), are both levels."""
    import torch

    parts = weight.split(group or weight.shape[-1], dim=-1)
    steps = [2 * part.abs().amax(-1, keepdim=True) / 2**bits for part in parts]
    codes = [
        torch.where(step > 0, part / step.clamp(min=torch.finfo(step.dtype).tiny), 0).round()
        for part, step in zip(parts, steps, strict=True)
    ]
    rounded = [code * step for code, step in zip(codes, steps, strict=True)]
    return Rounded(torch.cat(codes, -1), torch.cat(rounded, -1))


def round_nf4(weight: Tensor) -> Rounded:
    """To the nearest of 16 levels times the largest weight of each group."""
    import torch

    levels = torch.tensor(NF4, dtype=weight.dtype, device=weight.device)
    between = (levels[1:] + levels[:-1]) / 2
    codes, rounded = [], []
    for part in weight.split(NF4_GROUP, dim=-1):
        largest = part.abs().amax(-1, keepdim=True)
        code = torch.bucketize(part / largest.clamp(min=torch.finfo(part.dtype).tiny), between)
        codes.append(code)
        rounded.append(levels[code] * largest)
    return Rounded(torch.cat(codes, -1), torch.cat(rounded, -1))


def equal_codes(
    mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor], grid: Callable[[Tensor], Rounded]
) -> float:
    """κ, over all weights of the same matrices of two models."""
    same = total = 0
    for name, weight in mine.items():
        equal = grid(weight.detach()).codes == grid(theirs[name].detach()).codes
        same, total = same + int(equal.sum()), total + equal.numel()
    return same / total


def regained(quantised: float | None, full: float | None, original: float | None) -> float | None:
    """ρ; None where nothing was unlearned that could come back."""
    if quantised is None or full is None or original is None or original - full < LEAST_SPAN:
        return None
    return (quantised - full) / (original - full)
