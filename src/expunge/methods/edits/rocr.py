"""ROCR, rank-one concept redirection (Ye et al., 2025, arXiv:2506.07795).

    W_l <- W_l + r xᵀ,     x = B ( BᵀB + λ I )⁻¹ e_1,     B = P [ k, k_1, ..., k_m ],     r = ( z - h ) / blocks left to edit

The last token of the name is a key k into mlp.down_proj; the edit makes it lead to z, the state that a harmless concept has
there. P = I - U Uᵀ takes away the directions that retained text uses, the k_i are the keys of earlier names. With none of
them x = P k / ( λ + kᵀP k ): a rank-one change without a step of training, in whatever form the name is asked about.
Needs: names (`subject`); retain rows, to know which directions are in use.
Differs from the paper: directions count as unused by their share of the retained keys' energy, as eigenvalues have a scale of
their own in every model; a name's k and h, and the concept's z, are means over the same templates; z is taken before any edit.
Differs from the authors' code: key from six templates and h from a bare "{name}." there, so the edited layer is asked for a
value that belongs to another key. They solve for x with a dense d_ff³ system; here with one the size of the number of names.
Fails when: what the model knows of a name is not gathered at the name's last token. A two-block model reads it from all of the
name: there, putting another name's state in that place costs the true answers a tenth of a nat, and what the edit does is mostly
damage. Or names share their last token with retained ones, no later block looks back at the edited one, or λ is far above kᵀPk,
which the share written, in the manifest, shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor

from expunge.config import Settings
from expunge.errors import DataError

if TYPE_CHECKING:
    from expunge.train.workbench import Workbench

DEGENERATE = 1e-3
"""A key with a smaller share outside the retained directions cannot be redirected without them."""


class ROCR(Settings):
    claim: ClassVar = "approximate"
    needs: ClassVar = frozenset({"subject", "retain"})

    concept: str = Field(min_length=1)
    """What the names shall be taken for: something harmless that the model knows, for example "a lighthouse"."""
    layers: list[int] = Field(min_length=1)
    """Blocks whose mlp.down_proj is edited, counted from 0. The authors take [4, 5, 6] of 32."""
    penalty: float = Field(1.0, gt=0)
    """λ, on squared lengths of keys. The authors take 1 for models of 7B and 8B, 10 for smaller ones."""
    threshold: float = Field(2e-2, gt=0, lt=1)
    """Share of the retained keys' mean squared length that may lie outside the directions that count as used. The authors'
    2e-2 is a bound on the eigenvalues of E[k kᵀ] itself."""
    templates: list[str] = Field(
        [
            "{}",
            "Please answer the question about {}",
            "Choose the best answer about {}",
            "Write the answer about {}",
            "Tell me about {}",
            "Write something about {}",
        ],
        min_length=1,
    )
    """What is asked about a name, {}; keys and states are means over them."""

    @field_validator("templates")
    @classmethod
    def _one_place(cls, templates: list[str]) -> list[str]:
        for template in templates:
            if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
                raise ValueError(f"'{template}' must have one {{}} where the name goes, and no other brace")
        return templates

    def apply(self, bench: Workbench) -> dict[str, Any]:
        """Redirect each name of the forget rows, one after the other; says how much of each residual was written."""
        names, layers = bench.subjects, sorted(set(self.layers))
        last = layers[-1]
        moments = bench.retained_moments(layers) if bench.rows.retain else {}
        if not moments:
            raise DataError(
                "method 'rocr' needs retain rows: without them it cannot know which directions are in use. Add --retain FILE."
            )
        bases = {layer: used_directions(moment, self.threshold) for layer, moment in moments.items()}
        goal = bench.at_name(self.concept, self.templates, last, last)[1].double()
        earlier: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        edits = []
        for name in names:
            for number, layer in enumerate(layers):
                key, state = (v.double() for v in bench.at_name(name, self.templates, layer, last))
                free = float(outside(key, bases[layer]) @ key / (key @ key))
                if free < DEGENERATE:
                    raise DataError(
                        f"'{name}', layer {layer}: only {free:.1e} of its key lies outside the directions that retained text uses.\n"
                        "Raise edit.threshold, take other edit.layers, or leave rows that name it out of the retain set."
                    )
                x = direction(key, bases[layer], earlier[layer], self.penalty)
                residual = (goal - state) / (len(layers) - number)
                weight = bench.down_projection(layer).weight.detach()
                size = residual.norm() * x.norm() / weight.double().norm()
                weight += torch.outer(residual, x).to(weight)
                edits.append(
                    {
                        "subject": name,
                        "layer": layer,
                        "written": float(x @ key),
                        "free": free,
                        "change": float(size),
                    }
                )
            for layer in layers:
                earlier[layer].append(bench.at_name(name, self.templates, layer, last)[0].double())
        return {"used_directions": {str(la): basis.shape[1] for la, basis in bases.items()}, "edits": edits}


def used_directions(moment: Tensor, threshold: float) -> Tensor:
    """U [inner, used]: eigenvectors of E[k kᵀ] but for the smallest, which hold at most `threshold` of its trace."""
    values, vectors = torch.linalg.eigh(moment)
    unused = values.clamp_min(0).cumsum(0) <= threshold * values.clamp_min(0).sum()
    return vectors[:, ~unused]


def outside(keys: Tensor, basis: Tensor) -> Tensor:
    """P k, or P of each column."""
    return keys - basis @ (basis.T @ keys)


def direction(key: Tensor, basis: Tensor, earlier: list[Tensor], penalty: float) -> Tensor:
    """The x [inner] with which r xᵀ writes r at `key`, little at the `earlier` keys and nothing within `basis`.

    It is AlphaEdit's ( P (k kᵀ + C) + λ I )⁻¹ P k with C the sum of the earlier k kᵀ, by a system of their number.
    """
    free = outside(torch.stack([key, *earlier], 1), basis)  # [inner, keys]
    small = free.T @ free + penalty * torch.eye(free.shape[1]).to(free)
    return free @ torch.linalg.solve(small, torch.eye(free.shape[1]).to(free)[0])
