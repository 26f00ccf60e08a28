"""What a training step costs: retain terms and gradient rules beside GradDiff, and a cached beside a live reference.

    python benchmarks/steps.py [--rounds 15]

Same rows, same model (the default pocket world's target), one thread. The live reference is a second model in memory that is
run at every step on batches padded to a fixed length, as public code does.
"""

import argparse

import torch
from timing import paired, verdict

from expunge.benchmarks.pocket import Pocket
from expunge.data.batching import collate
from expunge.models.logprobs import answer_rows
from expunge.recipes import recipe
from expunge.run import load
from expunge.run.build import build_pocket
from expunge.train.feed import Feed, Rows
from expunge.train.loop import _Run

ROWS = 32


def stepper(folder: str, method: str, rows: Rows):
    """A function that runs one optimiser step of a method on fixed rows."""
    lm = load(folder, template="qa", device="cpu")
    made = recipe(method, train={"learning_rate": 1e-6, "batch_size": ROWS, "max_steps": 1})
    feed = Feed(lm.model, made, rows, lm.pad_id)
    run = _Run(lm.model, feed, made, None, None)
    lm.model.train()
    return lambda: run._step(feed.steps[0]), feed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    world = build_pocket(tell=print)
    lm = load(world / "target", template="qa", device="cpu")
    data = Pocket.open(world).dataset()
    encode = lm.encoder.examples
    rows = Rows(encode([r.example() for r in data.forget[:ROWS]]), encode([r.example() for r in data.retain]))
    plain, _ = stepper(world / "target", "ga+nll", rows)
    print(f"steps of {ROWS} forget and {ROWS} retain rows, beside GradDiff (ga+nll):")
    for method, most in (("npo+nll", 1.1), ("npo+kl", 1.3), ("simnpo+nll", 1.1), ("npo+nll+gru", None)):
        step, feed = stepper(world / "target", method, rows)
        ours, base, ratio = paired(step, plain, rounds)
        bound = verdict(ratio, most=most) if most else f"{ratio:.3f} (two backward passes; no bound)"
        print(
            f"  {method:12s} {1e3 * ours:6.1f} ms against {1e3 * base:6.1f} ms: {bound}; reference cache {feed.reference_bytes / 2**10:.0f} KiB"
        )

    print("NPO with a cached reference beside NPO with a live one and rows padded to 64:")
    step, feed = stepper(world / "target", "npo", Rows(rows.forget))
    model, live = (load(world / "target", template="qa", device="cpu").model for _ in range(2))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    padded = collate([rows.forget[i] for i in feed.steps[0].forget], 0)
    wide = type(padded)(*(torch.nn.functional.pad(part, (0, 64 - part.shape[1])) for part in padded))
    cached_loss = step()["forget_loss"]

    def naive() -> float:
        optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            before = torch.zeros(ROWS).index_add(0, (seen := answer_rows(live, wide)).row, seen.logp)
        seen = answer_rows(model, wide)
        loss = (
            20
            * torch.nn.functional.softplus(
                0.1 * (torch.zeros(ROWS).index_add(0, seen.row, seen.logp) - before)
            )
        ).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        return float(loss.detach())

    difference = abs(naive() - cached_loss)
    slow, quick, ratio = paired(naive, step, rounds)
    print(
        f"  {1e3 * slow:.1f} ms against {1e3 * quick:.1f} ms: {verdict(ratio, least=1.4)}; losses differ by {difference:.1e}"
    )
    size = sum(p.numel() * p.element_size() for p in live.parameters())
    print(f"  second model {size / 2**10:.0f} KiB, cache {feed.reference_bytes / 2**10:.1f} KiB")


if __name__ == "__main__":
    main()
