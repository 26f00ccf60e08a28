"""Restricted writing for an engine of another process, which hands over one row of logits at a time and cannot go back.

    logits'(v) = logits(v) - penalty(y, v),      y: what is written so far

The penalties are those of `RestrictedTokens` in this process. Where that would go back (most of the probability is taken away
inside a word, or no token is left), the engine is made to write a signal: a token that nothing else can write. Whoever asked
reads it, works out what the answer may not begin with, and asks again with that banned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from expunge.models.restricted import LAST, MOST, never, take

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor

    from expunge.models.restricted import RestrictedTokens

Fault = tuple[int, ...]
"""What an answer may not begin with: the last of these tokens may not follow the ones before it. () where it has to be refused."""


class TokenRule:
    """What may be written in one answer."""

    def __init__(
        self,
        change: RestrictedTokens,
        prompt: str,
        before: str,
        bans: Collection[Fault] = (),
        *,
        ends: Collection[int],
        signal: int,
    ):
        """`prompt`: the text that the rule is for. `before`: what stands before the answer. `ends`: tokens that end it."""
        self.change, self.before, self.ends, self.signal = change, before, frozenset(ends), signal
        self.rule = change.rule(prompt)
        self.bans: dict[tuple[int, ...], set[int]] = {}
        for fault in bans:
            self.ban(fault)
        self._read: list[int] = []
        self._state: tuple[Any, int | None] = (self.rule.start(before), None)

    def ban(self, fault: Fault) -> None:
        self.bans.setdefault(tuple(fault[:-1]), set()).add(fault[-1])

    def state(self, written: Sequence[int]) -> tuple[Any, int | None]:
        """The rule's state, and which written token the last word began with; None where it began before the answer."""
        known = self._read == list(written[: len(self._read)])
        state, word = self._state if known else (self.rule.start(self.before), None)
        for at in range(len(self._read) if known else 0, len(written)):
            state = self.rule.advance(state, written[at])
            word = word if self.rule.continues(written[at]) else at
        self._read, self._state = list(written), (state, word)
        return self._state

    def fault(self, written: Sequence[int], *, signalled: bool) -> Fault | None:
        """What is wrong with an answer (without its end token), `signalled` where the engine gave the signal; None: nothing."""
        if not signalled:
            found = self.rule.violation(self.before, written)
            return tuple(written[: found[0] + 1]) if found else None
        state, word = self.state(written)
        penalties = self.rule.penalties(state)
        gone = set(penalties.ids[penalties.nats.isinf()].tolist()) if penalties else set()
        gone |= self.bans.get(tuple(written), set())
        return () if word is None or gone.issuperset(self.change.text) else tuple(written[: word + 1])

    def kept(self, written: Sequence[int]) -> bool:
        """Whether no token of an answer is one that the engine should have held back; it did not run this rule otherwise."""
        for at, token in enumerate(written):
            state, _ = self.state(written[:at])
            penalties = self.rule.penalties(state)
            if penalties is not None and token in penalties.ids[penalties.nats.isinf()].tolist():
                return False
            if token == self.signal or token in self.bans.get(tuple(written[:at]), ()):
                return False
        return True


def guard_logits(logits: Tensor, written: Sequence[int], rule: TokenRule) -> Tensor:
    """One row [vocab] of an answer whose tokens so far are `written`: the penalties are taken off in place, and it is returned."""
    import torch

    logits[rule.signal] = -torch.inf
    if not rule.ends.isdisjoint(written):
        return logits
    state, word = rule.state(written)
    penalties, banned = rule.rule.penalties(state), rule.bans.get(tuple(written))
    wrong = False
    if penalties is not None:
        halving = penalties.halving.to(logits.device)
        wrong = word is not None and len(halving) > 0 and bool(logits.softmax(-1)[halving].sum() > MOST)
        take(logits, penalties)
    if banned:
        take(logits, never(sorted(banned)))
    if penalties is not None or banned:
        wrong = wrong or not bool(logits[rule.change.text].isfinite().any())
    if wrong:
        logits.fill_(-torch.inf)
        logits[rule.signal] = LAST
    return logits
