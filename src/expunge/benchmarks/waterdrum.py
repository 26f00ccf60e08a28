"""WaterDrum: does the mark of a data owner still show in what the model writes? (Lu et al., 2025, arXiv:2505.05064)

Question: every owner's text carries a watermark under the owner's own key before training; after unlearning, does what the model writes
still carry the keys of the owners who asked to be forgotten, and still those of the owners who stay? No retrained model is needed.
Data: a file of marked rows, or a folder with it as `watermarked.jsonl` (and the tokenizer that marked, as `tokenizer`): question and answer, or
text; `owner`; which rows are to be forgotten by `split` (forget or retain) or by the option `forget`. `expunge watermark` makes such a file.
Or a hub id: Glow-AI/WaterDrum-TOFU (pairs; forget_01, forget_05, forget_10; give forget_key and retain_key) and Glow-AI/WaterDrum-Ax (20 arXiv
categories of 400 abstracts, the category is the owner and the key; forget_01, forget_03, forget_05: the last 1, 3 or 5 of them).
Protocol: each prompt is answered 10 times at temperature 1 with 200 tokens: a question as a turn, a text by its first 50 tokens. The text that
comes back is cut by the tokenizer that marked the data, never by the evaluated model's, and measured under the owner's key:
    q(text) = mean over its bigrams (u, t) of cos( 2π · π(key, u)[t] / N )                            see metrics.watermark
    watermark = mean of q weighted by bigrams, over all answers of the forget (or the retain) rows
    separability = P( q(retain row) > q(forget row) ) + ½ P( equal ),      q of a row over its answers, weighted by bigrams
    noise = root mean square of the watermark under `controls` other keys a row: what q is where there is no mark
Noise is measured and not 1/√(2n), because bigrams that repeat from answer to answer say the same thing again. Figures also hold the mark in
the data itself, which is the most that can be found, and with a target the share of its forget signal that is left.
D2 (proportional to the share of the data still in training) needs retrained models: `metrics.watermark.calibration` fits it.
Differs from the authors' code: texts are drawn by this package's sampling and not by vLLM; tokens beyond the vocabulary are left out one by one
(theirs ignores all that follows); N below 256 works; a text shorter than twice the prefix is continued from its middle; answers of no
bigram weigh nothing; noise, the data's own mark and intervals are added; the share of the target is only given where the target's signal
is at least two noise widths, as theirs divides by it whatever it is. D3 is this protocol on the duplicates' rows, given as their own file.
Good: forget/watermark within two noise widths of 0 (as a model trained without the data), retain/watermark as before, separability near 1.
Bad: forget/watermark as the target's (nothing forgotten), or retain/watermark gone as well (the model is). Separability 0.5 in both cases.
A guard that always says the same has one text, whose q under a key is one draw of the noise: read it beside forget/noise.
Published: on the project's page AUROC is about 1 (.95 and more in its plots), and R² of D2 about .99, against poor values of ROUGE, KnowMem and
membership attacks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from expunge.artifacts.manifest import hash_of
from expunge.benchmarks._asks import Asks, Replies
from expunge.benchmarks._benchmark import NO_TARGET, Benchmark, Row
from expunge.benchmarks._data import Located, read_file, read_hub, require
from expunge.benchmarks._figures import clusters, resampled
from expunge.config import Settings
from expunge.errors import ConfigError, DataError, ModelError
from expunge.metrics.membership import auc
from expunge.metrics.watermark import Signal, owner_key, pooled, signal, signals
from expunge.models.load import is_folder_name, load_tokenizer
from expunge.types import Figure, GenerationParams, Prompt

FILE = "watermarked.jsonl"
PARTS = ("forget", "retain")
OWNERS = 40
"""Beyond so many, owners get no figure of their own."""
SEEN = 2.0
"""Noise widths from which a signal is told from none."""


class WaterdrumOptions(Settings):
    tokenizer: str = ""
    """The tokenizer that marked the data, a folder or hub id. Default: the folder `tokenizer` beside the rows."""
    forget: list[str | int] = []
    """Owners who are to be forgotten. Default: the rows whose `split` is forget."""
    config: str = ""
    """Of a hub data set: which forget set, such as forget_10. Default: its smallest."""
    forget_key: int | None = None
    """Key of all forget rows, where rows name no owner."""
    retain_key: int | None = None
    """Key of all retain rows, where rows name no owner."""
    samples: int = Field(10, ge=1)
    """Answers a prompt."""
    temperature: float = Field(1.0, gt=0)
    """Of the sampling."""
    tokens: int = Field(200, ge=2)
    """Most tokens of an answer."""
    prefix: int = Field(50, ge=1)
    """Tokens of a text that are given, to be continued; at most half of it."""
    rows: int | None = Field(None, ge=1)
    """At most so many rows of each part, evenly spread. Default: all."""
    controls: int = Field(16, ge=2)
    """Other keys a row that noise is measured with; each costs as much as verification itself."""
    seed: int = 0
    """Of the draws."""


class Item(NamedTuple):
    part: str
    owner: str
    key: int
    question: str
    """Empty for a text."""
    text: str
    """What was marked."""
    subject: str


class WaterDrum(Benchmark):
    name: ClassVar = "waterdrum"
    version: ClassVar = 1
    data_is: ClassVar = "a file that `expunge watermark` wrote, a folder with it as watermarked.jsonl, or a hub id such as Glow-AI/WaterDrum-TOFU"
    columns: ClassVar = (
        (
            "forget/watermark",
            "mark, forget",
            "signal of the forgotten owners in what is written; near 0 is good",
        ),
        ("retain/watermark", "mark, retain", "signal of the owners who stay; as the target's is good"),
        (
            "separability/auroc",
            "separability",
            "a retain row carries more of its mark than a forget row; 1 is good, 0.5 is none",
        ),
    )
    Options: ClassVar = WaterdrumOptions
    counts_tokens: ClassVar = True

    def __init__(self, data: str | Path, **options: Any):
        super().__init__(data, **options)
        self._marked: Located = []
        """Rows that say how strongly they were marked."""
        self.items = self._spread(self._read(Path(data)))
        own = Path(data) / "tokenizer" if Path(data).is_dir() else Path(data).parent / "tokenizer"
        if not self.options.tokenizer and not own.is_dir():
            raise ConfigError(
                "waterdrum needs the tokenizer that marked the data (not the evaluated model's):  --set tokenizer=FOLDER_OR_HUB_ID"
            )
        name = self.options.tokenizer or own
        if is_folder_name(name) and not Path(name).is_dir():
            raise ModelError(
                f"{name}: no such folder. Give the folder or hub id of the tokenizer that marked the data:  --set tokenizer=..."
            )
        self.tokenizer: Any = load_tokenizer(name)
        for where, row in self._marked[:1]:
            self._check_tokenizer(where, row)

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "version": self.version,
            **self.options.model_dump(exclude={"tokenizer", "forget", "config", "forget_key", "retain_key"}),
            "data": hash_of([item._asdict() for item in self.items]),
            "marked_with": hash_of(sorted(self.tokenizer.get_vocab().items())),
        }

    def asks(self) -> Asks:
        return Asks(answers=[(self._prompt(item), self._params) for item in self.items])

    def rows(self, replies: Replies) -> list[Row]:
        """Besides q of the answers: `controls`, the same under other keys, and `data_q`, the mark in the row of the data."""
        answered = [replies.answer(self._prompt(item), self._params) for item in self.items]
        texts = [[answer.text for answer in answers or []] for answers in answered]
        found = self._by_key([(item, said) for item, said in zip(self.items, texts, strict=True)])
        data = self._by_key([(item, [item.text]) for item in self.items])
        places = {part: iter(range(len(self.items))) for part in PARTS}
        why = replies.why.get("answer", "")
        return [
            {
                "task": item.part,
                "idx": next(places[item.part]),
                "subject": item.subject,
                "owner": item.owner,
                "key": item.key,
                "generations": said,
                "q": [one.q for one in signal[0]],
                "n": [one.n for one in signal[0]],
                "controls": [pooled(other).q for other in signal[1:]],
                "data_q": own[0][0].q,
                "data_n": own[0][0].n,
                **({"why": why} if why else {}),
            }
            for item, said, signal, own in zip(self.items, texts, found, data, strict=True)
        ]

    def figures(
        self, rows: Sequence[Row], gold: Sequence[Row] | None = None, target: Sequence[Row] | None = None
    ) -> dict[str, Figure]:
        found: dict[str, Figure] = {}
        for part in PARTS:
            own = [row for row in rows if row["task"] == part]
            found[f"{part}/watermark"], found[f"{part}/noise"] = _watermark(own), _noise(own)
            found[f"{part}/data_watermark"] = _weighted(
                own, [Signal(r["data_q"], r["data_n"]) for r in own], ""
            )
        owners = list(dict.fromkeys(row["owner"] for row in rows))
        for owner in owners if len(owners) <= OWNERS else []:
            found[f"owner {owner}/watermark"] = _watermark([row for row in rows if row["owner"] == owner])
        found["separability/auroc"] = _separability(rows)
        found["forget/share_of_target"] = _share_of_target(rows, target)
        return found

    @property
    def _params(self) -> GenerationParams:
        o = self.options
        return GenerationParams(o.tokens, True, o.temperature, copies=o.samples, seed=o.seed)

    def _prompt(self, item: Item) -> Prompt:
        if item.question:
            return Prompt.ask(item.question)
        pieces = self.pieces(item.text)
        return Prompt.continuing("".join(pieces[: max(1, min(self.options.prefix, len(pieces) // 2))]))

    def _by_key(self, texts: Sequence[tuple[Item, list[str]]]) -> list[list[list[Signal]]]:
        """For each item: the signals of its texts under its own key, then under each control."""
        size = self.tokenizer.vocab_size
        cut = [
            self.tokenizer(said, add_special_tokens=False)["input_ids"] if said else [] for _, said in texts
        ]
        by_key: dict[int, list[int]] = {}
        for place, (item, _) in enumerate(texts):
            by_key.setdefault(item.key, []).append(place)
        found: list[list[list[Signal]]] = [[] for _ in texts]
        for own, places in by_key.items():
            others = [owner_key(f"not {own}, {number}") for number in range(self.options.controls)]
            flat = [tokens for place in places for tokens in cut[place]]
            for key in (own, *others):
                each = iter(signals(flat, key, size))
                for place in places:
                    found[place].append([next(each) for _ in cut[place]])
        return found

    def _read(self, data: Path) -> list[Item]:
        path = data / FILE if data.is_dir() else data
        if path.is_file():
            return [
                self._item(where, row, self._part(where, row)) for where, row in _checked(read_file(path))
            ]
        if data.is_dir():
            raise DataError(
                f"{data}: no {FILE}. Make it:  expunge watermark ROWS --tokenizer MODEL --out {path}"
            )
        config = self.options.config or "forget_01"
        return [
            self._item(where, row, part)
            for part in PARTS
            for where, row in _checked(read_hub(self.data, config, part, FILE.removesuffix(".jsonl")))
        ]

    def _part(self, where: str, row: dict[str, Any]) -> str:
        named = [str(owner) for owner in self.options.forget]
        part = (
            ("retain", "forget")[str(row.get("owner", row.get("label"))) in named]
            if named
            else row.get("split")
        )
        if part not in PARTS:
            raise DataError(
                f"{where}: field 'split' is {part!r}; expected forget or retain. Or say whose rows are to be forgotten:  --set 'forget=[OWNER]'"
            )
        return part

    def _item(self, where: str, row: dict[str, Any], part: str) -> Item:
        owner = row.get("owner", row.get("label"))
        key: Any = {"forget": self.options.forget_key, "retain": self.options.retain_key}[part]
        if key is None and owner is not None:
            try:
                key = row.get("watermark_key", owner_key(owner))
            except ValueError as error:
                raise DataError(f"{where}: {error}.") from None
        if not isinstance(key, int):
            raise DataError(
                f"{where}: no owner (fields: {', '.join(row)}), so no key to look for. Give the field 'owner', or:  --set forget_key=... --set retain_key=..."
            )
        if row.get("q_after") is not None and "watermark_key" in row:
            require([(where, row)], {"watermark_key": int, "bigrams": int, "q_after": float})
            self._marked.append((where, row))
        text = _text(row)
        return Item(
            part,
            str(part if owner is None else owner),
            key,
            row.get("question", ""),
            text,
            str(row.get("subject", "")),
        )

    def _check_tokenizer(self, where: str, row: dict[str, Any]) -> None:
        """Raises DataError where the tokenizer does not find the mark that the row says it has."""
        tokens = self.tokenizer(_text(row), add_special_tokens=False)["input_ids"]
        found = signal(tokens, row["watermark_key"], self.tokenizer.vocab_size)
        if found.n != row["bigrams"] or not math.isclose(found.q or 0.0, row["q_after"], abs_tol=1e-6):
            raise DataError(
                f"{where}: marked with another tokenizer, or changed since: it says q {row['q_after']:.4f} over {row['bigrams']} bigrams, and this"
                f" tokenizer finds {found.q or 0.0:.4f} over {found.n}. Give the one that marked it:  --set tokenizer=FOLDER_OR_HUB_ID"
            )

    def _spread(self, items: list[Item]) -> list[Item]:
        most = self.options.rows
        kept = []
        for part in PARTS:
            own = [item for item in items if item.part == part]
            if not own:
                raise DataError(
                    f"{self.data}: there are no {part} rows (owners: {', '.join(sorted({item.owner for item in items})[:8])})."
                )
            kept += own if most is None else own[:: max(1, math.ceil(len(own) / most))]
        return kept


def _text(row: dict[str, Any]) -> str:
    """What was marked."""
    return row["answer"] if "question" in row else row["text"]


def _checked(rows: Located) -> Located:
    for place, row in rows:
        require([(place, row)], {"question": str, "answer": str} if "question" in row else {"text": str})
    return rows


def _weighted(rows: Sequence[Row], found: Sequence[Signal], why: str) -> Figure:
    """Mean of q weighted by bigrams; the interval is over whole subjects."""
    together = pooled(found)
    if together.q is None:
        return Figure(None, len(rows), why=why or "no answer has two tokens")
    pairs = np.array([(one.n * (one.q or 0.0), one.n) for one in found])  # [rows, 2]
    return resampled(
        [(pairs, clusters(rows))], lambda drawn: float(drawn[:, 0].sum() / max(1, drawn[:, 1].sum()))
    )


def _signals(rows: Sequence[Row]) -> list[Signal]:
    """Of each row, over its answers."""
    return [pooled([Signal(q, n) for q, n in zip(row["q"], row["n"], strict=True)]) for row in rows]


def _watermark(rows: Sequence[Row]) -> Figure:
    found = _weighted(rows, _signals(rows), next((row["why"] for row in rows if "why" in row), ""))
    width = _noise(rows).value
    if found.value is None or not width:
        return found
    said = "told from 0" if abs(found.value) >= SEEN * width else "not told from 0"
    return Figure(
        found.value, found.n, found.low, found.high, note=f"{found.value / width:.1f} noise widths: {said}"
    )


def _noise(rows: Sequence[Row]) -> Figure:
    """Root mean square, over the control keys, of what the watermark would be under them."""
    found = _signals(rows)
    kept = [(signal.n, row["controls"]) for signal, row in zip(found, rows, strict=True) if signal.n]
    if not kept:
        return Figure(None, len(rows), why="no answer has two tokens")
    weights = np.array([n for n, _ in kept], dtype=float)  # [rows]
    controls = np.array([values for _, values in kept], dtype=float)  # [rows, controls]
    under = weights @ controls / weights.sum()
    return Figure(float(np.sqrt((under**2).mean())), len(kept))


def _separability(rows: Sequence[Row]) -> Figure:
    parts = []
    for part in ("retain", "forget"):
        own = [
            (row, one.q)
            for row, one in zip(rows, _signals(rows), strict=True)
            if row["task"] == part and one.n
        ]
        if not own:
            return Figure(None, len(rows), why=f"no answer to a {part} row has two tokens")
        parts.append((np.array([q for _, q in own], dtype=float), clusters([row for row, _ in own])))
    return resampled(parts, auc)


def _share_of_target(rows: Sequence[Row], target: Sequence[Row] | None) -> Figure:
    if target is None:
        return Figure(None, why=NO_TARGET)
    own, before = ([row for row in side if row["task"] == "forget"] for side in (rows, target))
    now, then, width = _watermark(own), _watermark(before), _noise(before)
    if now.value is None or then.value is None or width.value is None:
        return Figure(None, len(own), why=now.why or then.why or width.why)
    if then.value < SEEN * width.value:
        return Figure(
            None,
            len(own),
            why="the target's own forget signal cannot be told from 0: there is nothing to take a share of",
        )
    return Figure(now.value / then.value, len(own))
