"""A model less its assistant: the logits of a second, smaller model are taken off at the flagged rows of a batch.

One pure function, `subtract`, says what becomes of the logits; scoring and writing both go through it. While scoring, both
models run on the same batch. While writing, a shell shares weights and code with the target and differs in its forward: it runs
the assistant on the same tokens. The assistant's keys and values lie in the target's own cache, behind those of the target, so
whatever happens to the one (beams, copies, crops) happens to the other. Where an architecture has no such cache, the assistant
reads the whole text again at each token: slow, and just as exact.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from expunge.data.batching import Batch, by_length, collate
from expunge.models.intervention import Asked, Forward, PlainTokens
from expunge.models.kv_cache import cache_name
from expunge.models.logprobs import answer_rows
from expunge.types import FLOOR, Example

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

    from expunge.models.language_model import TransformerLM


def subtract(
    logits: Tensor, assistant_logits: Tensor, weight: float, keep: float, always_kept: Sequence[int] = ()
) -> Tensor:
    """[..., vocab] of both to [..., vocab] float32: l - weight · log softmax(a) on the tokens that are kept, -inf elsewhere.

    Kept are the `keep` · vocab most likely tokens of the target (one at least) and those at least `keep` times as likely as its
    likeliest. `always_kept` are possible too, but where they are not among these nothing is taken off them: the subtraction
    raises what the assistant thinks unlikely, and an end that the target does not think of would come in mid-sentence.
    """
    logits = logits.float()
    count = max(1, math.floor(keep * logits.shape[-1]))
    lowest = logits.topk(count).values[..., -1:]  # [..., 1]
    kept = logits >= torch.minimum(lowest, logits.amax(-1, keepdim=True) + math.log(keep))
    found = (logits - weight * assistant_logits.float().log_softmax(-1)).masked_fill(~kept, -math.inf)
    ends = list(always_kept)
    found[..., ends] = torch.where(kept[..., ends], found[..., ends], logits[..., ends])
    return found


class Subtracted(PlainTokens):
    """The subtraction as an intervention."""

    def __init__(
        self, assistant: PreTrainedModel, weight: float, keep: float, always_kept: Sequence[int] = ()
    ):
        """`always_kept`: the tokens that end an answer, so that it always can."""
        self.assistant, self.weight, self.keep, self.always_kept = assistant, weight, keep, always_kept
        self._shares_cache: bool | None = None

    def subtract(self, logits: Tensor, assistant_logits: Tensor) -> Tensor:
        return subtract(logits, assistant_logits, self.weight, self.keep, self.always_kept)

    def logits(self, forward: Forward) -> Tensor:
        flagged = torch.tensor([row.flagged for row in forward.asked])
        logits = forward.run().float()
        rows = flagged[forward.predicts.nonzero()[:, 0]].to(logits.device)  # [predicted]
        logits[rows] = self.subtract(logits[rows], forward.run(self.assistant)[rows])
        return logits

    @contextmanager
    def writing(
        self, model: PreTrainedModel, batch: Batch, asked: Sequence[Asked]
    ) -> Generator[tuple[PreTrainedModel, dict[str, Any]]]:
        flagged = torch.tensor([row.flagged for row in asked], device=batch.ids.device)
        if self._shares_cache is None:
            self._shares_cache = shares_cache(model, self.assistant)
        if self._shares_cache:
            both, own = joint_cache(model, self.assistant)
            shell = self._shell(model, flagged, lambda inputs: {**inputs, cache_name(): own})
            yield shell, {cache_name(): both}
        else:
            yield self._rereading_shell(model, flagged), {}

    def _shell(
        self, model: PreTrainedModel, flagged: Tensor, inputs_of: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> PreTrainedModel:
        """`model` with the assistant beside it, which is run on `inputs_of` the target's inputs."""
        run: Any = model.forward

        @functools.wraps(run)
        def forward(*args, **kwargs):
            out = run(
                *args, **kwargs
            )  # first: its cache may ask how far its last layer, the assistant's, has come
            logits = out.logits.float()  # [rows, tokens, vocab]
            rows = flagged.repeat_interleave(len(logits) // len(flagged))  # beams and copies lie side by side
            beside = self.assistant(**inputs_of(kwargs)).logits[:, -logits.shape[1] :]
            logits[rows] = self.subtract(logits[rows], beside[rows])
            out.logits = logits
            return out

        shell: Any = copy.copy(model)
        shell.forward = forward
        return shell

    def _rereading_shell(self, model: PreTrainedModel, flagged: Tensor) -> PreTrainedModel:
        prepare: Any = model.prepare_inputs_for_generation
        whole: dict[str, Any] = {}

        @functools.wraps(prepare)
        def prepare_inputs_for_generation(input_ids, **kwargs):
            text = {name: kwargs[name] for name in ("attention_mask", "position_ids") if name in kwargs}
            whole.update(text, input_ids=input_ids, use_cache=False)
            return prepare(input_ids, **kwargs)

        shell: Any = self._shell(model, flagged, lambda inputs: whole)
        shell.prepare_inputs_for_generation = prepare_inputs_for_generation
        return shell


def joint_cache(model: PreTrainedModel, assistant: PreTrainedModel) -> tuple[DynamicCache, DynamicCache]:
    """The target's cache, and a view of its last layers, which are the assistant's own."""
    from transformers import DynamicCache

    both, own = (DynamicCache(config=one.config.get_text_config()) for one in (model, assistant))
    both.layers.extend(own.layers)
    return both, own


@torch.inference_mode()
def shares_cache(model: PreTrainedModel, assistant: PreTrainedModel) -> bool:
    """Whether both models go on from a joint cache as they would read the whole text, tried out once."""
    models = (model, assistant)
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.tensor([[i % vocabulary for i in range(3, 9)]], device=model.device)
    tolerance = 1e-4 if model.dtype == torch.float32 else 5e-2
    whole = [one(input_ids=ids, use_cache=False).logits[:, -1] for one in models]
    try:
        caches = joint_cache(model, assistant)
        for piece in ids.split([4, 1, 1], dim=1):
            last = [
                one(input_ids=piece, use_cache=True, **{cache_name(): cache}).logits[:, -1]
                for one, cache in zip(models, caches, strict=True)
            ]
    except (
        ValueError,
        RuntimeError,
        TypeError,
        AttributeError,
        LookupError,
    ):  # it keeps no cache of this kind
        return False
    return all(torch.allclose(a, b, atol=tolerance) for a, b in zip(whole, last, strict=True))


@torch.inference_mode()
def disturbance(model: TransformerLM, change: Subtracted, examples: Sequence[Example]) -> float:
    """What the subtraction does to texts that are none of its business: mean KL( plain || subtracted ) over answer tokens, nats.

    A token that is left no probability counts as 1e-12.
    """
    rows = model.encoder.examples(examples)
    found = []
    for near in by_length([len(row.ids) for row in rows], model.batch_tokens):
        batch = collate([rows[i] for i in near], model.pad_id, device=model.model.device)
        plain = answer_rows(model.model, batch).logits  # [answer, vocab]
        changed = change.subtract(plain, answer_rows(change.assistant, batch).logits)
        p, q = plain.log_softmax(-1), changed.log_softmax(-1).clamp(min=FLOOR)
        found.append((p.exp() * (p - q)).sum(-1))
    return float(torch.cat(found).mean())
