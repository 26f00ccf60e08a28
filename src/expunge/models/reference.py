"""What the frozen starting model says about the rows of a run, computed once, so that no second model stays in memory.

Three strengths, each exact: "ref_logp" keeps one number a row, "ref_tokens" one a token, "ref_logits" the head's input at
each answer token (hidden floats instead of vocab) together with one frozen copy of the head.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from expunge.data.batching import by_length, collate
from expunge.data.tokenize import Encoded
from expunge.errors import ModelError
from expunge.models.logprobs import AnswerRows, answer_rows
from expunge.types import TokenView

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STRENGTHS = ("ref_logp", "ref_tokens", "ref_logits")


class Reference:
    """The cache of one run, keyed by row."""

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Mapping[Hashable, Encoded],
        needs: frozenset[str],
        pad_id: int,
        batch_tokens: int = 4096,
    ):
        """Forward every row of `rows` once through `model` as it is now. `needs` picks the strengths to keep."""
        self.needs = needs & set(STRENGTHS)
        self._logp: dict[Hashable, Tensor] = {}  # [] each
        self._tokens: dict[Hashable, Tensor] = {}  # [answer] each
        self._hidden: dict[Hashable, Tensor] = {}  # [answer, hidden] each
        self._head: torch.nn.Module | None = None
        keys = list(rows)
        if not self.needs or not keys:
            return
        with torch.inference_mode():
            for near in by_length([len(rows[key].ids) for key in keys], batch_tokens):
                batch = collate([rows[keys[i]] for i in near], pad_id, device=model.device)
                self._keep([keys[i] for i in near], answer_rows(model, batch), model)

    def _keep(self, keys: Sequence[Hashable], seen: AnswerRows, model: PreTrainedModel) -> None:
        cuts = seen.length.tolist()
        if "ref_logits" in self.needs:
            if self._head is None:
                self._head = frozen_head(model, seen)
            self._hidden.update(zip(keys, seen.hidden.clone().split(cuts), strict=True))
        logp = seen.logp.split(cuts)
        if "ref_tokens" in self.needs:
            self._tokens.update(zip(keys, logp, strict=True))
        if "ref_logp" in self.needs:
            self._logp.update((key, row.sum()) for key, row in zip(keys, logp, strict=True))

    def fill(self, view: TokenView, keys: Sequence[Hashable]) -> None:
        """Put the reference quantities of the view's sequences into it."""
        if "ref_logp" in self.needs:
            view.ref_logp = torch.stack([self._logp[key] for key in keys])
        if "ref_tokens" in self.needs:
            view.ref_token_logp = torch.cat([self._tokens[key] for key in keys])
        if "ref_logits" in self.needs:
            assert self._head is not None
            with torch.no_grad():
                view.ref_logits = self._head(torch.cat([self._hidden[key] for key in keys])).float()

    @property
    def bytes(self) -> int:
        """Memory that the cache takes."""
        kept = [*self._logp.values(), *self._tokens.values(), *self._hidden.values()]
        kept += [] if self._head is None else list(self._head.parameters())
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def frozen_head(model: PreTrainedModel, seen: AnswerRows) -> torch.nn.Module:
    """A copy of the output head that gives the model's own logits, with whatever the architecture does after the head.

    The copy is checked against `seen`; an architecture whose logits it cannot reproduce is refused, never a silent drift. Raises ModelError.
    """
    head = copy.deepcopy(model.get_output_embeddings()).requires_grad_(False)
    head._forward_pre_hooks.clear()
    config = model.config.get_text_config()
    after = _AfterHead(head, getattr(config, "final_logit_softcapping", None), _logit_scale(config))
    error = (after(seen.hidden).float() - seen.logits).abs().max()
    if error > 1e-3 * seen.logits.abs().max():
        raise ModelError(
            f"the logits of {type(model).__name__} are not its output head's times a scale (error {error:.2g}), so what the starting\n"
            "model says about whole vocabularies cannot be kept without a second model. Use a method that needs only log-probabilities\n"
            "of it, for example the retain term 'nll' instead of 'kl'."
        )
    return after


def _logit_scale(config) -> float:
    if getattr(config, "logits_scaling", None):  # Granite divides
        return 1 / config.logits_scaling
    return getattr(config, "logit_scale", None) or 1.0  # Cohere multiplies


class _AfterHead(torch.nn.Module):
    def __init__(self, head: torch.nn.Module, cap: float | None, scale: float):
        super().__init__()
        self.head, self.cap, self.scale = head, cap, scale

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.head(hidden) * self.scale
        return torch.tanh(logits / self.cap) * self.cap if self.cap else logits
