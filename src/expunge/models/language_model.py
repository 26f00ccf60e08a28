"""A Hugging Face causal LM as a LanguageModel: scoring along prefix trees, batched generation, one answer for both."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from expunge.data.batching import Batch, by_length, collate
from expunge.data.tokenize import Encoded, Encoder
from expunge.models.greedy import write_greedily, writes_as_generate
from expunge.models.intervention import Answer, Asked, Forward, Intervention
from expunge.models.load import context_length
from expunge.models.logprobs import read_logits
from expunge.models.pushed import PushedTokens
from expunge.models.tree import Tree, build_tree
from expunge.types import FLOOR, Example, Generation, GenerationParams, Prompt, Score, Seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Work:
    """What scoring cost, beside the least it could have cost."""

    tokens: int = 0
    """Token positions pushed through the model, padding included."""
    distinct_tokens: int = 0
    """Distinct prefixes among the sequences scored: the least that has to be pushed."""
    sequence_tokens: int = 0
    """What one forward per sequence would push without any padding."""
    projected: int = 0
    """Positions that met the vocabulary."""
    distinct_answers: int = 0
    """Distinct positions that predict an answer token: the least that has to."""


class TransformerLM:
    """Plain or adapted weights under the contract of `LanguageModel`."""

    capabilities = frozenset({"logits", "hidden", "gradients", "weights"})

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        template: str = "auto",
        batch_tokens: int = 8192,
    ):
        """`batch_tokens`: most padded tokens in one forward."""
        self.model = model
        self.tokenizer = tokenizer
        self.encoder = self._make_encoder(template)
        self.batch_tokens = batch_tokens
        self.source = ""
        """The folder, run or hub id that it was loaded from; empty for a model made in memory."""
        self.work = Work()
        self._lock = threading.Lock()

    def _make_encoder(self, template: str) -> Encoder:
        return Encoder(self.tokenizer, context_length(self.model.config, self.tokenizer), template)

    def let_train(self) -> None:
        """Every weight that text reaches takes a gradient."""
        self.model.requires_grad_(True)

    @property
    def reader(self) -> Any:
        """What has to lie beside the weights, so that texts become the same tokens again: the tokenizer."""
        return self.tokenizer

    # --- scoring ----------------------------------------------------------------------------------------------------
    def score(
        self,
        examples: Sequence[Example],
        change: Intervention | None = None,
        flagged: Sequence[bool] | None = None,
    ) -> list[Score]:
        """Log-probabilities of the given answers. With an intervention (`change`), the examples that are `flagged` are scored
        as it would answer; the others are untouched, bit for bit.
        """
        keys = [(example, bool(flagged and flagged[i])) for i, example in enumerate(examples)]
        distinct = list(dict.fromkeys(keys))
        encoded = dict(
            zip(distinct, self.encoder.examples([example for example, _ in distinct]), strict=True)
        )
        scores: dict[tuple[Example, bool], Score] = {}
        longest = max((len(row.ids) for row in encoded.values()), default=0)
        packed = self._follows_trees and longest <= self._window
        groups = self._groups(encoded, packed=packed)
        trees = [
            build_tree(
                [
                    (
                        encoded[key].ids,
                        encoded[key].start,
                        change.enters(encoded[key]) if change and key[1] else None,
                    )
                    for key in group
                ]
            )
            for group in groups
        ]
        asked = [Asked(encoded[group[0]], group[0][0].text, group[0][1]) for group in groups]
        with self._lock:
            for rows in by_length([len(tree.ids) for tree in trees], self.batch_tokens):
                found = self._score_trees(
                    [trees[row] for row in rows],
                    [asked[row] for row in rows],
                    change,
                    packed=packed,
                )
                for row, results in zip(rows, found, strict=True):
                    scores.update(zip(groups[row], results, strict=True))
        self.work.sequence_tokens += sum(len(row.ids) - 1 for row in encoded.values())
        return [scores[key] for key in keys]

    def _groups(
        self, encoded: dict[tuple[Example, bool], Encoded], *, packed: bool
    ) -> list[list[tuple[Example, bool]]]:
        """Examples that share a prompt, in groups whose packed row stays within `batch_tokens`."""
        groups: dict[object, list[tuple[Example, bool]]] = {}
        for number, key in enumerate(encoded):
            prompt = key[0].prompt
            groups.setdefault((prompt, key[1]) if prompt and packed else number, []).append(key)
        limit = self.batch_tokens // max(len(row.ids) for row in encoded.values()) if encoded else 1
        return [
            group[i : i + max(limit, 1)]
            for group in groups.values()
            for i in range(0, len(group), max(limit, 1))
        ]

    @torch.inference_mode()
    def _score_trees(
        self, trees: Sequence[Tree], asked: Sequence[Asked], change: Intervention | None, *, packed: bool
    ) -> list[list[Score]]:
        """Scores of one batch of trees, tree by tree and sequence by sequence."""
        forward = self._forward(trees, asked, packed=packed)
        changed = change is not None and any(row.flagged for row in asked)
        logits = change.logits(forward) if change and changed else forward.run()
        self.work.tokens += forward.ids.numel()
        self.work.distinct_tokens += sum(len(tree.ids) for tree in trees)
        self.work.projected += len(logits)
        self.work.distinct_answers += int(forward.predicts.sum())

        device = logits.device
        rows = torch.from_numpy(np.concatenate([answer.at for answer in forward.answers])).to(device)
        targets = torch.from_numpy(np.concatenate([answer.targets for answer in forward.answers])).to(device)
        found = [values.cpu().numpy() for values in read_logits(logits, rows, targets)]
        cuts = np.cumsum([len(answer.at) for answer in forward.answers])[:-1]
        pieces = zip(*(np.split(values, cuts) for values in found), strict=True)
        scores = iter(
            [_score(*piece) if changed else Score(*piece[:2], z=piece[2], ranks=piece[3]) for piece in pieces]
        )
        return [[next(scores) for _ in tree.answers] for tree in trees]

    def _forward(self, trees: Sequence[Tree], asked: Sequence[Asked], *, packed: bool) -> Forward:
        batch = _stack(trees, self.pad_id, tree_mask=packed, dtype=self.model.dtype)
        predicts = torch.zeros(batch.ids.shape, dtype=torch.bool)
        for row, tree in enumerate(trees):
            for nodes, _ in tree.answers:
                predicts[row, nodes] = True
        at = torch.full(batch.ids.shape, -1, dtype=torch.int64)
        at[predicts] = torch.arange(int(predicts.sum()))
        answers = [
            Answer(row, at[row, nodes].numpy(), targets)
            for row, tree in enumerate(trees)
            for nodes, targets in tree.answers
        ]
        device = self.model.device
        return Forward(
            self.model,
            batch.ids.to(device),
            batch.attention.to(device),
            batch.positions.to(device),
            batch.enters,
            predicts,
            trees,
            asked,
            answers,
        )

    @property
    def _window(self) -> int:
        """The longest sequence of which every token sees every earlier one: a packed tree has no sliding window."""
        config = self.model.config.get_text_config()
        window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
        slides = window and (kinds is None or "sliding_attention" in kinds)
        return window if slides else self.encoder.max_tokens

    @cached_property
    def _follows_trees(self) -> bool:
        """Whether the model gives the same log-probabilities along a packed tree as along single sequences, tried out once.

        False for models with recurrences, and for attention kernels that take no mask.
        """
        a, b, c, d, e, f = (i % self.model.config.get_text_config().vocab_size for i in range(3, 9))
        sequences = [([a, b, c, d, a], 2, None), ([a, b, e, f, a], 2, None)]
        kept, self.work = self.work, Work()
        nobody = [Asked(Encoded([], 0, "", [], 0), "", False)]
        alone = [
            scores
            for sequence in sequences
            for scores in self._score_trees([build_tree([sequence])], nobody, None, packed=False)[0]
        ]
        try:
            together = self._score_trees([build_tree(sequences)], nobody, None, packed=True)[0]
        except (ValueError, RuntimeError, TypeError):  # the attention kernel refuses a mask of this shape
            return False
        finally:
            self.work = kept
        tolerance = 1e-4 if self.model.dtype == torch.float32 else 5e-2
        return all(
            np.allclose(x.token_logprobs, y.token_logprobs, atol=tolerance)
            for x, y in zip(together, alone, strict=True)
        )

    # --- generation -------------------------------------------------------------------------------------------------
    def generate(
        self,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        change: Intervention | None = None,
        flagged: Sequence[bool] | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[list[Generation]]:
        """Answers, prompts of like length together. With an intervention (`change`), flagged prompts are answered under it."""
        encoded = self.encoder.prompts(prompts)
        answers: list[list[Generation]] = [[] for _ in prompts]
        rows_at_once = max(1, 128 // max(params.beams, params.copies))
        for near in by_length([len(row.ids) for row in encoded], self.batch_tokens, max_padding=0.2):
            for first in range(0, len(near), rows_at_once):
                rows = near[first : first + rows_at_once]
                batch = collate(
                    [encoded[i] for i in rows], self.pad_id, side="left", device=self.model.device
                )
                asked = [
                    Asked(encoded[i], prompts[i].text, bool(change and flagged and flagged[i])) for i in rows
                ]
                with self._lock:
                    written = self._generate_batch(batch, asked, change, params)
                for i, row in zip(rows, written, strict=True):
                    answers[i] = row
                if on_batch:
                    on_batch(len(rows))
        return answers

    def _generate_batch(
        self,
        batch: Batch,
        asked: Sequence[Asked],
        change: Intervention | None,
        params: GenerationParams,
        shown: Mapping[str, Tensor] | None = None,
    ) -> list[list[Generation]]:
        changed = change and any(row.flagged for row in asked)
        if not changed and not shown and _is_greedy(params) and self._leaves_rows:
            ids = write_greedily(self.model, batch, params.max_new_tokens, self._end_ids)
            return [[self._read(row)] for row in ids]
        writing = (
            change.writing(self.model, batch, asked) if change and changed else nullcontext((self.model, {}))
        )
        pushed = {"logits_processor": self._pushed(params.bias)} if params.bias else {}
        with writing as (model, more), torch.random.fork_rng(), torch.inference_mode():
            # other prompts, other draws: their answers are to be independent
            torch.manual_seed(Seed(params.seed).child("draw", *(row.text for row in asked)).number)
            write: Any = model.generate
            out = write(
                batch.ids,
                attention_mask=batch.attention,
                generation_config=self.generation_config(params),
                **(shown or {}),
                **more,
                **pushed,
            )
        new = out[:, batch.ids.shape[1] :].cpu().tolist()
        copies = params.copies
        return [[self._read(ids) for ids in new[i : i + copies]] for i in range(0, len(new), copies)]

    def _pushed(self, bias: Sequence[tuple[str, float]]) -> Any:
        """For `generate`, which adds it after whatever an intervention does to the logits, and before the temperature."""
        from transformers import LogitsProcessorList

        return LogitsProcessorList([PushedTokens(self.tokenizer, bias, self._end_ids)])

    def generation_config(self, params: GenerationParams):
        """Exactly what `params` says; a checkpoint's own sampling defaults are not taken over, its end tokens are."""
        from transformers import GenerationConfig

        sampling = (
            {"temperature": params.temperature, "top_p": params.top_p, "top_k": 0} if params.sample else {}
        )
        return GenerationConfig(
            max_new_tokens=params.max_new_tokens,
            do_sample=params.sample,
            num_beams=params.beams,
            num_return_sequences=params.copies,
            eos_token_id=sorted(self._end_ids),
            pad_token_id=self.pad_id,
            **sampling,
        )

    @cached_property
    def _leaves_rows(self) -> bool:
        """Whether rows that have ended may leave a batch without changing the others, tried out once."""
        config = self.generation_config(GenerationParams(max_new_tokens=6))
        return writes_as_generate(self.model, config, self.pad_id)

    def _read(self, ids: list[int]) -> Generation:
        stop = next((i for i, token in enumerate(ids) if token in self._end_ids), None)
        kept = ids if stop is None else ids[:stop]
        return Generation(self.encoder.decode(kept), len(kept) + (stop is not None), stop is not None)

    @cached_property
    def _end_ids(self) -> set[int]:
        own = self.model.generation_config.eos_token_id if self.model.generation_config else None
        more = own if isinstance(own, list) else [own]
        return {i for i in (*more, self.tokenizer.eos_token_id, self.encoder.end_id) if i is not None}

    @property
    def pad_id(self) -> int:
        """What stands at padded positions; attention never reads it."""
        return (
            self.tokenizer.pad_token_id
            if self.tokenizer.pad_token_id is not None
            else self.tokenizer.eos_token_id
        )


@dataclass
class _Stack:
    ids: Tensor  # [batch, nodes]
    positions: Tensor  # [batch, nodes]
    attention: Tensor  # [batch, 1, nodes, nodes] additive, or [batch, nodes] of 0 and 1 for single sequences
    enters: Tensor  # [batch, nodes] int64


def _stack(trees: Sequence[Tree], pad_id: int, *, tree_mask: bool, dtype: torch.dtype) -> _Stack:
    width = max(len(tree.ids) for tree in trees)
    ids = np.full((len(trees), width), pad_id, dtype=np.int64)
    positions = np.zeros((len(trees), width), dtype=np.int64)
    enters = np.full((len(trees), width), -1, dtype=np.int64)
    sees = np.zeros((len(trees), width, width), dtype=bool)
    sees[:, np.arange(width), np.arange(width)] = (
        True  # padding sees itself, so that no row of attention is empty
    )
    for row, tree in enumerate(trees):
        nodes = len(tree.ids)
        ids[row, :nodes], positions[row, :nodes], enters[row, :nodes] = tree.ids, tree.depth, tree.enters
        sees[row, :nodes, :nodes] = tree.sees
    if tree_mask:
        attention = torch.zeros(sees.shape, dtype=dtype).masked_fill_(
            ~torch.from_numpy(sees), torch.finfo(dtype).min
        )[:, None]
    else:
        attention = torch.from_numpy(np.arange(width) < np.array([[len(tree.ids)] for tree in trees])).long()
    return _Stack(torch.from_numpy(ids), torch.from_numpy(positions), attention, torch.from_numpy(enters))


def _is_greedy(params: GenerationParams) -> bool:
    return not params.sample and not params.bias and params.beams == params.copies == 1


def _score(logp: np.ndarray, hits: np.ndarray, z: np.ndarray, ranks: np.ndarray) -> Score:
    """A token that an intervention leaves no probability counts as FLOOR nats, and the score says so."""
    possible = np.isfinite(logp)
    return Score(np.where(possible, logp, np.float32(FLOOR)), hits & possible, not possible.all(), z, ranks)
