"""Sixteen answers at once: through the running batch, in one static batch of `generate`, and one after another.

    python benchmarks/continuous.py [--rounds 7] [--answers 16] [--hidden 256] [--layers 4]

Tokens a second, and the ratio of times that were taken in turn. All answers are asked for at once; end tokens are suppressed, and the
answers are 16 to 64 tokens long, each its own length (or all 64: "same length"). A static batch of `generate` runs until the longest
is done, so its answers are cut. A last line has ECO on every second answer.
"""

import argparse

import torch
from timing import paired, verdict

from expunge.guards.actions.eco import ECO, FittedECO
from expunge.guards.target_names import TargetNames
from expunge.models.continuous import Continuous
from expunge.models.corrupted import CorruptedInputs
from expunge.models.fresh import FreshModel, train_tokenizer
from expunge.models.language_model import TransformerLM
from expunge.types import GenerationParams, Prompt

TEXTS = [
    "Where was Mara Olen born? Mara Olen was born in Corvale.",
    "the quick brown fox jumps over the lazy dog",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--answers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = train_tokenizer(TEXTS * 4, 400)
    shape = FreshModel(hidden=given.hidden, layers=given.layers, feed_forward=4 * given.hidden)
    lm = TransformerLM(shape.build(tokenizer, 0).eval().to(given.device), tokenizer, "qa")
    lm._end_ids.clear()
    lm._end_ids.add(-1)  # none comes
    continuous = Continuous(lm)
    prompts = [Prompt.ask(TEXTS[0] + " Who?" * (i % 3)) for i in range(given.answers)]  # one static batch
    eco = CorruptedInputs(FittedECO(ECO(), TargetNames(["Mara Olen", "Corvale"]), lm, 3.0, 0, []))

    for what, lengths in (
        ("same length", [64] * given.answers),
        ("own lengths", [16 + 48 * i // max(given.answers - 1, 1) for i in range(given.answers)]),
    ):
        params = [GenerationParams(max_new_tokens=length) for length in lengths]
        tokens = sum(lengths)

        def loop(params=params, changes=(None,)):
            jobs = [
                continuous.submit(prompt, param, changes[i % len(changes)])
                for i, (prompt, param) in enumerate(zip(prompts, params, strict=True))
            ]
            for job in jobs:
                job.wait()

        def static(lengths=lengths):
            lm.generate(prompts, GenerationParams(max_new_tokens=max(lengths)))

        def single(params=params):
            for prompt, param in zip(prompts, params, strict=True):
                lm.generate([prompt], param)

        def half(loop=loop):
            loop(changes=(None, eco))

        ours, theirs, ratio = paired(loop, static, given.rounds)
        print(f"{what}: {tokens / ours:7.0f} tokens/s in the running batch")
        print(f"  static batch {tokens / theirs:7.0f} tokens/s, time {verdict(ratio, most=1.1)} of it")
        ours, theirs, ratio = paired(loop, single, given.rounds)
        print(f"  one by one   {tokens / theirs:7.0f} tokens/s, time {verdict(ratio, most=0.5)} of it")
        ours, theirs, ratio = paired(half, loop, given.rounds)
        print(f"  half ECO     {tokens / ours:7.0f} tokens/s, time {verdict(ratio, most=1.2)} of all plain")
    continuous.close()


if __name__ == "__main__":
    main()
