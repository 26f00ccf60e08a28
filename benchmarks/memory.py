"""What is kept of the starting model: methods with a frozen reference beside GradDiff, which has none, and beside the same
methods with a second model in memory.

    python benchmarks/memory.py

One epoch of 120 forget rows of pocket and as many retain rows, eight and eight a step, on a model of 5 million weights, each run in
a fresh process and counted by the allocator from the model's first weight to the last step. "Kept" is what is held after the last
step beyond weights and Adam's moments, in sizes of the model: the caches, which grow with the rows and not with the model's depth.
"""

import copy
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from live import live_bytes
from timing import verdict

from expunge.benchmarks.pocket import Pocket
from expunge.data.batching import collate
from expunge.data.pocket.tokenizer import build_tokenizer
from expunge.data.pocket.world import SIZES
from expunge.data.tokenize import Encoder
from expunge.models.fresh import FreshModel
from expunge.models.hidden import block_output
from expunge.models.logprobs import answer_rows
from expunge.recipes import recipe
from expunge.train.feed import Feed, Rows
from expunge.train.loop import _Run
from expunge.types import Example

LAYER = 3
METHODS = {
    "ga+nll": {},
    "npo+nll": {},
    "npo+kl": {},
    "undial": {},
    "dpo+nll": {},
    "rmu+embed+layers": {
        "objective": {"layer": LAYER},
        "selection": {"patterns": [rf"layers\.[{LAYER - 2}-{LAYER}]\.mlp\.down_proj"]},
    },
}
TRAIN = {"batch_size": 8, "epochs": 1, "learning_rate": 1e-5}


class Live:
    """Stands in for the caches of a feed and asks a second model at each step instead."""

    def __init__(self, feed: Feed, frozen, needs: frozenset[str]):
        self.feed, self.frozen, self.needs, self.bytes = feed, frozen, needs, 0

    def fill(self, view, keys) -> None:
        if not any(need.startswith("ref_") for need in self.needs):
            return
        with torch.no_grad():
            seen = answer_rows(self.frozen, self._batch(keys))
            view.ref_logp = torch.zeros(len(keys)).index_add(0, seen.row, seen.logp)
            view.ref_token_logp, view.ref_logits = seen.logp, seen.logits

    def reference(self, keys):
        batch = self._batch(keys)
        with torch.no_grad():
            return block_output(self.frozen, batch, LAYER)[batch.answer]

    def _batch(self, keys):
        return collate([self.feed._row(key) for key in keys], self.feed.pad_id)


def run(method: str, live: bool):
    """Model, loop, feed and losses of a short run."""
    benchmark = Pocket(SIZES["default"], 0)
    tokenizer = build_tokenizer(benchmark.world.vocabulary)
    encode = Encoder(tokenizer, 256, "qa").examples
    data, refusals = benchmark.dataset(), benchmark.refusals()
    forget = [record.example() for record in data.forget]
    other = [encode([Example(row.prompt, text) for text in refusals[:2]]) for row in forget]
    rows = Rows(encode(forget), encode([record.example() for record in data.retain]), other)
    model = FreshModel(hidden=256, layers=6, feed_forward=768).build(tokenizer, 0)
    frozen = copy.deepcopy(model).requires_grad_(False).eval() if live else None
    made = recipe(method, train=TRAIN, **METHODS[method])
    feed = Feed(model, made, rows, 0)
    if live:
        needs = {axis: getattr(made.axes.get(axis), "needs", frozenset()) for axis in ("objective", "retain")}
        for stream in feed.reference:
            feed.reference[stream] = Live(
                feed, frozen, needs["retain" if stream == "retain" else "objective"]
            )
        if "retain" in feed.hidden:
            feed.hidden["retain"]._reference.clear()
            feed.hidden["retain"].reference = Live(feed, frozen, needs["retain"]).reference
    loop = _Run(model, feed, made, None, None)
    entries = [loop._step(step) for step in feed.steps]
    loop.optimiser.zero_grad(set_to_none=True)
    losses = [entry[name] for entry in entries for name in ("forget_loss", "retain_loss") if name in entry]
    return model, loop, feed, losses


def measure(method: str, live: bool) -> tuple[int, float, list[float]]:
    """Peak bytes; what is kept beyond weights and moments, in models; losses."""
    torch.set_num_threads(1)
    held = []
    peak, left = live_bytes(lambda: held.append(run(method, live)))
    model, loop, _, losses = held[0]
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    moments = 2 * sum(p.numel() * p.element_size() for p in loop.parameters)
    return peak, (left - weights - moments) / weights, losses


def main() -> None:
    fresh = ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1)
    first = 0
    for method in METHODS:
        (peak, kept, losses), (other_peak, other_kept, others) = (
            fresh.submit(measure, method, live).result() for live in (False, True)
        )
        first = first or peak
        print(
            f"{method:16s} peak {peak / 2**20:5.1f} MiB, {peak / first:.2f} of ga+nll's; "
            f"with a second model {other_peak / 2**20:5.1f} MiB, {other_peak / peak:.2f} of that",
            f"  kept, in models: {verdict(kept, most=0.5)}, with a second one {verdict(other_kept, least=0.99)}; "
            f"losses apart by {max(abs(a - b) for a, b in zip(losses, others, strict=True)):.0e}",
            sep="\n",
            flush=True,
        )


if __name__ == "__main__":
    main()
