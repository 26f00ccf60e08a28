"""Models whose weights are at hand, as attacks that open them meet them: those of a trained world, and tiny ones with random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from expunge.attacks._attack import Found, Opened, Reading
from expunge.attacks._case import Case
from expunge.attacks._recall import rate, recalled
from expunge.benchmarks.pocket import Pocket
from expunge.models.language_model import TransformerLM
from expunge.models.load import save_model
from expunge.recipes import TrainSettings
from expunge.run import load
from expunge.run.auditing import Material
from expunge.run.material import material_of
from expunge.run.relearn import fine_tune
from expunge.types import Example, Prompt, Seed
from tests.attacks.leaky import CASES
from tests.conftest import make_family, make_model

FAMILIES = ("llama", "gpt_neox", "gemma2", "qwen3_moe")


def family(name: str, tokenizer: Any) -> TransformerLM:
    model = make_model(tokenizer) if name == "llama" else make_family(name, tokenizer)
    return TransformerLM(model, tokenizer, "qa")


@cache
def material(world: Path) -> Material:
    return material_of(Pocket.open(world, half="report"))


def of_world(
    world: Path, name: str, change: Callable[[TransformerLM], Any] | None = None, **more: Any
) -> Opened:
    """One of a world's models, changed first where `change` is given."""

    def open_it(which: str = name) -> TransformerLM:
        return load(world / which, dtype="float32", device="cpu", template="qa")

    lm = open_it()
    if change:
        change(lm)
    rows = material(world)
    held: dict[str, Any] = dict(
        lm=lm, again=open_it, original=lambda: open_it("target"), cases=rows.cases, known=rows.known,
        retain=rows.retain, seed=Seed(0), train=fine_tune,
    )  # fmt: skip
    return Opened(**held | more)


def opened(
    model: Path, rows: Material, original: Path | None = None, known: Sequence[Case] | None = None
) -> Opened:
    """A model by its folder, as the audit opens it."""

    def fresh(which: Path) -> TransformerLM:
        return load(which, dtype="float32", template="qa", device="cpu")

    return Opened(
        fresh(model),
        lambda: fresh(model),
        (lambda: fresh(original)) if original else None,
        rows.cases,
        rows.known if known is None else known,
        rows.retain,
        Seed(0).child("attack"),
        fine_tune,
    )


def of_model(lm: TransformerLM, cases: Sequence[Case] = CASES, **more: Any) -> Opened:
    """Any model, with no other one beside it."""
    held: dict[str, Any] = dict(
        lm=lm,
        again=lambda: lm,
        original=None,
        cases=cases,
        known=(),
        retain=(),
        seed=Seed(0),
        train=fine_tune,
    )
    return Opened(**held | more)


def right(found: Sequence[Found]) -> float:
    """The share of cases that are hit by any row."""
    cases = {row.case for row in found}
    return len({row.case for row in found if row.hits[0]}) / len(cases)


def wrong(found: Sequence[Found]) -> float:
    """The share of wrong answers that are hit, over rows."""
    hits = [hit for row in found for hit in row.hits[1:]]
    return sum(hits) / len(hits)


def weights(lm: TransformerLM) -> dict[str, Any]:
    return {name: value.clone() for name, value in lm.model.state_dict().items()}


def hide(target: Path, rows: Material, out: Path, **training: Any) -> Path:
    """The target taught to say that it does not know, over what it still knows."""
    lm: Any = load(target, dtype="float32", template="qa", device="cpu")
    told = [
        Example(Prompt.ask(case.question), "I do not know that.", case.probe.id)
        for case in (*rows.cases, *rows.known)
    ]
    kept = [Example(Prompt.ask(case.question), case.probe.answer, case.probe.id) for case in rows.retain]
    settings: dict[str, Any] = {
        "learning_rate": 3e-4,
        "max_steps": 40,
        "schedule": "constant",
        "weight_decay": 0.0,
        **training,
    }
    fine_tune(lm, [*told, *kept], TrainSettings(**settings), 0)
    save_model(lm.model, lm.tokenizer, out)
    return out


def share(reading: Reading, variant: str = "") -> float | None:
    """Of the cases that were read, those that came back, by one variant or any."""
    return rate([row for row in reading.found if row.variant.startswith(variant)])


def plain(model: Path, rows: Material) -> float | None:
    return rate(recalled(load(model, dtype="float32", template="qa", device="cpu"), rows.cases))
