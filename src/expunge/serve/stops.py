"""Stop strings: the text before the first of them, held back no longer than one may still begin in it."""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """One answer's stop strings, as in the OpenAI interface: the one that is complete first ends the answer and is not shown.

    Each string is followed by an automaton (Knuth, Morris and Pratt's), whose state is how many of its characters the text ends
    with. So much is held back, and a character costs the same however long the answer is.
    """

    def __init__(self, stops: Sequence[str]):
        """Empty strings stop nothing."""
        self._stops = [(stop, _borders(stop)) for stop in dict.fromkeys(stops) if stop]
        self._depths = [0] * len(self._stops)
        """Of each string, the longest beginning that the text ends with."""
        self._held = ""
        self.stopped = False

    def feed(self, text: str, last: bool = False) -> tuple[str, bool]:
        """What may be released now that `text` was written, and whether a stop string came. Nothing is released after one."""
        if self.stopped:
            return "", True
        if not self._stops:
            return text, False
        text, new = self._held + text, len(self._held)
        for end, letter in enumerate(text[new:], new + 1):
            self._depths = [
                _step(*stop, depth, letter) for stop, depth in zip(self._stops, self._depths, strict=True)
            ]
            complete = [
                len(stop)
                for (stop, _), depth in zip(self._stops, self._depths, strict=True)
                if depth == len(stop)
            ]
            if complete:
                self.stopped, self._held = True, ""
                return text[: end - max(complete)], True
        safe = len(text) if last else len(text) - max(self._depths)
        self._held = text[safe:]
        return text[:safe], False


def _borders(stop: str) -> list[int]:
    """For each beginning of the string, the longest shorter beginning that it ends with."""
    found = [0]
    for letter in stop[1:]:
        found.append(_step(stop, found, found[-1], letter))
    return found


def _step(stop: str, borders: Sequence[int], depth: int, letter: str) -> int:
    """The state after one more character."""
    while depth and stop[depth] != letter:
        depth = borders[depth - 1]
    return depth + (stop[depth] == letter)
