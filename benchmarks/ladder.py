"""ECO rung by rung on pocket: what each corruption leaves at each set of tokens, beside the gold and a second gold, and what the
weights still hold.

    python benchmarks/ladder.py [--seeds 0 1 2] [--noise 8]

Every prompt counts as in scope, so no detector plays a part. Figures are those of the reporting half; σ is found on the other one.
Markdown, as docs/guards.md has it.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from expunge.attacks._case import cases_of
from expunge.attacks._recall import recalled
from expunge.benchmarks._qa import measure
from expunge.benchmarks.pocket import Pocket
from expunge.data.batching import collate
from expunge.data.dataset import Record
from expunge.guards.actions.eco import ECO, FittedECO
from expunge.guards.guard import FitData, Place
from expunge.guards.target_names import TargetNames, WrittenNames
from expunge.metrics.accuracy import is_accurate
from expunge.models.corrupted import CorruptedInputs
from expunge.models.hidden import block_output
from expunge.run import load, model_hash
from expunge.run.build import build_pocket
from expunge.types import Example, GenerationParams, Prompt, Seed

MASKS = {
    "names in the question (published)": ("names", False),
    "names anywhere (ours)": ("names", True),
    "question but its last token (published)": ("prompt", False),
    "prompt but its last token, and names anywhere": ("prompt", True),
}
KINDS = {
    "±σ found": {},
    "Gaussian, one dimension, 64 rms": {"corruption": "noise", "dims": 1e-9, "strength": 64.0},
    "zero": {"corruption": "zero"},
    "sign flip": {"corruption": "flip"},
    "token swap (control)": {"corruption": "swap"},
}
FIXED = ("zero", "sign flip")
SAMPLES = 10
COLUMNS = ("accuracy", "probability", "sampled", "prefill", "D", "p")


def nothing(part, method, *rows, **settings):
    raise AssertionError("eco trains nothing")


class PromptOnly(FittedECO):
    """As published: of what was asked alone; a started answer and what is written stay clean. For comparison alone."""

    def prompt_mask(self, encoded):
        mask = super().prompt_mask(encoded)
        asked = encoded.text.rindex("\nAnswer:") + len("\nAnswer:")  # pocket's template
        return mask & np.array([end <= asked for _, end in encoded.offsets[: encoded.start]])

    def written_mask(self, ids: Sequence[int], start: int) -> np.ndarray:
        return np.zeros(len(ids) - start, dtype=bool)

    @property
    def verdicts(self):
        return [False] * self.vocabulary


class Gated:
    """A model all of whose prompts are in scope."""

    capabilities = frozenset()

    def __init__(self, lm, action=None):
        self.lm, self.change = lm, CorruptedInputs(action) if action else None

    def score(self, examples):
        return self.lm.score(examples, self.change, [True] * len(examples))

    def generate(self, prompts, params):
        return self.lm.generate(prompts, params, self.change, [True] * len(prompts))


def row_of(model, bench, gold_records=None):
    probes = bench.forget_probes()
    records = measure(model, {"forget": bench.tasks()["forget"]}, max_new_tokens=bench.max_new_tokens)
    figures = bench.figures(records, gold_records)
    sampled = model.generate(
        [Prompt.ask(probe.question) for probe in probes],
        GenerationParams(max_new_tokens=bench.max_new_tokens, sample=True, copies=SAMPLES, seed=0),
    )
    leaked = [
        any(is_accurate(answer.text, probe.answer, probe.value) for answer in answers)
        for probe, answers in zip(probes, sampled, strict=True)
    ]
    prefill = recalled(model, cases_of(probes, ()), opened=True)
    found = {
        "accuracy": figures["forget/accuracy"].number,
        "probability": figures["forget/probability"].number,
        "sampled": np.mean(leaked),
        "prefill": np.mean([row.hits[0] for row in prefill]),
    }
    if gold_records is not None:
        found |= {
            "D": figures["forget_quality/ks_distance"].number,
            "p": figures["forget_quality/ks_p"].number,
        }
    return found, records


Draws = list[dict[str, float]]
"""Of one row of the table in one world: one entry a draw of the noise."""


def line(name: str, mask: str, worlds: Sequence[Draws]) -> str:
    """Median over the worlds of the median over draws; in brackets the least and the largest of all draws."""
    cells = []
    for column in COLUMNS:
        found = [[float(draw[column]) for draw in draws if column in draw] for draws in worlds]
        if not all(found):
            cells.append("–")
            continue
        middle = statistics.median(statistics.median(values) for values in found)
        low, high = min(map(min, found)), max(map(max, found))
        form = "{:.1e}" if column == "p" and middle < 0.01 else "{:.2f}"
        spread = f" ({low:.2f} to {high:.2f})" if column != "p" and high - low >= 0.005 else ""
        cells.append(form.format(middle) + spread)
    return f"| {name} | {mask} | " + " | ".join(cells) + " |"


def weights_still_hold(lm, bench):
    """Share of the forget facts whose first token is the likeliest one after each block, on clean prompts (logit lens)."""
    probes = [probe for probe in bench.forget_probes() if probe.value and probe.value in probe.answer]
    rows = lm.encoder.examples(
        [Example(Prompt.ask(probe.question), probe.answer, key=(probe.value,)) for probe in probes]
    )
    norm = lm.model.model.norm
    shares = []
    for layer in range(lm.model.config.num_hidden_layers):
        hits = 0
        for row in rows:
            first = row.start + row.key.index(True)
            with torch.no_grad():
                state = block_output(lm.model, collate([row], lm.pad_id), layer)[0, first - 1]
                hits += int(lm.model.lm_head(norm(state)).argmax()) == row.ids[first]
        shares.append(hits / len(rows))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--noise", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[tuple[str, str], list[Draws]] = {}
    notes = []
    for seed in options.seeds:
        world = build_pocket(seed=seed, tell=tell)
        for key, draws in rungs(world, options.noise):
            table.setdefault(key, []).append(draws)
            tell(f"world {seed}: {line(*key, [draws])}")
        target = load(world / "target", template="qa", device="cpu")
        shares = ", ".join(f"{share:.2f}" for share in weights_still_hold(target, Pocket.open(world)))
        notes.append(
            f"World {seed}: weights {model_hash(world / 'target')[:12]}, those of the target; facts that clean prompts bring out of them after each block (logit lens): {shares}."
        )
    print("| corruption | tokens | accuracy | probability | sampled, any of 10 | prefill | KS D | KS p |")
    print("|---|---|---|---|---|---|---|---|")
    for key, worlds in table.items():
        print(line(*key, worlds))
    print("", *notes, sep="\n")


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def rungs(world: Path, noise: int) -> Iterator[tuple[tuple[str, str], Draws]]:
    """Each row of the table, in one world."""
    bench = Pocket.open(world)
    data = bench.dataset()
    target, gold, floor = (
        load(world / who, template="qa", device="cpu") for who in ("target", "gold", "gold2")
    )
    row, gold_records = row_of(Gated(gold), bench)
    yield ("none: gold", ""), [row]
    yield ("none: second gold", ""), [row_of(Gated(floor), bench, gold_records)[0]]
    yield ("none: target", ""), [row_of(Gated(target), bench, gold_records)[0]]
    names = TargetNames(data.subjects)
    written = WrittenNames(names, target.tokenizer)
    rows = [Record.from_probe(probe) for probe in bench.of_half("select").forget_probes()]
    found = (
        ECO().fit(target, FitData(rows, [], data.subjects, rows, 0, Place(Path(), load), nothing)).strength
    )
    for mask, (tokens, everywhere) in MASKS.items():
        for name, settings in KINDS.items():
            eco = ECO(tokens=tokens, **settings)
            made = FittedECO if everywhere else PromptOnly
            draws = []
            for n in range(1 if name in FIXED else noise):
                seed = Seed(n).child("ladder").number
                action = made(eco, names, target, eco.strength or found, seed, [], written)
                draws.append(row_of(Gated(target, action), bench, gold_records)[0])
            yield (name, mask), draws


if __name__ == "__main__":
    main()
