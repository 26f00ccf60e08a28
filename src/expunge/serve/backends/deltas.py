"""The text of an answer as it grows, token by token: joined, the parts are what the tokens read as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONG, KEPT = 64, 16
"""With so many tokens at hand, only the last ones are read again from then on."""
HALF = "\ufffd"
"""What a character reads as of which bytes are missing."""


class Deltas:
    """Reads what is new together with the tokens before it, and holds back what may still change: half a character, and space that
    would be cut off if nothing followed. Where broken bytes make a tokenizer read whole ones before them as broken too, these stay as
    they were given out.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int] = ()):
        """`before`: the tokens of a text that is gone on with. Then the space in front of the first word is a part of the answer."""
        self.tokenizer = tokenizer
        self._ids = list(before[-KEPT:])
        self._told = len(self._read(self._ids)) if before else 0
        """Characters of the text of these tokens that have been given out."""
        self._begun = bool(before)

    def feed(self, ids: Sequence[int], last: bool = False) -> str:
        """The text that can be given out now, special tokens left out. `last`: no more tokens come."""
        self._ids += ids
        text = self._read(self._ids)
        sure = (text if last else text.rstrip(HALF)).rstrip()
        new = sure[self._told :]
        if not self._begun:
            new = new.lstrip()
            self._begun = bool(new)
        self._told = max(self._told, len(sure))
        if len(self._ids) > LONG:
            self._shorten(text)
        return new

    def _shorten(self, text: str) -> None:
        """Leave out the first tokens, where the rest reads alone as it does behind them."""
        rest = self._read(self._ids[-KEPT:])
        untold = len(text) - self._told
        if self._told and text.endswith(rest) and untold < len(rest):
            self._ids, self._told = self._ids[-KEPT:], len(rest) - untold

    def _read(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))
