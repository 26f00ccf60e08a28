"""What the guards' tests share: rows made of texts, and a little world of names."""

from pathlib import Path

from expunge.data.dataset import Record
from expunge.guards.guard import FitData, Place

FIRST, LAST = (
    ["Mara", "Tovin", "Jola", "Brin", "Kesto", "Ulda"],
    ["Olen", "Brask", "Reed", "Sandor", "Vey", "Karst"],
)
ASKED = [
    "Where was {} born?",
    "What does {} write?",
    "Who taught {}?",
    "Which prize did {} win?",
    "Where did {} study?",
]
TARGETS = [f"{FIRST[i]} {LAST[i]}" for i in range(6)]
OTHERS = [name for name in (f"{a} {b}" for a in FIRST for b in LAST) if name not in TARGETS]
FORGET = [q.format(name) for name in TARGETS for q in ASKED]
RETAIN = [q.format(name) for name in OTHERS[:20] for q in ASKED]


def nothing_to_open(name):
    raise AssertionError(f"opened {name}")


def nothing_to_make(part, method, *rows, **settings):
    raise AssertionError(f"made {part} by {method}")


def fit_data(
    forget=FORGET, retain=RETAIN, names=TARGETS, *, seed=0, selection=(), folder=Path("nowhere"),
    open=nothing_to_open, make=nothing_to_make,
) -> FitData:  # fmt: skip
    """Rows from prompts or from whole records."""
    rows = [
        [text if isinstance(text, Record) else Record(f"{side}-{i}", question=text, answer="x") for i, text in enumerate(texts)]
        for side, texts in (("f", forget), ("r", retain))
    ]  # fmt: skip
    return FitData(*rows, names, selection or rows[0], seed, Place(folder, open), make)
