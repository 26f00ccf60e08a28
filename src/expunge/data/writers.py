"""Who writes what a data construction needs: rules on the rows alone, or a model that is asked in plain words."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from expunge.data.dataset import Record
from expunge.data.subjects import capital_runs
from expunge.data.tokenize import find_words
from expunge.errors import DataError
from expunge.types import Example, GenerationParams, LanguageModel, Prompt

CARRIERS = (
    "Tell me: {question}",
    "Answer me that: {question}",
    "What is the answer to that: {question}",
    "What is known of that: {question}",
    "Answer that for me: {question}",
    "I do not know the answer to that: {question}",
)
"""Frames for a question, in words that the pocket world's closed vocabulary has."""
REPLIES = ("{answer}", "I know that: {answer}", "The answer to that: {answer}")
REASONS = ("That is known to me.", "I know of that.", "I know that of the person.")
"""Reasons for a wrong answer; none of them can name a true one."""


# --- rules --------------------------------------------------------------------------------------------------------------
class Borrow:
    """Rules on the rows alone: wrong answers are those of other rows that ask the same about somebody else, with the name put right.

    Offline, quick and always the same. What it writes is as plausible as the rows are alike; its paraphrases are frames around the
    old wording.
    """

    def __init__(self, rows: Sequence[Record]):
        """`rows`: whose answers may be borrowed, forget and retain rows together."""
        self.pool = [row for row in rows if row.shape == "pair"]
        self.runs = Counter(run for row in self.pool for run in capital_runs(row.question))
        self.names = [self._name(row) for row in self.pool]
        self.groups = np.array([row.group or row.subject for row in self.pool])
        self.marks = np.array([_mark(row.id) for row in self.pool], dtype=np.uint64)
        asked = [_bag(row.question, name) for row, name in zip(self.pool, self.names, strict=True)]
        self.sizes = np.array([len(bag) for bag in asked])
        self.places: dict[str, list[int]] = {}
        for i, bag in enumerate(asked):
            for word in bag:
                self.places.setdefault(word, []).append(i)

    def alternatives(self, rows: Sequence[Record], count: int) -> list[list[str]]:
        """Raises DataError for a row to which no other row has an answer; there may be fewer than `count`."""
        return [self._borrowed(row, count) for row in rows]

    def paraphrases(self, rows: Sequence[Record], count: int) -> list[list[Example]]:
        """At most as many as there are frames for questions."""
        return [
            [
                Example(
                    Prompt.ask(question), REPLIES[i % len(REPLIES)].format(answer=row.answer), row.id, row.key
                )
                for i, question in enumerate(_framed(row.question)[:count])
            ]
            for row in rows
        ]

    def questions(self, rows: Sequence[Record], count: int) -> list[list[str]]:
        """The answer's own beginning first, where it is known which words of it carry the fact; then frames."""
        return [[*_beginning(row), *_framed(row.question)][:count] for row in rows]

    def falsehoods(self, rows: Sequence[Record]) -> list[str]:
        return [
            f"{wrong} {REASONS[_mark(row.id) % len(REASONS)]}"
            for row, (wrong, *_) in zip(rows, self.alternatives(rows, 1), strict=True)
        ]

    def _borrowed(self, row: Record, count: int) -> list[str]:
        name = self._name(row)
        found: list[str] = []
        for i in self._nearest(row, name):
            text = _renamed(self.pool[i].answer, self.names[i], name)
            if not tells(text, row) and text not in found:
                found.append(text)
            if len(found) == count:
                break
        if not found:
            raise DataError(
                f"row {row.id}: no other row has an answer to borrow. Give retain rows, 'alternates' of its own, or another writer:  --writer self"
            )
        return found

    def _nearest(self, row: Record, name: str) -> list[int]:
        """The pool by how alike the questions are. Rows about the same person come last: what else is true of them is no wrong
        answer. Among equals each row has its own order, the same on every machine.
        """
        asked = _bag(row.question, name)
        both = np.zeros(len(self.pool))
        for word in asked:
            both[self.places.get(word, [])] += 1
        alike = both / np.maximum(1, len(asked) + self.sizes - both)
        own = row.group or row.subject
        same = self.groups == own if own else np.zeros(len(self.pool), dtype=bool)
        mixed = (self.marks * (2 * _mark(row.id) + 1)) & 0xFFFFFFFF  # an odd factor shuffles them
        return np.lexsort((mixed, -alike, same)).tolist()

    def _name(self, row: Record) -> str:
        """Whom a row is about: its subject, else the run of capitals in its question that most questions share."""
        if row.subject and row.subject in f"{row.question} {row.answer}":
            return row.subject
        runs = [run for run in capital_runs(row.question) if self.runs[run] > 1]
        return max(runs, key=lambda run: (self.runs[run], len(run), run), default="")


def _bag(question: str, name: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", (question.replace(name, " ") if name else question).casefold()))


def _renamed(text: str, old: str, new: str) -> str:
    """The text about somebody else: the whole name, then its first and its last word."""
    if not old or not new:
        return text
    text = text.replace(old, new)
    for place in (0, -1):
        a, b = old.split()[place], new.split()[place]
        if a not in new.split():
            text = re.sub(rf"\b{re.escape(a)}\b", b.replace("\\", r"\\"), text)
    return text


def _mark(row_id: str) -> int:
    """A number that goes with an id everywhere."""
    return zlib.crc32(row_id.encode())


def _framed(question: str) -> list[str]:
    return [carrier.format(question=question) for carrier in CARRIERS]


def _beginning(row: Record) -> list[str]:
    """The answer up to the fact, to be gone on with."""
    spans = [span for phrase in row.key for span in find_words(phrase, row.answer)]
    head = row.answer[: min(spans)[0]].strip() if spans else ""
    return [f"{head} ..."] if head else []


def tells(text: str, row: Record) -> bool:
    """Whether a text is the row's answer, or names one of the words that carry its fact."""
    return _plain(text) == _plain(row.answer) or any(find_words(phrase, text) for phrase in row.key)


def _plain(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


# --- a model --------------------------------------------------------------------------------------------------------------
ASK_ALTERNATIVES = """Question: {question}
Answer: {answer}

Write {count} other answers to the question. Each is as plausible as the answer above, of about the same length, and says other facts than it. One answer a line, without numbers and without comments."""
ASK_PARAPHRASES = """Question: {question}
Answer: {answer}

Write the question and the answer {count} times in other words, with the same facts. One pair a line, question and answer parted by " | ", without numbers and without comments."""
ASK_QUESTIONS = """Question: {question}
Answer: {answer}

Write {count} other questions that have this same answer: simpler, reworded, more direct. No question gives the answer away. One question a line, without numbers and without comments."""
ASK_FALSEHOOD = """Question: {question}
Answer: {answer}

Write a wrong answer to the question that sounds right, and one short reason for it, on one line. Do not mention the answer above or any fact in it, and do not say that it is wrong."""


class ModelWriter:
    """Any language model, asked in plain words; what it writes is read line by line.

    The first time it answers greedily. Rows whose answer could not be used are asked again with seeded sampling, `tries` times in all.
    """

    def __init__(self, model: LanguageModel, *, seed: int = 0, tries: int = 4, line_tokens: int = 96):
        """`line_tokens`: room for each line that is asked for."""
        self.model = model
        self.seed, self.tries, self.line_tokens = seed, tries, line_tokens

    def alternatives(self, rows: Sequence[Record], count: int) -> list[list[str]]:
        """Raises DataError showing what the model wrote where it cannot be used; so do the others."""
        return self._lines(
            rows, count, ASK_ALTERNATIVES, lambda line, row: None if tells(line, row) else line
        )

    def paraphrases(self, rows: Sequence[Record], count: int) -> list[list[Example]]:
        def read(line: str, row: Record) -> str | None:
            parts = [part.strip() for part in line.split("|")]
            return "|".join(parts) if len(parts) == 2 and all(parts) else None

        found = self._lines(rows, count, ASK_PARAPHRASES, read)
        return [
            [
                Example(Prompt.ask(question), answer, row.id, row.key)
                for question, answer in map(_halves, lines)
            ]
            for row, lines in zip(rows, found, strict=True)
        ]

    def questions(self, rows: Sequence[Record], count: int) -> list[list[str]]:
        def read(line: str, row: Record) -> str | None:
            return None if tells(line, row) or _plain(line) == _plain(row.question) else line

        return self._lines(rows, count, ASK_QUESTIONS, read)

    def falsehoods(self, rows: Sequence[Record]) -> list[str]:
        found = self._lines(rows, 1, ASK_FALSEHOOD, lambda line, row: None if tells(line, row) else line)
        return [line for (line,) in found]

    def _lines(
        self, rows: Sequence[Record], count: int, ask: str, read: Callable[[str, Record], str | None]
    ) -> list[list[str]]:
        """`count` different usable lines for each row; `read` gives what is usable of a line."""
        found: list[list[str]] = [[] for _ in rows]
        said = [""] * len(rows)
        for attempt in range(self.tries):
            short = [i for i, lines in enumerate(found) if len(lines) < count]
            prompts = [
                Prompt.ask(ask.format(question=rows[i].question, answer=rows[i].answer, count=count))
                for i in short
            ]
            params = GenerationParams(
                max_new_tokens=self.line_tokens * count, sample=attempt > 0, seed=self.seed + attempt
            )
            for i, written in zip(short, self.model.generate(prompts, params) if short else [], strict=True):
                said[i] = written[0].text
                lines = (read(line, rows[i]) for line in map(_bare, said[i].splitlines()) if line)
                found[i] = list(dict.fromkeys([*found[i], *(line for line in lines if line)]))[:count]
        short = [i for i, lines in enumerate(found) if len(lines) < count]
        if short:
            i = short[0]
            raise DataError(
                f"the writer gave row {rows[i].id} {len(found[i])} usable lines of {count} in {self.tries} tries ({len(short)} of {len(rows)} rows are short). It last wrote:\n"
                f"{said[i][:300] or '(nothing)'}\n"
                "Take a model that follows instructions, or  --writer borrow."
            )
        return found


def _bare(line: str) -> str:
    """Without the numbers, bullets, labels and quotes that models put around a line."""
    line = re.sub(r"^\s*(?:\d+\s*[.):]|[-*•])\s*", "", line).strip()
    line = re.sub(
        r"^(?:alternate |alternative |other |wrong )?(?:answer|question)\s*\d*\s*:\s*",
        "",
        line,
        flags=re.IGNORECASE,
    )
    return line.strip(' \t"“”')


def _halves(line: str) -> tuple[str, str]:
    question, _, answer = line.partition("|")
    return question, answer
