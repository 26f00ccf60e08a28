"""What a whole TOFU evaluation costs: everything asked once, against the same metrics run one by one.

    python benchmarks/evaluation.py [AUTHORS]

A small model is trained from scratch on a subset of authors (default 20), so that its answers end as real ones do. One by one: each
metric makes its own padded batches of 16 and its own forwards, and each set of prompts is answered in left-padded batches of 16, as
evaluation suites with one object a metric do. Both sides score the same rows and write the same answers; that is checked first.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from timing import paired, verdict

from expunge.benchmarks._asks import Asks, ask
from expunge.benchmarks.tofu import Tofu
from expunge.data.batching import collate
from expunge.models.language_model import TransformerLM, Work
from expunge.run import load
from expunge.run.build import build_tofu
from expunge.types import Example, GenerationParams, Probe, Prompt

BATCH = 16
SUITE = {
    "forget": (
        "probability",
        "extraction_strength",
        "exact_memorisation",
        "loss",
        "zlib",
        "min_k",
        "min_k++",
    ),
    "retain": ("probability", "loss", "zlib", "min_k", "min_k++"),
    "real_authors": ("probability_with_options",),
    "world_facts": ("probability_with_options",),
}
"""Metrics of right answers by task; each task also has a truth ratio (the right answer in other words and every wrong one) and ROUGE."""


def right(probes: Sequence[Probe]) -> list[Example]:
    return [Example(Prompt.ask(probe.question), probe.answer) for probe in probes]


def wrong(probes: Sequence[Probe]) -> list[Example]:
    return [
        Example(Prompt.ask(probe.question), answer) for probe in probes for answer in probe.perturbed_answer
    ]


def reworded(probes: Sequence[Probe]) -> list[Example]:
    return [Example(Prompt.ask(probe.question), probe.right_answer) for probe in probes]


@torch.inference_mode()
def scored(lm: TransformerLM, examples: Sequence[Example]) -> list[float]:
    """Mean log p of each answer, nats, in batches of 16 in the order given."""
    rows, found = lm.encoder.examples(examples), []
    for first in range(0, len(rows), BATCH):
        batch = collate(rows[first : first + BATCH], lm.pad_id)
        logp = lm.model(input_ids=batch.ids, attention_mask=batch.attention).logits.float().log_softmax(-1)
        logp = logp[:, :-1].gather(-1, batch.ids[:, 1:, None])[..., 0]
        answer = batch.answer[:, 1:]
        found += ((logp * answer).sum(1) / answer.sum(1)).tolist()
    return found


def written(lm: TransformerLM, probes: Sequence[Probe], params: GenerationParams) -> list[str]:
    found = []
    for first in range(0, len(probes), BATCH):
        prompts = [Prompt.ask(probe.question) for probe in probes[first : first + BATCH]]
        found += [answers[0].text for answers in lm.generate(prompts, params)]
    return found


def one_by_one(lm: TransformerLM, tasks: dict[str, list[Probe]], params: GenerationParams) -> None:
    for task, metrics in SUITE.items():
        probes = tasks[task]
        for metric in metrics:
            scored(lm, right(probes))
            if metric == "probability_with_options":
                scored(lm, wrong(probes))
        scored(lm, reworded(probes))
        scored(lm, wrong(probes))
        written(lm, probes, params)


def check(lm: TransformerLM, benchmark: Tofu, asks: Asks, params: GenerationParams) -> None:
    """Both ways say the same."""
    replies = ask(lm, asks)
    for probes in benchmark.tasks().values():
        for example, logp in zip(right(probes), scored(lm, right(probes)), strict=True):
            score = replies.score(example)
            assert score is not None
            assert abs(score.mean_logprob - logp) < 1e-3, (example, score.mean_logprob, logp)
        texts = written(lm, probes, params)
        same = sum(
            replies.answer(Prompt.ask(probe.question), params)[0].text == text
            for probe, text in zip(probes, texts, strict=True)
        )
        assert same >= 0.99 * len(probes), f"{same} of {len(probes)} answers are the same"


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(os.environ.get("EXPUNGE_SHARED_DATA", "../shared/data")) / "tofu"
    authors = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    benchmark = Tofu(folder, authors=authors, template="qa")
    world = build_tofu(benchmark, tell=print)
    lm = load(world / "target", template="qa", device="cpu")
    assert isinstance(lm, TransformerLM)
    params = GenerationParams(max_new_tokens=benchmark.max_new_tokens)
    asks, tasks = benchmark.asks(), benchmark.tasks()
    check(lm, benchmark, asks, params)

    lm.work = Work()
    ask(lm, asks)
    prompts = len({prompt for prompt, _ in asks.answers})
    sequences = len({(example.prompt, example.answer) for example in asks.scores})
    print(
        f"TOFU with {authors} authors: {sequences} distinct sequences in {len(asks.scores)} asked, {prompts} prompts"
    )
    print(f"  tokens pushed {lm.work.tokens:,} of {lm.work.distinct_tokens:,} distinct")

    slow, quick, ratio = paired(lambda: one_by_one(lm, tasks, params), lambda: ask(lm, asks), 3)
    print(f"  one by one {slow:.1f} s, asked once {quick:.1f} s: {verdict(ratio, least=3.0)}")
    scores = Asks(scores=asks.scores)
    slow, quick, ratio = paired(
        lambda: [
            scored(lm, rows) for task, metrics in SUITE.items() for rows in _sequences(tasks[task], metrics)
        ],
        lambda: ask(lm, scores),
        3,
    )
    print(f"  of that, scoring alone {slow:.1f} s and {quick:.1f} s: {ratio:.2f} times")


def _sequences(probes: Sequence[Probe], metrics: Sequence[str]) -> list[list[Example]]:
    """What the metrics of one task score, one by one."""
    options = [wrong(probes)] * metrics.count("probability_with_options")
    return [*[right(probes)] * len(metrics), *options, reworded(probes), wrong(probes)]


if __name__ == "__main__":
    main()
