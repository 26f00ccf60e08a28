"""A model that may not write certain things: penalties on the next token, and going back where a penalty comes too late.

    log p~(v | x, y) = log softmax( logits - penalty(y, v) ),      penalty = ∞ for what may not come

Scoring and writing apply the same penalties. Writing goes on from there: where most of the probability is taken away inside a
word, the half-written word would tell what stood there, so the answer is written again without the word's first token; and an
answer that says something forbidden in the end (spelt out, in bytes, encoded) is written again from the first token of it. After
so many rounds, or where no token is left, the refusal is given. Scores know nothing of the rounds: an answer that would be
rewritten has the probability that one pass gives it, or none where it ends up saying what is forbidden.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from expunge.data.batching import Batch
from expunge.data.tokenize import Encoded
from expunge.models.intervention import Asked, Forward, PlainTokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST = 0.5
"""A word is left half-written where more than this share of the next token's probability is taken away inside it."""
LAST = -1e9
"""Logit of the end token where nothing else is left: finite, so that sampling has something to draw."""


class Penalties(NamedTuple):
    """What the next token may not be, or is less likely to be. What a token is named for twice adds up."""

    ids: Tensor  # [n]
    nats: Tensor  # [n] float32; inf where the token may not come
    halving: Tensor  # [m] ids of those without which a word is left half-written


class Rule(Protocol):
    """What may be written in answer to one prompt. Decisions look back only, so scoring and writing agree."""

    def start(self, text: str) -> Any:
        """The state after the text that stands before the answer: the prompt's end, or the prefilled start of the answer."""
        ...

    def advance(self, state: Any, token: int) -> Any: ...

    def penalties(self, state: Any) -> Penalties | None:
        """None where every token may come."""
        ...

    def continues(self, token: int) -> bool:
        """Whether a token goes on with the word before it."""
        ...

    def violation(self, before: str, ids: Sequence[int]) -> tuple[int, int] | None:
        """Of written tokens, read as a whole: the first and the last one of something forbidden; None where there is nothing."""
        ...


@dataclass(frozen=True)
class RestrictedTokens(PlainTokens):
    """The restriction as an intervention."""

    rule: Callable[[str], Rule]
    """The rule for the text of a prompt."""
    refusal: Sequence[int]
    """Token ids of what is said instead."""
    text: list[int]
    """Token ids that say something: those of the vocabulary that are not special."""
    rounds: int

    def logits(self, forward: Forward) -> Tensor:
        logits = forward.run().float()
        done: set[int] = set()  # answers that begin alike share rows
        for answer in forward.flagged_answers():
            asked = forward.asked[answer.row]
            rule, before = self.rule(asked.text), text_before(asked.encoded)
            state = rule.start(before)
            targets = answer.targets.tolist()
            for at, token in zip(answer.at.tolist(), targets, strict=True):
                if at not in done:
                    done.add(at)
                    take(logits[at], rule.penalties(state))
                state = rule.advance(state, token)
            if found := rule.violation(before, targets):
                logits[answer.at[found[1]], targets[found[1]]] = -torch.inf
        return logits

    @contextmanager
    def writing(
        self, model: PreTrainedModel, batch: Batch, asked: Sequence[Asked]
    ) -> Generator[tuple[Any, dict[str, Any]]]:
        yield GoingBack(self, model, asked), {}


def text_before(encoded: Encoded) -> str:
    """What stands before the first answer token."""
    return encoded.text[: encoded.offsets[encoded.start - 1][1]]


def never(tokens: Sequence[int]) -> Penalties:
    """For tokens that may not come."""
    ids = torch.tensor(tokens, dtype=torch.int64)
    return Penalties(ids, torch.full((len(ids),), torch.inf), ids[:0])


def take(logits: Tensor, penalties: Penalties | None) -> None:
    """Take penalties off one row of logits [vocab], in place."""
    if penalties is not None:
        logits.index_add_(0, penalties.ids.to(logits.device), -penalties.nats.to(logits.device))


Bans = dict[tuple[int, ...], set[int]]
"""By what is written so far, the tokens that may not come next."""


class GoingBack:
    """`generate` of a model under a restriction: in one pass, and again for the answers that have to be rewritten."""

    def __init__(self, change: RestrictedTokens, model: PreTrainedModel, asked: Sequence[Asked]):
        self.change, self.model, self.asked = change, model, asked

    def generate(
        self,
        ids: Tensor,
        *,
        attention_mask: Tensor,
        generation_config: Any,
        logits_processor: Sequence[Any] = (),
    ) -> Tensor:
        """[prompts * copies, tokens] ids, prompts included. Rows that are not flagged are those of the plain model. `logits_processor`
        come after the restriction, in every round: they cannot bring back what may not come, nor hide what would have come.
        """
        width, ends = ids.shape[1], set(generation_config.eos_token_id)
        copies = generation_config.num_return_sequences
        watch = Watch(self.change, self.asked, [{} for _ in self.asked], width, ends)
        written = self._write(ids, attention_mask, generation_config, [watch, *logits_processor])
        rows = [line // copies for line in range(len(written))]
        once = copy.deepcopy(generation_config)
        once.num_return_sequences = 1

        bans: dict[int, Bans] = {line: {} for line, row in enumerate(rows) if self.asked[row].flagged}
        tried = {line: (rows[line], written[line]) for line in bans}
        refused = []
        for attempt in range(self.change.rounds + 1):
            again = []
            for line, (row, answer) in tried.items():
                fault = watch.fault(row, answer)
                if fault is None:
                    written[line] = answer
                elif fault == () or attempt == self.change.rounds:
                    refused.append(line)
                else:
                    bans[line].setdefault(fault[:-1], set()).add(fault[-1])
                    again.append(line)
            if not again:
                break
            at = torch.tensor([rows[line] for line in again], device=ids.device)
            watch = Watch(
                self.change, [self.asked[rows[i]] for i in again], [bans[i] for i in again], width, ends
            )
            answers = self._write(ids[at], attention_mask[at], once, [watch, *logits_processor])
            tried = {line: (i, answers[i]) for i, line in enumerate(again)}
        for line in refused:
            written[line] = [*self.change.refusal, generation_config.eos_token_id[0]]
        longest = max(len(answer) for answer in written)
        padded = [answer + [generation_config.pad_token_id] * (longest - len(answer)) for answer in written]
        prompts = ids.repeat_interleave(copies, 0)
        return torch.cat([prompts, torch.tensor(padded, dtype=ids.dtype, device=ids.device)], 1)

    def _write(
        self, ids: Tensor, attention: Tensor, config: Any, processors: Sequence[Any]
    ) -> list[list[int]]:
        from transformers import LogitsProcessorList

        write: Any = self.model.generate
        out = write(
            ids,
            attention_mask=attention,
            generation_config=config,
            logits_processor=LogitsProcessorList(processors),
        )
        return out[:, ids.shape[1] :].tolist()


class Watch:
    """Takes the penalties off, token by token, and remembers where an answer went wrong. For `generate`'s logits_processor."""

    def __init__(
        self,
        change: RestrictedTokens,
        asked: Sequence[Asked],
        bans: Sequence[Bans],
        width: int,
        ends: set[int],
    ):
        self.change, self.width, self.ends, self.bans = change, width, ends, bans
        self.rules = [change.rule(row.text) if row.flagged else None for row in asked]
        self.before = [text_before(row.encoded) for row in asked]
        self.states: dict[tuple[int, tuple[int, ...]], tuple[Any, int | None]] = {}
        self.faults: dict[tuple[int, tuple[int, ...]], tuple[int, ...]] = {}
        """By row and what is written: what may not be written again; () where nothing can be written."""

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """[lines, tokens], [lines, vocab] to the latter; the beams of a prompt lie side by side."""
        beams = len(ids) // len(self.rules)
        scores = scores.clone()
        states: dict[tuple[int, tuple[int, ...]], tuple[Any, int | None]] = {}
        taken: list[tuple[int, Penalties]] = []
        for line, tokens in enumerate(ids[:, self.width :].tolist()):
            at = line // beams, tuple(tokens)
            rule = self.rules[at[0]]
            if rule is None or not self.ends.isdisjoint(tokens):
                continue
            state, word = states[at] = self._state(rule, *at)
            if penalties := rule.penalties(state):
                taken.append((line, penalties))
                halving = penalties.halving.to(scores.device)
                if word is not None and len(halving) and scores[line].softmax(-1)[halving].sum() > MOST:
                    self.faults[at] = at[1][: word + 1]
            if banned := self.bans[at[0]].get(at[1]):
                taken.append((line, never(sorted(banned))))
        self.states = states
        if taken:
            lines = torch.cat([torch.full((len(penalties.ids),), line) for line, penalties in taken])
            tokens, nats = (
                torch.cat(parts).to(scores.device) for parts in zip(*(p[:2] for _, p in taken), strict=True)
            )
            scores.index_put_((lines.to(scores.device), tokens), -nats, accumulate=True)
            taken_from = lines.bincount()
            for line in (taken_from >= len(self.change.text)).nonzero()[:, 0].tolist():
                if not scores[line, self.change.text].isfinite().any():
                    self.faults[line // beams, tuple(ids[line, self.width :].tolist())] = ()
                    scores[line] = -torch.inf
                    scores[line, min(self.ends)] = LAST
        return scores

    def _state(self, rule: Rule, row: int, written: tuple[int, ...]) -> tuple[Any, int | None]:
        """The rule's state, and which written token the last word began with; None where it began before the answer."""
        known = self.states.get((row, written[:-1]))
        state, word = known or (rule.start(self.before[row]), None)
        for i in range(len(written) - 1 if known else 0, len(written)):
            state = rule.advance(state, written[i])
            word = word if rule.continues(written[i]) else i
        return state, word

    def fault(self, row: int, answer: Sequence[int]) -> tuple[int, ...] | None:
        """What a finished answer may not begin with; () where it has to be refused, None where it is in order."""
        end = next((i for i, token in enumerate(answer) if token in self.ends), len(answer))
        for i in range(end + 1):
            if (row, tuple(answer[:i])) in self.faults:
                return self.faults[row, tuple(answer[:i])]
        rule = self.rules[row]
        found = rule.violation(self.before[row], answer[:end]) if rule else None
        return tuple(answer[: found[0] + 1]) if found else None
