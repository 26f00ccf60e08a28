"""A batch of answers under way: rows join it with their prompts read, get one token a step, and leave it when they end.

The caches of the rows stand side by side, padded on the left; a row's keys, values and positions are those that it would have
alone. What is done to one row (a corrupted input, a temperature, a draw) is done to that row only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from expunge.data.batching import collate
from expunge.data.tokenize import Encoded
from expunge.models.corrupted import Corruption, prompt_enters
from expunge.models.kv_cache import cache_name
from expunge.models.logprobs import head_rows
from expunge.types import GenerationParams

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

    from expunge.models.language_model import TransformerLM

LIKELY = 1024
"""Tokens among which the most likely ones are looked for before the whole vocabulary is sorted."""


@dataclass(eq=False, kw_only=True)
class Row:
    """One answer under way."""

    encoded: Encoded
    """The prompt."""
    limit: int
    """Tokens that it may have."""
    ends: Collection[int] = ()
    params: GenerationParams = field(default_factory=GenerationParams)
    corruption: Corruption | None = None
    draws: np.random.Generator | None = None
    """Where its tokens are drawn; None: the most likely ones."""
    push: Callable[[Tensor], Tensor] | None = None
    """What becomes of its logits [vocab] before a token is chosen."""
    logprobs: list[float] | None = None
    """Of each token that is written, nats, before bias and temperature; None where nobody asks."""
    written: list[int] = field(default_factory=list)
    """The end token included."""

    def __post_init__(self) -> None:
        self._enters = prompt_enters(self.corruption, self.encoded) if self.corruption else None
        self._verdicts = self.corruption.verdicts if self.corruption else ()

    @property
    def ended(self) -> bool:
        return bool(self.written) and (self.written[-1] in self.ends or len(self.written) >= self.limit)

    @property
    def held(self) -> int:
        """Tokens that the cache holds of it: all but the last one."""
        return len(self.encoded.ids) + len(self.written) - 1

    def prompt_hits(self) -> list[tuple[int, int]]:
        """Prompt positions that enter corrupted, and the token that is corrupted there."""
        return (
            []
            if self._enters is None
            else [(int(i), int(self._enters[i])) for i in (self._enters >= 0).nonzero()[0]]
        )

    def last_hit(self) -> int | None:
        """The token that is corrupted where the last written one enters; None where that enters as it is."""
        if self.corruption is None:
            return None
        token = self.written[-1]
        hit = self._verdicts[token]
        if hit is None:
            hit = self.corruption.written_mask(self.written, len(self.written) - 1)[0]
        return self.corruption.written_as(token) if hit else None


R = TypeVar("R", bound=Row)


class Running(Generic[R]):
    """The rows that are under way in one model."""

    def __init__(self, model: PreTrainedModel, pad_id: int):
        self.model, self.pad_id = model, pad_id
        self.rows: list[R] = []
        self._cache: DynamicCache | None = None

    @torch.inference_mode()
    def read(self, rows: Sequence[Row]) -> tuple[Tensor, DynamicCache]:
        """[rows, vocab] logits of the first tokens after prompts that are read together, and their cache."""
        from transformers import DynamicCache

        batch = collate([row.encoded for row in rows], self.pad_id, side="left", device=self.model.device)
        width = batch.ids.shape[1]
        hits = [
            (line * width + width - len(row.encoded.ids) + at, source, row.corruption)
            for line, row in enumerate(rows)
            for at, source in row.prompt_hits()
        ]
        cache = DynamicCache(config=self.model.config.get_text_config())
        last = torch.zeros_like(batch.attention, dtype=torch.bool)
        last[:, -1] = True
        with head_rows(self.model, last):
            logits = self._forward(batch.ids, batch.attention, hits, cache)
        return logits, cache

    def join(self, rows: Sequence[R], cache: DynamicCache) -> None:
        """Put rows that have been read, and have their first token, beside the others."""
        if self._cache is None:
            self._cache = cache
        else:
            put_beside(self._cache, cache)
        self.rows += rows
        self.leave()

    @torch.inference_mode()
    def step(self) -> Tensor:
        """[rows, vocab] logits of the next token of each row."""
        device, held = self.model.device, [row.held for row in self.rows]
        width = max(held) + 1
        ids = torch.tensor([[row.written[-1]] for row in self.rows], device=device)
        first = torch.tensor([[width - 1 - count] for count in held], device=device)
        attention = (torch.arange(width, device=device) >= first).long()
        sources = [row.last_hit() for row in self.rows]
        hits = [
            (line, source, row.corruption)
            for line, (row, source) in enumerate(zip(self.rows, sources, strict=True))
            if source is not None
        ]
        return self._forward(ids, attention, hits, self._cache)[:, -1]

    def _forward(
        self, ids: Tensor, attention: Tensor, hits: Sequence[tuple[int, int, Any]], cache: DynamicCache | None
    ) -> Tensor:
        run: Any = self.model
        positions = (attention.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        inputs = {"inputs_embeds": corrupted(run, ids, hits)} if hits else {"input_ids": ids}
        held = {cache_name(): cache}
        return run(**inputs, attention_mask=attention, position_ids=positions, use_cache=True, **held).logits

    @torch.inference_mode()
    def leave(self, gone: Collection[Row] = ()) -> None:
        """Take out the rows that have ended and those that are `gone`, and the columns that no row needs any more."""
        kept = [line for line, row in enumerate(self.rows) if not row.ended and row not in gone]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[line] for line in kept]
        if not kept or self._cache is None:
            self._cache = None
            return
        needed = max(row.held for row in self.rows)
        keep_rows(self._cache, kept, needed)

    def clear(self) -> list[R]:
        """Take all rows out."""
        rows, self.rows, self._cache = self.rows, [], None
        return rows


def keep_rows(cache: DynamicCache, rows: Sequence[int], tokens: int) -> None:
    """Take out the other rows of a cache, and all but the last `tokens` columns."""
    for layer in cache.layers:
        for name in ("keys", "values"):
            part = getattr(layer, name)  # [rows, heads, tokens, dim]
            setattr(layer, name, part[torch.tensor(rows, device=part.device), :, part.shape[-2] - tokens :])


def put_beside(cache: DynamicCache, other: DynamicCache) -> None:
    """Add the rows of another cache below those of `cache`; the narrower one is padded on the left."""
    for mine, theirs in zip(cache.layers, other.layers, strict=True):
        for name in ("keys", "values"):
            parts = [getattr(layer, name) for layer in (mine, theirs)]  # [rows, heads, tokens, dim]
            width = max(part.shape[-2] for part in parts)
            setattr(mine, name, torch.cat([pad(part, (0, 0, width - part.shape[-2], 0)) for part in parts]))


def corrupted(model: PreTrainedModel, ids: Tensor, hits: Sequence[tuple[int, int, Corruption]]) -> Tensor:
    """[batch, tokens, hidden] embeddings of `ids`, corrupted at flat positions; each has the token that is corrupted there, and by what."""
    table = model.get_input_embeddings()
    embeddings = table(ids)
    flat = embeddings.view(-1, embeddings.shape[-1])
    for corruption in {id(hit[2]): hit[2] for hit in hits}.values():
        mine = [hit for hit in hits if hit[2] is corruption]
        where, sources = (torch.tensor([hit[i] for hit in mine], device=flat.device) for i in (0, 1))
        flat.index_copy_(0, where, corruption.apply(table(sources), [hit[1] for hit in mine]))
    return embeddings


# --- which token comes next -------------------------------------------------------------------------------------------
@torch.inference_mode()
def choose(logits: Tensor, rows: Sequence[Row]) -> None:
    """Write one more token into each row, from [rows, vocab] logits."""
    plain = logits = logits.float()
    pushed = [(line, row.push) for line, row in enumerate(rows) if row.push]
    if pushed:
        logits = plain.clone()
        for line, push in pushed:
            logits[line] = push(plain[line])
    tokens = logits.argmax(-1).tolist()
    drawn = [line for line, row in enumerate(rows) if row.draws is not None]
    if drawn:
        for line, token in zip(drawn, draw(logits[drawn], [rows[line] for line in drawn]), strict=True):
            tokens[line] = token
    asked = {line: row.logprobs for line, row in enumerate(rows) if row.logprobs is not None}
    if asked:
        given = torch.tensor([tokens[line] for line in asked], device=plain.device)
        found = plain[list(asked)].log_softmax(-1).gather(-1, given[:, None])[:, 0].tolist()
        for known, logprob in zip(asked.values(), found, strict=True):
            known.append(logprob)
    for row, token in zip(rows, tokens, strict=True):
        row.written.append(token)


def draw(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """One token of each row of [rows, vocab] logits, by the row's temperature and among its `top_p` most likely tokens: the first
    whose cumulative probability passes one uniform number of the row's own. Of the same distribution as `generate`'s.
    """
    heat = torch.tensor([[row.params.temperature] for row in rows], dtype=torch.float64)
    share = torch.tensor([[row.params.top_p] for row in rows], dtype=torch.float64)
    uniform = torch.tensor([[row.draws.random()] for row in rows if row.draws], dtype=torch.float64)
    p = (logits.double() / heat.to(logits.device)).softmax(-1)
    tokens: list[int] = [0] * len(rows)
    cut = share[:, 0] < 1
    for lines, sort in ((~cut).nonzero()[:, 0].tolist(), False), (cut.nonzero()[:, 0].tolist(), True):
        if lines:
            found = _first_past(p[lines], share[lines].to(p.device), uniform[lines].to(p.device), sort=sort)
            for line, token in zip(lines, found.tolist(), strict=True):
                tokens[line] = token
    return tokens


def _first_past(p: Tensor, share: Tensor, uniform: Tensor, *, sort: bool) -> Tensor:
    """[rows] token ids, from probabilities [rows, vocab] and [rows, 1] of the others."""
    ids = None
    if sort:
        for count in (min(LIKELY, p.shape[-1]), p.shape[-1]):
            best, ids = p.topk(count, dim=-1)
            if (best.sum(-1, keepdim=True) >= share).all():
                break
        above = best.cumsum(-1) - best  # what stands before each token
        p = torch.where(above < share, best, 0.0)
    total = p.cumsum(-1)
    at = torch.searchsorted(total, uniform * total[:, -1:], right=True)
    last = (
        p.shape[-1] - 1 - p.flip(-1).ne(0).int().argmax(-1, keepdim=True)
    )  # rounding may lead past the last token that can come
    at = torch.minimum(at, last)
    return (at if ids is None else ids.gather(-1, at))[:, 0]


# --- whether a model can --------------------------------------------------------------------------------------------------
def runs_as_generate(lm: TransformerLM) -> bool:
    """Whether rows that join and leave at different times get the logits that `generate` gives each alone, tried out with three.

    False for recurrent states, sliding windows, and checkpoints that want something of every answer, such as a repetition penalty.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    model, vocabulary = lm.model, lm.model.config.get_text_config().vocab_size
    write: Any = model.generate
    expected = []
    for length, count in (4, 6), (2, 4), (7, 5):
        ids = [i % vocabulary for i in range(3, 3 + length)]
        config = lm.generation_config(GenerationParams(max_new_tokens=count))
        config.eos_token_id, config.output_scores, config.return_dict_in_generate = None, True, True
        with torch.inference_mode():
            given = torch.tensor([ids], device=model.device)
            out = write(given, attention_mask=torch.ones_like(given), generation_config=config)
        tokens = out.sequences[0, length:].tolist()
        row = Row(encoded=Encoded(ids, length, "", [], 0), limit=len(tokens))
        expected.append((row, tokens, torch.cat(out.scores)))
    same: list[bool] = []

    def compare(logits: Tensor, rows: Sequence[Row]) -> None:
        for line, row in enumerate(rows):
            _, tokens, scores = next(known for known in expected if known[0] is row)
            same.append(_alike(logits[line], scores[len(row.written)], model.dtype))
            row.written.append(tokens[len(row.written)])

    running: Running[Row] = Running(model, lm.pad_id)
    try:
        if any(
            type(layer) is not DynamicLayer
            for layer in DynamicCache(config=model.config.get_text_config()).layers
        ):
            return False
        for joining in expected[:1], [], expected[1:], [], [], [], []:
            if running.rows:
                compare(running.step(), running.rows)
                running.leave()
            if joining:
                rows = [row for row, _, _ in joining]
                logits, cache = running.read(rows)
                compare(logits, rows)
                running.join(rows, cache)
    except (ValueError, RuntimeError, TypeError, AttributeError, LookupError, NotImplementedError):
        return False  # it keeps no cache of this kind, or takes no positions
    return all(same) and all(row.ended for row, _, _ in expected)


def _alike(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    a, b = (logits.float().log_softmax(-1) for logits in (found, expected))
    return torch.allclose(a, b, atol=1e-4) if dtype == torch.float32 else float((a - b).abs().mean()) < 5e-2
