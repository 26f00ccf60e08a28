"""A model whose input embeddings are corrupted at chosen tokens, wherever they stand: prompt, prefilled or written text.

`corrupted_inputs` makes a shell around a Hugging Face model: it shares weights and code, and differs in one method, the one that
prepares the input of each forward of `generate`. There it sees the ids, and through the cache the absolute position of every
token that is fed, so beams, copies, chunked prefill, assisted decoding, reused caches, streaming and missing caches all meet
the same rule. Nothing is hooked into the shared model: two shells can run in two threads, and the plain model never knows.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from expunge.data.batching import Batch
from expunge.data.tokenize import Encoded
from expunge.models.intervention import Asked, Forward
from expunge.models.kv_cache import length_held

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

    @property
    def verdicts(self) -> Sequence[bool | None]:
        """[vocabulary] whether a written token is corrupted; None where that depends on what was written before it."""
        ...

    def entering(self, encoded: Encoded, mask: np.ndarray) -> Sequence[int]:
        """[start] the token whose embedding is corrupted at each masked prompt position; the one that stands there, as a rule."""
        ...

    def written_as(self, token: int) -> int:
        """The token whose embedding is corrupted where a masked one was written; itself, as a rule."""
        ...

    def apply(self, embeddings: Tensor, ids: Sequence[int]) -> Tensor:
        """[n, hidden] embeddings of the masked tokens `ids` (n of them) to their corrupted form; the input is left alone."""
        ...


class CorruptedInputs(NamedTuple):
    """A corruption as an intervention: the same tokens are corrupted while scoring and while writing."""

    corruption: Corruption

    def enters(self, encoded: Encoded) -> np.ndarray:
        """The answer is masked as it would have been written token by token."""
        written = encoded.ids[encoded.start :]
        hits = self.corruption.written_mask(written, 0)
        sources = [self.corruption.written_as(token) for token in written]
        return np.concatenate([prompt_enters(self.corruption, encoded), np.where(hits, sources, -1)])

    def logits(self, forward: Forward) -> Tensor:
        sources = forward.enters.flatten().tolist()
        hits = {place: source for place, source in enumerate(sources) if source >= 0}
        if not hits:
            return forward.run()
        return forward.run(embeddings=corrupt_at(forward.model, forward.ids, hits, self.corruption))

    @contextmanager
    def writing(
        self, model: PreTrainedModel, batch: Batch, asked: Sequence[Asked]
    ) -> Generator[tuple[PreTrainedModel, dict[str, Any]]]:
        prompts = [prompt_enters(self.corruption, row.encoded) if row.flagged else None for row in asked]
        yield corrupted_inputs(model, batch, prompts, self.corruption), {}


def prompt_enters(corruption: Corruption, encoded: Encoded) -> np.ndarray:
    """[start] int64: the token that is corrupted at each prompt position, -1 where none is."""
    mask = corruption.prompt_mask(encoded)
    return np.where(mask, corruption.entering(encoded, mask), -1)


def corrupt_at(
    model: PreTrainedModel, ids: Tensor, hits: Mapping[int, int], corruption: Corruption
) -> Tensor:
    """The model's embeddings of `ids` [batch, tokens], corrupted at one or more flat positions; `hits` maps each to the token
    that is corrupted there.
    """
    embeddings = model.get_input_embeddings()(ids)
    flat = embeddings.view(-1, embeddings.shape[-1])
    where = torch.tensor(list(hits), device=flat.device)
    tokens = list(hits.values())
    own = ids.flatten()[where]
    sources = torch.tensor(tokens, device=flat.device)
    found = flat[where] if torch.equal(own, sources) else model.get_input_embeddings()(sources)
    flat.index_copy_(0, where, corruption.apply(found, tokens))
    return embeddings


def corrupted_inputs(
    model: PreTrainedModel, batch: Batch, prompts: Sequence[np.ndarray | None], corruption: Corruption
) -> PreTrainedModel:
    """A shell of `model` whose `generate(batch.ids, ...)` corrupts its input.

    `batch` holds the prompts, padded on either side; `prompts` has what `prompt_enters` says of each ([its tokens] int64), or
    None for a prompt that is not in scope: such rows keep their embeddings bit for bit, in what is written too.
    """
    width = batch.ids.shape[1]
    in_prompt = np.full(batch.ids.shape, -1)
    for row, entering in enumerate(prompts):
        if entering is not None:
            in_prompt[row, batch.attention[row].bool().cpu().numpy()] = entering
    verdicts = corruption.verdicts
    prepare: Any = model.prepare_inputs_for_generation

    def corrupted(history: Tensor, fed: Tensor, first: int) -> dict[int, int]:
        """Flat positions in `fed` [rows, tokens], whose tokens stand at absolute positions `first` onwards, and their tokens."""
        rows, count = fed.shape
        copies = rows // len(prompts)  # beams and returned copies of one prompt lie side by side
        found: dict[int, int] = {}
        if first < width:
            in_fed = in_prompt[:, first : first + count]
            in_fed = np.pad(in_fed, ((0, 0), (0, count - in_fed.shape[1])), constant_values=-1)
            sources = in_fed.repeat(copies, 0).ravel()
            found = {int(place): int(sources[place]) for place in (sources >= 0).nonzero()[0]}
        start = max(width - first, 0)
        if start >= count:
            return found
        for line, tokens in enumerate(fed[:, start:].tolist()):
            if prompts[line // copies] is None:
                continue
            for at, token in enumerate(tokens, start):
                hit = verdicts[token]
                if hit is None:
                    written = history[line, width : first + at + 1].tolist()
                    hit = corruption.written_mask(written, len(written) - 1)[0]
                if hit:
                    found[line * count + at] = corruption.written_as(token)
        return found

    @functools.wraps(prepare)
    def prepare_inputs_for_generation(input_ids, **kwargs):
        inputs = prepare(input_ids, **kwargs)
        fed = inputs["input_ids"]
        hits = corrupted(input_ids, fed, length_held(kwargs))
        if hits:
            inputs["inputs_embeds"] = corrupt_at(model, fed, hits, corruption)
            inputs["input_ids"] = None
        return inputs

    shell: Any = copy.copy(model)
    shell.prepare_inputs_for_generation = prepare_inputs_for_generation
    return shell
