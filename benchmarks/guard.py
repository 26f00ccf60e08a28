"""What guards cost: ECO's generation beside the unguarded model at batch 1 and 16, the corruption alone over model width, the
other actions inside the model, and a policy's decisions as requests grow to a thousand.

    python benchmarks/guard.py [--rounds 41]

64 new tokens a prompt, end tokens suppressed, one thread. Prompts are in scope, so detector, corruption and the watch over
written names are all at work; a second line has prompts out of scope.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from timing import paired, verdict

from expunge.benchmarks.pocket import Pocket
from expunge.data.dataset import Record
from expunge.guards.actions.eco import ECO, FittedECO
from expunge.guards.guard import FitData, Guard, Place
from expunge.guards.policy import Policy
from expunge.guards.target_names import TargetNames
from expunge.models.fresh import FreshModel
from expunge.models.language_model import TransformerLM
from expunge.recipes import recipe
from expunge.run import load
from expunge.run.build import build_pocket
from expunge.types import GenerationParams, Prompt

TOKENS = 64


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=41)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    world = build_pocket(tell=print)
    data = Pocket.open(world).dataset()
    pocket = load(world / "target", template="qa", device="cpu")
    wide = FreshModel(hidden=512, layers=8, feed_forward=1536).build(pocket.tokenizer, 0).eval()
    params = GenerationParams(max_new_tokens=TOKENS)
    for size, lm in (
        ("pocket model", pocket),
        ("512 wide, 8 layers", TransformerLM(wide, pocket.tokenizer, "qa")),
    ):
        plain_config = lm.generation_config

        def endless(params, plain_config=plain_config):
            config = plain_config(params)
            config.min_new_tokens = params.max_new_tokens
            return config

        lm.generation_config = endless
        guard = fitted(lm, data, "eco", action={"strength": 8.0})
        for what, rows in (("in scope", data.forget), ("out of scope", data.retain)):
            for batch, least in ((1, 0.95), (16, 0.98)):
                prompts = [Prompt.ask(record.question) for record in rows[:batch]]
                plain, guarded, ratio = paired(
                    lambda p=prompts, m=lm: m.generate(p, params),
                    lambda p=prompts, g=guard: g.generate(p, params),
                    rounds if lm is pocket else max(3, rounds // 2),
                )
                print(
                    f"{size}, batch {batch:2d}, {what}: unguarded {1e3 * plain:.0f} ms, guarded {1e3 * guarded:.0f} ms: "
                    f"speed {verdict(ratio, least=least)}"
                )

    print("corruption of 32 tokens alone, by model:")
    for hidden, layers in ((64, 2), (64, 16), (512, 2), (512, 8)):
        model = (
            FreshModel(hidden=hidden, layers=layers, feed_forward=3 * hidden)
            .build(pocket.tokenizer, 0)
            .eval()
        )
        big = TransformerLM(model, pocket.tokenizer)
        action = FittedECO(ECO(), TargetNames(data.subjects), big, 8.0, 0, [])
        ids = list(range(300, 332))
        embeddings = model.get_input_embeddings()(torch.tensor(ids)).detach()
        action.apply(embeddings, ids)
        row = torch.arange(300, 332)[None]

        @torch.inference_mode()
        def forward(model=model, row=row):
            model(row)

        cost, _, ratio = paired(lambda a=action, e=embeddings, i=ids: a.apply(e, i), forward, 50)
        size = sum(p.numel() for p in model.parameters())
        print(
            f"  width {hidden:4d}, {layers:2d} layers, {size / 1e6:6.2f} M parameters: {1e3 * cost:.3f} ms, {100 * ratio:.2f} % of one forward of 32 tokens"
        )

    decisions(pocket, data)


def fitted(lm, data, method, **settings) -> Guard:
    """A guard in memory, of a method that trains nothing."""

    def nothing(part, name, *rows, **more):
        raise AssertionError(f"{method} trains {part}")

    rows = FitData(data.forget, data.retain, data.subjects, data.forget, 0, Place(Path(), load), nothing)
    return Guard.fit(lm, rows, recipe(method, **settings))


def decisions(lm, data) -> None:
    """Seconds for a decision on one prompt, and for adding and withdrawing, at 1 and at 1,000 requests."""
    rng = np.random.default_rng(0)
    letters = list("abcdefghiklmnoprstuvw")

    def somebody():
        return " ".join("".join(rng.choice(letters, rng.integers(4, 9))).capitalize() for _ in range(2))

    background = [record.question for record in data.retain]
    one, many = Policy(lm, background), Policy(lm, background)
    added = []
    for number in range(1000):
        name = somebody()
        rows = [
            Record(
                f"{number}-{i}",
                question=record.question.replace(record.subject, name),
                answer="x",
                subject=name,
            )
            for i, record in enumerate(data.forget[:6])
        ]
        begin = time.perf_counter()
        many.add(f"r{number}", rows)
        many.decide([rows[0].question])  # in force from here on
        added.append(time.perf_counter() - begin)
        if number == 0:
            one.add("r0", rows)
    asked = [record.question for record in (*data.retain[:40], *data.forget[:40])]
    turn = iter(range(10**9))
    few, lots, ratio = paired(
        lambda: one.decide([asked[next(turn) % len(asked)]]),
        lambda: many.decide([asked[next(turn) % len(asked)]]),
        400,
    )
    print(
        f"policy: a decision takes {1e3 * few:.2f} ms under one request, {1e3 * lots:.2f} ms under 1,000: "
        f"ratio {verdict(1 / ratio, most=1.2)}"
    )
    print(
        f"policy: the last of 1,000 requests was in force {1e3 * statistics.median(added[-50:]):.0f} ms after it was sent (longest {1e3 * max(added):.0f} ms)"
    )
    begin = time.perf_counter()
    for number in range(1, 1000):
        many.withdraw(f"r{number}")
    each = (time.perf_counter() - begin) / 999
    same = [a.requests == b.requests for a, b in zip(many.decide(asked), one.decide(asked), strict=True)]
    print(
        f"policy: withdrawn in {1e3 * each:.1f} ms each; decisions afterwards as under the one that is left: {all(same)}"
    )


if __name__ == "__main__":
    main()
