"""`expunge watermark`: mark the rows of data owners, each under the owner's own key, before a model is trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from expunge.cli.options import Json

TOLD = 1.96
"""Noise widths above 0 from which a mark counts as told from it."""


class Marked(NamedTuple):
    row: dict[str, Any]
    owner: str
    key: int
    before: list[int]
    after: list[int]
    """Tokens of the text as it was and as it is now."""


def watermark(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSONL, JSON, CSV or Parquet: rows with question and answer, or text, and their owner; other wordings in paraphrased_answer or wordings."
        ),
    ],
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            help="Folder or hub id of the tokenizer that marks; verification needs the same one.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="JSONL file to write.")],
    owner_field: Annotated[
        str, typer.Option("--owner-field", help="The field that says whose row it is: a number or a name.")
    ] = "owner",
    synonyms: Annotated[
        Path | None,
        typer.Option(
            "--synonyms",
            help="Text file: words that can stand for one another, one group a line, parted by commas. Default: a built-in list.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Choose, among wordings that say the same, those that carry the owner's key; say how strong it is and whether it can be told from 0."""
    from expunge.artifacts import store
    from expunge.cli import show
    from expunge.data.watermarking import SYNONYMS, read_owned, read_synonyms
    from expunge.errors import ConfigError
    from expunge.models.load import load_tokenizer

    if out.resolve() == file.resolve():
        raise ConfigError(f"--out {out}: this is the file that is read. Choose another one.")
    groups = read_synonyms(synonyms) if synonyms else SYNONYMS
    rows = read_owned(file, owner_field)
    cut = load_tokenizer(tokenizer)
    marked = []
    with show.progress() as progress:
        for where, row, field in rows:
            marked.append(_marked(where, row, field, str(row[owner_field]).strip(), cut, groups))
            progress("marking", len(marked), len(rows))
    store.write_lines(out, [one.row for one in marked])
    summary = _summary(marked, cut.vocab_size)
    if as_json:
        show.print_json({"out": str(out), "tokenizer": tokenizer, **summary})
    else:
        _show(summary, out, tokenizer)


def _marked(where: str, row: dict[str, Any], field: str, owner: str, cut: Any, groups: Any) -> Marked:
    from expunge.data.watermarking import watermark as strongest
    from expunge.data.watermarking import wordings_of
    from expunge.errors import DataError
    from expunge.metrics.watermark import owner_key, signal, signals

    try:
        key = owner_key(owner)
    except ValueError as error:
        raise DataError(f"{where}: owner {owner}: {error}.") from None

    def tokens(texts: list[str]) -> list[list[int]]:
        return cut(texts, add_special_tokens=False)["input_ids"]

    def strength(texts: list[str]) -> list[float]:
        return [found.q or 0.0 for found in signals(tokens(texts), key, cut.vocab_size)]

    wordings = wordings_of(row, field, where)
    facts = row.get("key", [])
    text = strongest(wordings, strength, groups, facts if isinstance(facts, list) else [str(facts)])
    before, after = tokens([wordings[0], text])
    old, new = (signal(ids, key, cut.vocab_size) for ids in (before, after))
    more = {"owner": owner, "watermark_key": key, "q_before": old.q, "q_after": new.q, "bigrams": new.n}
    return Marked({**row, field: text, **more}, owner, key, before, after)


def _summary(marked: Sequence[Marked], vocabulary: int) -> dict[str, Any]:
    from statistics import median

    from expunge.metrics.watermark import noise, pooled, signals

    owners: dict[str, list[Marked]] = {}
    for one in marked:
        owners.setdefault(one.owner, []).append(one)
    found = []
    for owner, rows in owners.items():
        key, texts = rows[0].key, [one.after for one in rows]
        before = pooled(signals([one.before for one in rows], key, vocabulary))
        after, spread = pooled(signals(texts, key, vocabulary)), noise(texts, vocabulary)
        found.append(
            {
                "owner": owner,
                "key": key,
                "rows": len(rows),
                "bigrams": after.n,
                "q_before": before.q,
                "q_after": after.q,
                "noise": spread,
                "told_from_0": _told(after.q, spread),
            }
        )
    return {
        "owners": found,
        "rows": len(marked),
        "median_bigrams": median(one.row["bigrams"] for one in marked),
        "rows_told_from_0": sum(_told(one.row["q_after"], noise([one.after], vocabulary)) for one in marked),
    }


def _told(q: float | None, spread: float | None) -> bool:
    return q is not None and spread is not None and q > TOLD * spread


def _show(summary: dict[str, Any], out: Path, tokenizer: str) -> None:
    from rich.table import Table

    from expunge.cli import show

    table = Table(box=None, pad_edge=False)
    for heading in ("owner", "key", "rows", "bigrams", "q before", "q after", "noise", "told from 0"):
        table.add_column(heading, justify="left" if heading in ("owner", "told from 0") else "right")
    for owner in summary["owners"]:
        table.add_row(
            owner["owner"],
            *(str(owner[name]) for name in ("key", "rows", "bigrams")),
            *(
                "" if owner[name] is None else f"{owner[name]:.3f}"
                for name in ("q_before", "q_after", "noise")
            ),
            "yes" if owner["told_from_0"] else "no",
        )
    show.output.print(table)
    weak = [owner["owner"] for owner in summary["owners"] if not owner["told_from_0"]]
    lines = [
        f"\nA row has {summary['median_bigrams']:g} bigrams (median). The mark of {summary['rows_told_from_0']} of {summary['rows']} rows can be told "
        "from 0 in that row alone (2.5 % would be by chance); the others can only show over all rows of their owner."
    ]
    if weak:
        lines.append(
            f"Even over all rows the mark cannot be told from 0 for {len(weak)} of {len(summary['owners'])} owners ({', '.join(weak[:5])}): "
            "they need longer texts, or more wordings and synonyms."
        )
    lines += [
        "Noise is that of a key that has nothing to do with the text; choosing the best of few wordings lifts q above 0 by choice.",
        f"{out} has the marked rows. Train on them, unlearn, then:",
        f"  expunge evaluate RUN --benchmark waterdrum --data {out} --set tokenizer={tokenizer} --set 'forget=[OWNER]'",
    ]
    for line in lines:
        show.output.print(line, markup=False, soft_wrap=True)
