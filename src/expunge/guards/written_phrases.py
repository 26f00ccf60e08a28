"""Which next tokens would complete a forbidden phrase, decided from the text that stands before: an automaton over words.

A state is what may still become a phrase, and the word that is not finished. A token is looked at by the text that it adds,
never by its id, so every way of cutting a phrase into tokens meets the same decision. A phrase counts as complete as soon as its
last letter stands, whatever might follow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from expunge.guards.canonical import canonicalise
from expunge.guards.phrases import LETTER, UNFINISHED, WORD, Phrases

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TAIL = 400
"""Characters before the answer that are read: a phrase may begin there."""


class Vocabulary:
    """The text that each token adds after another word, in canonical form, and which tokens have a given word in them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self._anchor: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
        self._lead = len(self._decode([self._anchor])[0])

    def _decode(self, rows: list[list[int]]) -> list[str]:
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def text(self, ids: Sequence[int]) -> str:
        """What written tokens say, with the space in front."""
        return self._decode([[*self._anchor, *ids]])[0][self._lead :]

    @cached_property
    def pieces(self) -> list[str]:
        """[vocabulary] special tokens add nothing; nor do lone bytes of a character, until the written text is read as a whole."""
        texts = self._decode([[*self._anchor, i] for i in range(len(self.tokenizer))])
        pieces = []
        for text in (text[self._lead :].replace("\ufffd", "") for text in texts):
            space = " " if text[:1].isspace() else ""
            pieces.append(space + canonicalise(text).text)
        return pieces

    @cached_property
    def having(self) -> dict[str, list[int]]:
        """Word to the tokens that have it, whole or as the rest of an unfinished one."""
        found: dict[str, list[int]] = defaultdict(list)
        for i, piece in enumerate(self.pieces):
            for word in set(WORD.findall(piece)):
                found[word].append(i)
        return found

    @cached_property
    def closing(self) -> list[int]:
        """Tokens that end the word before them: those that begin with something else than a letter, and the special ones."""
        special = set(self.tokenizer.all_special_ids)
        return [
            i for i, piece in enumerate(self.pieces) if i in special or (piece and not LETTER.match(piece))
        ]

    def piece(self, token: int) -> str:
        return (
            self.pieces[token] if token < len(self.pieces) else ""
        )  # a padded vocabulary has ids without text


class State(NamedTuple):
    words: tuple[str, ...]
    """The longest ending of the finished words that some phrase begins with."""
    unfinished: str
    """The word at the end of the text, which more letters may follow."""


class WrittenPhrases:
    def __init__(self, phrases: Phrases, vocabulary: Vocabulary):
        self.phrases, self.vocabulary = phrases, vocabulary

    def start(self, text: str) -> State:
        """The state after the text that stands before the answer."""
        return self.after(State((), ""), canonicalise(text[-TAIL:]).text)

    def advance(self, state: State, token: int) -> State:
        return self.after(state, self.vocabulary.piece(token))

    def after(self, state: State, piece: str) -> State:
        """The state when more canonical text has been written."""
        if not piece:
            return state
        text = state.unfinished + piece
        open_word = UNFINISHED.search(text)
        words = [*state.words, *WORD.findall(text[: open_word.start()] if open_word else text)]
        longest = max(self.phrases.lengths, default=1) - 1
        first = max(len(words) - longest, 0)
        kept = next(
            (i for i in range(first, len(words)) if tuple(words[i:]) in self.phrases.beginnings), len(words)
        )
        return State(tuple(words[kept:]), open_word.group() if open_word else "")

    def completes(self, state: State, piece: str) -> bool:
        """Whether a phrase stands that did not stand before the piece was written."""
        words = list(state.words)
        for match in WORD.finditer(state.unfinished + piece):
            words.append(match.group())
            if match.end() > len(state.unfinished) and self.phrases.ending(words):
                return True
        return False

    def completing(self, state: State) -> list[int]:
        """The tokens that complete a phrase."""
        having, unfinished = self.vocabulary.having, state.unfinished
        tokens: set[int] = set()
        for word in self.phrases.last_words:
            tokens.update(having.get(word, ()))
            if unfinished and word.startswith(unfinished):
                tokens.update(having.get(word[len(unfinished) :], ()))
        return sorted(i for i in tokens if self.completes(state, self.vocabulary.pieces[i]))

    def continues(self, token: int) -> bool:
        """Whether a token goes on with the word before it."""
        return LETTER.match(self.vocabulary.piece(token)) is not None

    def key(self, state: State) -> State:
        """States with the same key complete the same tokens: an unfinished word that no phrase begins like counts as any other."""
        living = any(word.startswith(state.unfinished) for word in self.phrases.words)
        return state if living else State(state.words, "\0")

    def violation(self, before: str, ids: Sequence[int]) -> tuple[int, int] | None:
        """Read as one text: the first written token of a phrase that stands whole in the end, and the token that completes it.

        This sees what single tokens do not show: characters made of several bytes, spelt-out words, encodings.
        """
        before = before[-TAIL:]
        matches = self.phrases.matches(self.vocabulary.text(ids), before)
        if not matches:
            return None
        for end in range(1, len(ids) + 1):
            matches = self.phrases.matches(self.vocabulary.text(ids[:end]), before)
            if matches:
                break
        first = min(match.start for match in matches)
        start = next(i for i in range(end) if len(self.vocabulary.text(ids[: i + 1])) > first)
        return start, end - 1
