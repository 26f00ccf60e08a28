"""What RMU's early exit and kept prefix save: a step on a model of twelve blocks beside one with full forwards.

    python benchmarks/rmu.py [--rounds 15]

Block 5 of 12, mlp.down_proj of blocks 3 to 5 trains, sixteen forget and sixteen retain rows of pocket. The full step runs all twelve
blocks with a gradient for every parameter and asks a second, frozen model for the retain rows, as public code does.
"""

import argparse

import torch
from timing import paired, verdict

from expunge.benchmarks.pocket import Pocket
from expunge.data.batching import collate
from expunge.models.fresh import FreshModel
from expunge.models.hidden import find_blocks
from expunge.models.language_model import TransformerLM
from expunge.recipes import recipe
from expunge.run import load
from expunge.run.build import build_pocket
from expunge.train.feed import Feed, Rows
from expunge.train.loop import _Run

LAYER = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    world = build_pocket(tell=print)
    tokenizer = load(world / "target", template="qa", device="cpu").tokenizer
    data = Pocket.open(world).dataset()

    def fresh():
        return FreshModel(hidden=256, layers=12, feed_forward=768).build(tokenizer, 0).eval()

    quick, slow, frozen = fresh(), fresh(), fresh()
    encode = TransformerLM(quick, tokenizer, "qa").encoder.examples
    rows = Rows(
        forget=encode([r.example() for r in data.forget[:16]]),
        retain=encode([r.example() for r in data.retain[:16]]),
    )
    made = recipe(
        "rmu+embed+layers",
        objective={"layer": LAYER},
        selection={"patterns": [rf"layers\.[{LAYER - 2}-{LAYER}]\.mlp\.down_proj"]},
        train={"batch_size": 16, "max_steps": 1, "learning_rate": 1e-9, "weight_decay": 0.0},
    )
    feed = Feed(quick, made, rows, 0)
    run = _Run(quick, feed, made, None, None)
    step = feed.steps[0]
    forget, retain = ([getattr(rows, name)[i] for i in getattr(step, name)] for name in ("forget", "retain"))
    batches = [collate(part, 0) for part in (forget, retain)]
    seen: list[torch.Tensor] = []
    for model in (slow, frozen):
        find_blocks(model, LAYER).modules[LAYER].register_forward_hook(
            lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
    optimiser = torch.optim.AdamW(slow.parameters(), lr=1e-9, weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(0)
    direction = torch.rand(256, generator=generator)
    goal = 6.5 * direction / direction.norm()

    def states(model, batch) -> torch.Tensor:
        model(input_ids=batch.ids, attention_mask=batch.attention)
        return seen.pop()[batch.answer]

    def full() -> float:
        optimiser.zero_grad()
        with torch.no_grad():
            reference = states(frozen, batches[1])
        total = (states(slow, batches[0]) - goal).square().mean()
        total = total + (states(slow, batches[1]) - reference).square().mean()
        total.backward()
        optimiser.step()
        return float(total.detach())

    def early() -> float:
        entry = run._step(step)
        return entry["forget_loss"] + entry["retain_loss"]

    losses = full(), early()
    a, b, ratio = paired(full, early, rounds)
    print(
        f"{1e3 * a:.1f} ms against {1e3 * b:.1f} ms: {verdict(ratio, least=5.0)}; losses {losses[0]:.7f} and {losses[1]:.7f}"
    )
    print(f"kept of the starting model: {feed.reference_bytes / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
