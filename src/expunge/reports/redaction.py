"""An audit without names, facts and what models wrote, so that it can be shown to those who may not know them.

A word of a prompt stays only where at least half of the people asked about (and two) have it in the prompts of the same construction, and it
is no part of anybody's name or of a fact. So a name that is spelt, translated or encoded goes with the word that it is in.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

NAME, FACT, WORD, WRITTEN = "[name]", "[fact]", "[…]", "[what came]"
SPELT = re.compile(r"(?:(?<!\w)\w(?!\w)[\s\W_]*){3,}")
"""Three or more letters that stand alone: a word that is spelt."""
KEPT = ("attack", "id", "tier", "kind", "variant", "turn", "hit")
SHORT = 3
"""A name's own shorter words (de, of) do not give it away."""


def redacted(result: dict[str, Any]) -> dict[str, Any]:
    """The same audit with marks in place of names, facts and texts; cases are numbered."""
    rows = result["rows"]
    names = {row["subject"] for row in rows} - {""}
    facts = {row["reference"] for row in rows} - {""}
    common = _common(rows)
    cases = {case: str(number) for number, case in enumerate(dict.fromkeys(row["case"] for row in rows), 1)}
    people = {name: number for number, name in enumerate(dict.fromkeys(row["subject"] for row in rows), 1)}
    return {
        **result,
        "redacted": True,
        "rows": [
            {
                **{key: row[key] for key in KEPT},
                "case": cases[row["case"]],
                "subject": f"[name {people[row['subject']]}]",
                "prompt": _masked(row["prompt"], names, facts, common[_group(row)]),
                "generation": WRITTEN if row["generation"] else "",
                "reference": FACT,
            }
            for row in rows
        ],
    }


def _group(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["attack"], row["variant"], row["turn"]


def _common(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str, int], set[str]]:
    """By construction, the words that belong to it and to nobody."""
    said: dict[tuple[str, str, int], dict[str, set[str]]] = {}
    for row in rows:
        words = said.setdefault(_group(row), {}).setdefault(row["subject"], set())
        words |= set(row["prompt"].split())
    found = {}
    for group, by_person in said.items():
        counts = Counter(word for words in by_person.values() for word in words)
        least = max(2, -(-len(by_person) // 2))
        found[group] = {word for word, count in counts.items() if count >= least}
    return found


def _masked(prompt: str, names: Iterable[str], facts: Iterable[str], common: set[str]) -> str:
    text = _replace(prompt, facts, FACT)
    text = _replace(text, names, NAME)
    parts = {part for name in names for part in re.findall(r"\w+", name) if len(part) >= SHORT}
    text = _replace(text, parts, NAME)
    text = _replace(text, {part for fact in facts for part in re.findall(r"\w+", fact) if len(part) > SHORT}, FACT)  # fmt: skip
    text = SPELT.sub(f"{WORD} ", text)
    kept = "".join(
        piece if not piece.strip() or piece in common or _is_marks(piece) else WORD
        for piece in re.split(r"(\s+)", text)
    )
    for mark in (NAME, FACT, WORD):
        kept = re.sub(rf"{re.escape(mark)}(?:[^\S\n]*{re.escape(mark)})+", mark, kept)
    return kept


def _is_marks(piece: str) -> bool:
    """Whether a word is marks and punctuation alone, as "[name]?" is."""
    return not re.sub(r"\[(?:name|fact|…)\]", "", piece).strip(".,;:!?\"'()-")


def _replace(text: str, words: Iterable[str], mark: str) -> str:
    ordered = sorted(words, key=len, reverse=True)
    if not ordered:
        return text
    return re.sub(rf"(?<!\w)(?:{'|'.join(map(re.escape, ordered))})(?!\w)", mark, text, flags=re.IGNORECASE)
