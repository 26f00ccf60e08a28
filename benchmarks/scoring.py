"""What scoring pushes through the model: tokens and vocabulary positions used, beside the least that any way needs.

    python benchmarks/scoring.py

All evaluation rows of the default pocket world (right, paraphrased and wrong answers), and of TOFU where EXPUNGE_SHARED_DATA
leads to it, tokenised for a small model. Time is against one padded forward a sequence, sorted by length, batch 32.
"""

import os
from pathlib import Path

import torch
from timing import paired

from expunge.benchmarks.pocket import Pocket
from expunge.benchmarks.tofu import Tofu
from expunge.data.batching import collate
from expunge.models.fresh import FreshModel, train_tokenizer
from expunge.models.language_model import TransformerLM, Work
from expunge.run import load
from expunge.run.build import build_pocket
from expunge.types import Example, Prompt


def examples_of(tasks) -> list[Example]:
    found = {}
    for probes in tasks.values():
        for probe in probes:
            for answer in (probe.answer, probe.right_answer, *probe.perturbed_answer):
                found.setdefault((probe.question, answer), Example(Prompt.ask(probe.question), answer))
    return list(found.values())


def report(name: str, lm: TransformerLM, examples: list[Example], rounds: int) -> None:
    lm.score(examples[:8])
    lm.work = Work()
    lm.score(examples)
    work = lm.work
    print(f"{name}: {len(examples)} distinct (question, answer) pairs")
    print(
        f"  tokens pushed {work.tokens:,} of {work.distinct_tokens:,} distinct ({100 * (work.tokens / work.distinct_tokens - 1):.1f} % padding)"
    )
    print(
        f"  one forward a sequence without any padding: {work.sequence_tokens:,} tokens, {work.sequence_tokens / work.tokens:.2f} times as many"
    )
    print(
        f"  positions projected {work.projected:,} of {work.distinct_answers:,} that predict a distinct answer token"
    )

    @torch.inference_mode()
    def plain() -> None:
        rows = sorted(lm.encoder.examples(examples), key=lambda row: len(row.ids))
        for first in range(0, len(rows), 32):
            batch = collate(rows[first : first + 32], lm.pad_id)
            torch.log_softmax(lm.model(input_ids=batch.ids, attention_mask=batch.attention).logits, -1)

    slow, quick, ratio = paired(plain, lambda: lm.score(examples), rounds)
    print(
        f"  {slow:.2f} s against {quick:.2f} s: {ratio:.2f} times faster than length-sorted batches of 32 with all positions projected"
    )


def main() -> None:
    torch.set_num_threads(1)
    world = build_pocket(tell=print)
    report(
        "pocket",
        load(world / "target", template="qa", device="cpu"),
        examples_of(Pocket.open(world).tasks()),
        5,
    )
    folder = Path(os.environ.get("EXPUNGE_SHARED_DATA", "../shared/data")) / "tofu"
    if folder.is_dir():
        examples = examples_of(Tofu(folder).tasks())
        tokenizer = train_tokenizer([e.text + " " + e.answer for e in examples], 4096)
        model = FreshModel(hidden=128, context=1024).build(tokenizer, 0).eval()
        report("TOFU forget10, whole", TransformerLM(model, tokenizer), examples, 2)


if __name__ == "__main__":
    main()
