"""Free vectors in a prompt: where they stand, how they are pushed towards an opening, and what the model writes after them.

    [ question ][ k vectors ][ what the template has before an answer ] -> [ opening ]

The opening never has the answer in it. The model's weights take no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from expunge.attacks._attack import WRITE, answers_of
from expunge.attacks._case import Case
from expunge.attacks._lens import block_outputs, encoded
from expunge.attacks._reading import says_any
from expunge.data.batching import by_length, collate
from expunge.data.tokenize import Encoded
from expunge.models.hidden import find_blocks
from expunge.models.logprobs import head_rows, token_logp
from expunge.types import Example, Prompt

if TYPE_CHECKING:
    from expunge.models.language_model import TransformerLM

SURE = "Sure, the answer is"
START = "!"
"""The vectors start as this word's, written over and over."""
WRITING = 64
"""Tokens that are written, and that have to fit the context."""


class Slots(NamedTuple):
    """One case's tokens; the vectors stand in place of `slots` of them."""

    case: int
    row: Encoded
    """Prompt and opening, without an end token."""
    first: int
    slots: int

    @property
    def prompt(self) -> list[int]:
        return self.row.ids[: self.row.start]


def opening(case: Case) -> str:
    """What the model is pushed to begin with: the statement up to the value, or a short yes; never the answer."""
    head = case.head
    told = head and answers_of(case) and says_any(head, answers_of(case)[0])
    return head if head and not told else SURE


def slots_of(lm: TransformerLM, cases: Sequence[Case], slots: int) -> list[Slots]:
    """Each case's prompt with room for vectors. Left out: cases without a known value, those whose question says it, and those that are
    too long for the model.
    """
    mark = " ".join([START] * slots)
    found = []
    for number, case in enumerate(cases):
        if not case.value or says_any(case.question, answers_of(case)[0]):
            continue
        row = encoded(lm, Example(Prompt.ask(f"{case.question} {mark}"), opening(case)))
        if row is None:
            continue
        begin = row.text.rfind(mark, 0, row.head)
        inside = [
            i
            for i, (start, end) in enumerate(row.offsets[: row.start])
            if begin >= 0 and end > begin and start < begin + len(mark) and end > start
        ]
        if not inside:
            continue  # the template does not show the question as it is
        first, last = inside[0], inside[-1] + 1
        vectors = (row.ids[first:last] * slots)[:slots]
        ids = [*row.ids[:first], *vectors, *row.ids[last:-1]]
        start = row.start + slots - (last - first)
        if start + WRITING <= lm.encoder.max_tokens:
            found.append(Slots(number, Encoded(ids, start, row.text, [], row.head), first, slots))
    return found


def in_batches(lm: TransformerLM, rows: Sequence[Slots]) -> list[list[Slots]]:
    """Rows of like length together, with room for gradients."""
    near = by_length([len(one.row.ids) for one in rows], max(1, lm.batch_tokens // 4), max_padding=0.5)
    return [[rows[i] for i in batch] for batch in near]


def looked_up(lm: TransformerLM, ids: Tensor) -> Tensor:
    embed: Any = lm.model.get_input_embeddings()
    with torch.no_grad():
        return embed(ids).float()


def first_vectors(lm: TransformerLM, rows: Sequence[Slots]) -> Tensor:
    """[rows, slots, hidden]: the vectors before any step."""
    ids = torch.tensor([one.row.ids[one.first : one.first + one.slots] for one in rows])
    return looked_up(lm, ids.to(lm.model.device))


def size_of(lm: TransformerLM, rows: Sequence[Slots]) -> float:
    """Root mean square of the embeddings of the prompts' tokens: the unit of steps."""
    ids = sorted({token for one in rows for token in one.prompt})
    return float(looked_up(lm, torch.tensor(ids, device=lm.model.device)).square().mean().sqrt())


def _placed(lm: TransformerLM, ids: Tensor, firsts: Tensor, vectors: Tensor) -> Tensor:
    """[batch, tokens, hidden]: embeddings of a batch with the vectors in place."""
    where = firsts[:, None] + torch.arange(vectors.shape[1], device=ids.device)
    rows = torch.arange(len(ids), device=ids.device)[:, None].expand_as(where)
    return looked_up(lm, ids).index_put((rows, where), vectors).to(lm.model.dtype)


def losses(lm: TransformerLM, rows: Sequence[Slots], vectors: Tensor) -> Tensor:
    """[rows] mean -log p of each opening's tokens, with gradients to the vectors ([rows, slots, hidden])."""
    batch = collate([one.row for one in rows], lm.pad_id, device=lm.model.device)
    firsts = torch.tensor([one.first for one in rows], device=lm.model.device)
    predicts = torch.zeros_like(batch.answer)
    predicts[:, :-1] = batch.answer[:, 1:]
    run: Any = lm.model
    with head_rows(run, predicts):
        logits = run(
            inputs_embeds=_placed(lm, batch.ids, firsts, vectors),
            attention_mask=batch.attention,
            use_cache=False,
        ).logits.float()
    logp = token_logp(logits, batch.ids[batch.answer])
    total = logp.new_zeros(len(rows)).index_add(0, predicts.nonzero()[:, 0], logp)
    return -total / batch.answer.sum(1)


def written(lm: TransformerLM, rows: Sequence[Slots], vectors: Tensor) -> list[list[int]]:
    """What the model writes greedily after each prompt, without the opening: the tokens, up to the end token."""
    prompts = [Encoded(one.prompt, one.row.start, "", [], 0) for one in rows]
    batch = collate(prompts, lm.pad_id, side="left", device=lm.model.device)
    width = batch.ids.shape[1]
    firsts = torch.tensor([one.first + width - len(one.prompt) for one in rows], device=lm.model.device)
    write: Any = lm.model.generate
    config = lm.generation_config(WRITE)
    with torch.inference_mode():
        out = write(
            inputs_embeds=_placed(lm, batch.ids, firsts, vectors),
            attention_mask=batch.attention,
            generation_config=config,
        )
    ends = set(config.eos_token_id)
    return [_upto(row, ends) for row in out.cpu().tolist()]


def _upto(ids: list[int], ends: set[int]) -> list[int]:
    return ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))]


def states_after(lm: TransformerLM, one: Slots, vectors: Tensor, tokens: Sequence[int]) -> list[Tensor]:
    """By block, [written tokens, hidden]: the states from which each written token came."""
    ids = torch.tensor([[*one.prompt, *tokens]], device=lm.model.device)
    firsts = torch.tensor([one.first], device=lm.model.device)
    owner: Any = find_blocks(lm.model, 0).owner
    with torch.no_grad(), block_outputs(lm.model) as seen:
        owner(
            inputs_embeds=_placed(lm, ids, firsts, vectors[None]),
            attention_mask=torch.ones_like(ids),
            use_cache=False,
        )
    start = len(one.prompt) - 1
    return [out[0, start : start + len(tokens)].float() for out in seen]
