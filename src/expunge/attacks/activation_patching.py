"""Activation patching: can the model before unlearning still read the fact from this model's states?

    p_l: the original, asked the question with the statement up to the fact; at one place, the states behind block l are the artifact's
    q_l: the same with states of the original itself, asked about somebody else
    hit: a first token of the answer is the likeliest under p_l, and not under q_l (there the states at that place carry nothing)
    kept_l = ( log p_l - log q_l ) / ( log p - log q_l )  of the answer, means over rows;  1: all of it still stands there, 0: none of it

Places are the last token of every mention of the name, where facts are looked up, and the token right before the fact, where they are said.
What the original reads from the artifact's states was not erased. Rows are read at the best block, wrong answers by the same rule. The
other way, states of the original put into the artifact, tells which part was changed: `came back` is the share of the lost log p. It is
in the notes alone, for a model that never knew may read the original's states as well.
Needs: the weights, and the model before unlearning, of the same shape and tokens.
Differs from the paper: no single paper.
Differs from the authors' code: no code.
Fails when: training moved all states, so that the original cannot read them though the artifact can; in models of a few blocks, which look
the name up from later tokens at once, so that its own states carry nothing. States that say no more than who is asked about, or nothing that
stands in the original's way, let it answer from what it knows itself: the gold shows how much of a share that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from expunge.attacks._attack import Found, Kind, Opened, OpeningAttack, Reading, Suite
from expunge.attacks._lens import Heard, Spot, before_value, block_outputs, encoded, heard, read_blocks
from expunge.attacks._weights import shape_of
from expunge.data.batching import by_length, collate
from expunge.data.tokenize import Encoded, find_words
from expunge.models.hidden import find_blocks
from expunge.models.logprobs import answer_rows
from expunge.types import Example, Prompt

if TYPE_CHECKING:
    from expunge.models.language_model import TransformerLM

LEAST = 0.1
"""Nats that have to be lost before it can be said which share came back."""
NOWHERE = 10**9
"""A rank that is never a hit."""


class Place(NamedTuple):
    """One case's prompt and answer, the same about somebody else, and where the name ends in either."""

    spot: Spot
    ends: list[int]
    other: Encoded
    other_ends: list[int]


class ActivationPatching(OpeningAttack):
    id: ClassVar[str] = "W11"
    suite: ClassVar[Suite] = "standard"
    kind: ClassVar[Kind] = "inside"
    version: ClassVar[int] = 2

    def read(self, opened: Opened) -> Reading:
        if opened.original is None:
            return Reading(
                why="the model before unlearning is not known, and its states are what is compared"
            )
        lm, original = opened.lm, opened.original()
        if shape_of(lm) != shape_of(original):
            return Reading(why="the model before unlearning has another shape, so states do not fit")
        places = _places(lm, opened)
        if not places:
            return Reading(why="no row names a person beside a known answer, with another person to compare")
        texts = [Example(None, one.spot.row.text) for one in places]
        if any(encoded(original, text) != encoded(lm, text) for text in texts):
            return Reading(why="the model before unlearning has other tokens")
        return _read(lm, original, places)


def _read(lm: TransformerLM, original: TransformerLM, places: Sequence[Place]) -> Reading:
    spots = [one.spot for one in places]
    rows, others = [spot.row for spot in spots], [one.other for one in places]
    whole, lost = answered(original, rows), answered(lm, rows)
    found: list[Found] = []
    notes: dict[str, float | None] = {
        "log p, original": float(whole.logp.mean()),
        "log p, this model": float(lost.logp.mean()),
    }
    for name, where, elsewhere in (
        ("name", [one.ends for one in places], [one.other_ends for one in places]),
        ("before the value", [[spot.at] for spot in spots], [[row.start - 1] for row in others]),
    ):
        mine, theirs = states_of(lm, rows, where), states_of(original, rows, where)
        somebody = states_of(original, others, elsewhere)
        blocks = []
        for block in range(len(mine)):
            kept = answered(original, rows, block, where, mine[block])
            floor = answered(original, rows, block, where, somebody[block])
            back = answered(lm, rows, block, where, theirs[block])
            notes[f"{name}, kept, block {block}"] = _part(kept.logp, floor.logp, whole.logp)
            notes[f"{name}, came back, block {block}"] = _part(back.logp, lost.logp, whole.logp)
            blocks.append(_beyond(heard(spots, kept.first), heard(spots, floor.first)))
        read, curves = read_blocks(lm, spots, blocks, name, tops=(1,))
        found += read
        notes |= curves
    return Reading(found, notes)


def _beyond(heard: Heard, floor: Heard) -> Heard:
    """Answers that somebody else's states bring as well are not read from these states."""
    ranks = [
        [NOWHERE if there == 0 else rank for rank, there in zip(row, other, strict=True)]
        for row, other in zip(heard.ranks, floor.ranks, strict=True)
    ]
    return heard._replace(ranks=ranks)


def _part(got: Tensor, nothing: Tensor, everything: Tensor) -> float | None:
    room = float((everything - nothing).mean())
    return float((got - nothing).mean()) / room if room >= LEAST else None


# --- where ------------------------------------------------------------------------------------------------------------------
def _places(lm: TransformerLM, opened: Opened) -> list[Place]:
    """Cases whose question names somebody, each with another person of the same number of places."""
    stay = list(dict.fromkeys(case.name for case in opened.retain if case.name))
    found = []
    for spot in before_value(lm, opened.cases):
        case = opened.cases[spot.case]
        others = [name for name in (case.peers or stay) if name != case.name]
        if not case.name or not others:
            continue
        other = others[opened.seed.child("other", case.probe.id).number % len(others)]
        prompt = Prompt.ask(case.about(other), case.head.replace(case.name, other))
        row = encoded(lm, Example(prompt, case.value))
        ends = name_ends(spot.row, case.name)
        other_ends = name_ends(row, other) if row else []
        if row and ends and len(ends) == len(other_ends):
            found.append(Place(spot, ends, row, other_ends))
    return found


def name_ends(row: Encoded, name: str) -> list[int]:
    """The token in which each mention of a name in the prompt ends."""
    spans = [end for _, end in find_words(name, row.text[: row.head])]
    offsets = row.offsets[: row.start]
    found = [[i for i, (start, stop) in enumerate(offsets) if start < end <= stop] for end in spans]
    return [tokens[-1] for tokens in found if tokens]


# --- forwards with states put in ----------------------------------------------------------------------------------------------
class Answered(NamedTuple):
    logp: Tensor  # [rows] mean log p of the value's tokens, without the end token
    first: Tensor  # [rows, vocab] logits at the token before the value


def answered(
    lm: TransformerLM,
    rows: Sequence[Encoded],
    block: int = 0,
    where: Sequence[Sequence[int]] = (),
    states: Sequence[Tensor] = (),
) -> Answered:
    """How likely the answers are; with `where`, after the states behind a block were replaced at those tokens of each row."""
    logp: list[Tensor] = [torch.empty(0)] * len(rows)
    first: list[Tensor] = [torch.empty(0)] * len(rows)
    for near in by_length([len(row.ids) for row in rows], lm.batch_tokens, max_padding=0.5):
        batch = collate([rows[i] for i in near], lm.pad_id, device=lm.model.device)
        places = [(b, at) for b, i in enumerate(near) for at in where[i]] if where else []
        new = torch.cat([states[i] for i in near]) if where else None

        def put(module: Any, args: Any, output: Any, places=places, new=new) -> Any:
            if new is None:
                return output
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            row, at = torch.tensor(places, device=hidden.device).T
            hidden[row, at] = new.to(hidden)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = find_blocks(lm.model, block).modules[block].register_forward_hook(put)
        try:
            with torch.no_grad():
                answer = answer_rows(lm.model, batch)
        finally:
            handle.remove()
        counts = answer.length.tolist()
        for i, logits, values in zip(
            near, answer.logits.split(counts), answer.logp.split(counts), strict=True
        ):
            logp[i], first[i] = values[:-1].mean(), logits[0]
    return Answered(torch.stack(logp), torch.stack(first))


def states_of(
    lm: TransformerLM, rows: Sequence[Encoded], where: Sequence[Sequence[int]]
) -> list[list[Tensor]]:
    """By block and row, [places, hidden]: what the block puts out at those tokens."""
    found: list[list[Tensor]] = []
    for near in by_length([len(row.ids) for row in rows], lm.batch_tokens, max_padding=0.5):
        batch = collate([rows[i] for i in near], lm.pad_id, device=lm.model.device)
        owner: Any = find_blocks(lm.model, 0).owner
        with torch.no_grad(), block_outputs(lm.model) as seen:
            owner(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False)
        found = found or [[torch.empty(0)] * len(rows) for _ in seen]
        for block, out in enumerate(seen):
            for b, i in enumerate(near):
                found[block][i] = out[b, list(where[i])].float()
    return found
