"""A model whose input embeddings are corrupted at chosen tokens, wherever they stand: prompt, prefilled or written text.

`CorruptedInputs` is a shell around a Hugging Face model: it shares weights and code, and differs in one method, the one that
prepares the input of each forward of `generate`. There it sees the ids, and through the cache the absolute position of every
token that is fed, so beams, copies, chunked prefill, assisted decoding, reused caches, streaming and missing caches all meet
the same rule. Nothing is hooked into the shared model: two shells can run in two threads, and the plain model never knows.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from expunge.data.batching import Batch
from expunge.data.tokenize import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Corruption(Protocol):
    """What is corrupted, and how. Decisions about written tokens look back only, so scoring and generating agree."""

    def prompt_mask(self, encoded: Encoded) -> np.ndarray:
        """[start] bool: which prompt tokens are corrupted; the whole prompt is known."""
        ...

    def written_mask(self, ids: Sequence[int], start: int) -> np.ndarray:
        """[len(ids) - start] bool for `ids[start:]`, where `ids` is all that has been written so far."""
        ...

    def may_mask(self, ids: Tensor) -> Tensor:
        """Bool, shaped like `ids`: False where no context could make this token a corrupted one."""
        ...

    def apply(self, embeddings: Tensor, ids: Tensor) -> Tensor:
        """[n, hidden] embeddings of the masked tokens `ids` [n] to their corrupted form; the input is left alone."""
        ...


def full_mask(corruption: Corruption, encoded: Encoded) -> np.ndarray:
    """[tokens] bool for a prompt and the answer after it, as the answer would have been written token by token."""
    prompt = corruption.prompt_mask(encoded)
    return np.concatenate([prompt, corruption.written_mask(encoded.ids[encoded.start :], 0)])


def corrupt_where(model: PreTrainedModel, ids: Tensor, mask: Tensor, corruption: Corruption) -> Tensor:
    """The model's embeddings of `ids` [batch, tokens], corrupted where `mask` [batch, tokens] says."""
    embeddings = model.get_input_embeddings()(ids)
    mask = mask.to(embeddings.device)
    embeddings = embeddings.clone()
    embeddings[mask] = corruption.apply(embeddings[mask], ids.to(mask.device)[mask]).to(embeddings.dtype)
    return embeddings


def corrupted_inputs(
    model: PreTrainedModel, batch: Batch, masks: Sequence[np.ndarray | None], corruption: Corruption
) -> PreTrainedModel:
    """A shell of `model` whose `generate(batch.ids, ...)` corrupts its input.

    `batch` holds the prompts, padded on either side; `masks` has each prompt's own mask ([its tokens] bool), or None for a
    prompt that is not in scope: such rows keep their embeddings bit for bit, in what is written too.
    """
    width = batch.ids.shape[1]
    in_prompt = torch.zeros(batch.ids.shape, dtype=torch.bool)
    for row, mask in enumerate(masks):
        if mask is not None:
            in_prompt[row, batch.attention[row].bool().cpu()] = torch.from_numpy(mask)
    flagged = torch.tensor([mask is not None for mask in masks])
    prepare: Any = model.prepare_inputs_for_generation

    def fed_mask(history: Tensor, fed: Tensor, first: int) -> Tensor:
        """[rows, fed tokens] bool; the fed tokens stand at absolute positions `first` onwards."""
        copies = fed.shape[0] // len(masks)  # beams and returned copies of one prompt lie side by side
        mask = torch.zeros(fed.shape, dtype=torch.bool)
        last = first + fed.shape[1]
        if first < width:
            mask[:, : width - first] = in_prompt[:, first:last].repeat_interleave(copies, 0)
        if last > width:
            start = max(first, width)
            maybe = corruption.may_mask(fed[:, start - first :]).any(1).cpu() & flagged.repeat_interleave(
                copies
            )
            for row in maybe.nonzero()[:, 0].tolist():
                written = history[row, width:].tolist()
                mask[row, start - first :] = torch.from_numpy(corruption.written_mask(written, start - width))
        return mask

    @functools.wraps(prepare)
    def prepare_inputs_for_generation(input_ids, **kwargs):
        inputs = prepare(input_ids, **kwargs)
        cache = kwargs.get("past_key_values")
        fed = inputs["input_ids"]
        mask = fed_mask(input_ids, fed, 0 if cache is None else int(cache.get_seq_length()))
        if mask.any():
            inputs["inputs_embeds"] = corrupt_where(model, fed, mask, corruption)
            inputs["input_ids"] = None
        return inputs

    shell: Any = copy.copy(model)
    shell.prepare_inputs_for_generation = prepare_inputs_for_generation
    return shell
