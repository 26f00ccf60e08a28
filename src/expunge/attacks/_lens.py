"""What a model's states say on the way to its answer: states of all blocks at one token, and what the model's own end makes of any state.

The end is run as the model runs it: final norm, head, and whatever it does to logits after the head (capping, scaling). So the reading of
the last block is the model's own answer, in every architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from expunge.attacks._attack import Found, Reading, answers_of
from expunge.attacks._case import Case
from expunge.data.batching import by_length, collate
from expunge.data.tokenize import Encoded
from expunge.errors import DataError
from expunge.models.hidden import find_blocks
from expunge.types import Example, Prompt

if TYPE_CHECKING:
    from expunge.models.language_model import TransformerLM

TOPS = (1, 10, 100)
"""A hit@k: one of the answer's first tokens is among the k likeliest."""
NOBODY = "this person"
"""In place of a name, for what a prompt says of nobody in particular."""
AT_ONCE = 256
"""States that meet the vocabulary together."""


class Spot(NamedTuple):
    """One case's prompt, and the token whose states are read."""

    case: int
    row: Encoded
    at: int
    firsts: tuple[frozenset[int], ...]
    """Of the right answer and of each wrong one, the tokens that it may start with."""


# --- prompts and places -------------------------------------------------------------------------------------------------
def before_value(lm: TransformerLM, cases: Sequence[Case], name: str = "") -> list[Spot]:
    """The token right before the value, after the question and the statement's head. `name`: stands in place of the case's own; then
    cases without a name are left out.
    """
    return _spots(lm, cases, name, opened=True)


def after_question(lm: TransformerLM, cases: Sequence[Case], name: str = "") -> list[Spot]:
    """The last token of the bare question as it is put to the model; only cases where that is not right before the value anyway."""
    return _spots(lm, [case if case.head else None for case in cases], name, opened=False)


def _spots(lm: TransformerLM, cases: Sequence[Case | None], name: str, *, opened: bool) -> list[Spot]:
    found = []
    for number, case in enumerate(cases):
        if case is None or not case.value or (name and not case.name):
            continue
        question, head = case.question, case.head if opened else ""
        if name:
            question, head = case.about(name), head.replace(case.name, name)
        row = encoded(lm, Example(Prompt.ask(question, head), case.value))
        if row is not None:
            firsts = tuple(
                frozenset().union(*(first_tokens(lm, question, head, form) for form in forms))
                for forms in answers_of(case)
            )
            found.append(Spot(number, row, row.start - 1, firsts))
    return found


def encoded(lm: TransformerLM, example: Example) -> Encoded | None:
    """A row's tokens; None where it is longer than the model reads."""
    try:
        return lm.encoder.examples([example])[0]
    except DataError:
        return None


def first_tokens(lm: TransformerLM, question: str, head: str, text: str) -> frozenset[int]:
    """What an answer may start with: its first token where it stands, alone, and after a space. Tokens of space alone do not count."""
    starts = []
    row = encoded(lm, Example(Prompt.ask(question, head), text))
    if row is not None:
        starts.append(row.ids[row.start : -1])
    starts += [lm.tokenizer(form, add_special_tokens=False)["input_ids"] for form in (text, f" {text}")]
    firsts = (next((i for i in ids if str(lm.tokenizer.decode([i])).strip()), None) for ids in starts)
    return frozenset(token for token in firsts if token is not None)


# --- states and what they say ---------------------------------------------------------------------------------------------
@contextmanager
def block_outputs(model: Any) -> Generator[list[Tensor]]:
    """While open, a list that receives what each block puts out, [batch, tokens, hidden], in order."""
    seen: list[Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as stack:
        for block in find_blocks(model, 0).modules:
            stack.callback(block.register_forward_hook(keep).remove)
        yield seen


def states_at(lm: TransformerLM, rows: Sequence[Encoded], at: Sequence[int]) -> Tensor:
    """[rows, blocks, hidden] float32: what every block puts out at one token of each row."""
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for near in by_length([len(row.ids) for row in rows], lm.batch_tokens):
        batch = collate([rows[i] for i in near], lm.pad_id, device=lm.model.device)
        owner: Any = find_blocks(lm.model, 0).owner
        with torch.no_grad(), block_outputs(lm.model) as seen:
            owner(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False)
        for place, i in enumerate(near):
            found[i] = torch.stack([out[place, at[i]].float() for out in seen])
    return torch.stack(found)


def to_logits(model: Any, states: Tensor) -> Tensor:
    """[n, hidden] states as the last block puts them out, to [n, vocab] float32 logits by the model's own end, with gradients."""
    blocks = find_blocks(model, 0)
    last = blocks.modules[-1:]

    def put(module: Any, args: Any, output: Any) -> Any:
        wanted = states.to(model.dtype)[:, None]
        return (wanted, *output[1:]) if isinstance(output, tuple) else wanted

    handle = last[0].register_forward_hook(put)
    setattr(blocks.owner, blocks.name, last)  # the earlier blocks have no say
    ids = torch.zeros(len(states), 1, dtype=torch.int64, device=states.device)
    try:
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, 0].float()
    finally:
        setattr(blocks.owner, blocks.name, blocks.modules)
        handle.remove()


def said(lm: TransformerLM, states: Tensor) -> Tensor:
    """[n, vocab] probabilities that the model's own end gives to states."""
    with torch.no_grad():
        return torch.cat([to_logits(lm.model, part).softmax(-1) for part in states.split(AT_ONCE)])


class Heard(NamedTuple):
    """What one block's states say, spot by spot."""

    ranks: list[list[int]]
    """How many other tokens are as likely as the likeliest first token of each answer or likelier, right one first: where all are level,
    or no numbers, none is picked out.
    """
    best: list[list[int]]
    """The likeliest tokens."""


def heard(spots: Sequence[Spot], scores: Tensor) -> Heard:
    """From [spots, vocab] scores."""
    ranks = []
    for spot, row in zip(spots, scores, strict=True):
        tops = [row[sorted(ids)].max() if ids else row.new_tensor(float("-inf")) for ids in spot.firsts]
        below = (row[None] < torch.stack(tops)[:, None]).sum(1)
        ranks.append((len(row) - 1 - below).tolist())
    return Heard(ranks, scores.topk(min(5, scores.shape[1])).indices.tolist())


def read_blocks(
    lm: TransformerLM,
    spots: Sequence[Spot],
    blocks: Sequence[Heard],
    variant: str,
    tops: Sequence[int] = TOPS,
) -> tuple[list[Found], dict[str, float | None]]:
    """hit@1 of every case at the block where most cases are hit, and the curves over blocks of hit@k for each k of `tops`.

    The wrong answers get the same favour: the n-th ones of all cases are read at the block that is best for them.
    """
    width = max((len(spot.firsts) for spot in spots), default=0)
    best = [
        max(range(len(blocks)), key=lambda layer: _share(blocks[layer], answer, 1)) for answer in range(width)
    ]
    notes: dict[str, float | None] = {}
    for k in tops:
        curve = [_share(block, 0, k) for block in blocks]
        notes |= {f"{variant}, hit@{k}, block {layer}": share for layer, share in enumerate(curve)}
        notes[f"{variant}, hit@{k}, best"] = max(curve)
    notes[f"{variant}, best block"] = float(best[0])
    found = []
    for place, spot in enumerate(spots):
        hits = tuple(blocks[best[i]].ranks[place][i] == 0 for i in range(len(spot.firsts)))
        words = [str(lm.tokenizer.decode([token])).strip() for token in blocks[best[0]].best[place]]
        prompt = spot.row.text[: spot.row.offsets[spot.at][1]]
        found.append(Found(spot.case, hits, f"{variant}, block {best[0]}", ", ".join(words), prompt))
    return found, notes


def _share(block: Heard, answer: int, k: int) -> float:
    ranks = [row[answer] for row in block.ranks if answer < len(row)]
    return sum(rank < k for rank in ranks) / len(ranks)


def read_through(
    lm: TransformerLM,
    cases: Sequence[Case],
    lens: Callable[[TransformerLM, Tensor, int], Tensor],
    *,
    prior: bool,
) -> Reading:
    """All places and blocks read through a lens: (model, states, block) to [n, vocab] probabilities. `prior`: a second time, less what
    the same prompts say of nobody in particular.
    """
    found: list[Found] = []
    notes: dict[str, float | None] = {}
    for place, spots_of in (("before the value", before_value), ("after the question", after_question)):
        spots = spots_of(lm, cases)
        if not spots:
            continue
        states = states_at(lm, [spot.row for spot in spots], [spot.at for spot in spots])
        neutral = {spot.case: spot for spot in spots_of(lm, cases, NOBODY)} if prior else {}
        both = [i for i, spot in enumerate(spots) if spot.case in neutral]
        others = [neutral[spots[i].case] for i in both]
        nobody = states_at(lm, [s.row for s in others], [s.at for s in others]) if both else None
        plain, less = [], []
        for block in range(states.shape[1]):
            p = lens(lm, states[:, block], block)
            plain.append(heard(spots, p))
            if nobody is not None:
                less.append(heard([spots[i] for i in both], p[both] - lens(lm, nobody[:, block], block)))
        for variant, which, blocks in (
            (place, spots, plain),
            (f"{place}, less the prior", [spots[i] for i in both], less),
        ):
            if blocks:
                rows, curves = read_blocks(lm, which, blocks, variant)
                found += rows
                notes |= curves
    return Reading(found, notes, "" if found else "no row says which words carry the fact")
