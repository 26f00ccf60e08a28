"""What ECO costs: generation beside the unguarded model at batch 1 and 16, and the corruption alone over model width.

    python benchmarks/guard.py [--rounds 41]

64 new tokens a prompt, end tokens suppressed, one thread. Prompts are in scope, so detector, corruption and the watch over
written names are all at work; a second line has prompts out of scope.
"""

import argparse

import torch
from timing import paired, verdict

from expunge.benchmarks.pocket import Pocket
from expunge.guards.actions.eco import ECO, FittedECO
from expunge.guards.guard import Guard
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
        guard = Guard.fit(lm, data, recipe("eco", action={"strength": 8.0}))
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


if __name__ == "__main__":
    main()
