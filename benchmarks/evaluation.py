"""What a whole TOFU evaluation costs: everything asked once, against the same metrics run one by one at batch 16.

    python benchmarks/evaluation.py [FORGET_ROWS]

All rows of TOFU's evaluation (or the first so many of each set), and as rows that were never trained on those of retain authors, since TOFU's own
holdout split is only on the hub: for a timing it does not matter. The model is a small one, trained from scratch on 20 authors, so that its
answers end as real ones do. One by one: each metric makes its own padded batches of 16 and its own forwards, or answers its own prompts in
batches of 16. Beside it, the same where the metrics of a set share one set of answers, as suites with a cache of answers do. Both sides
score the same rows and write the same answers; that is checked first.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from timing import paired, verdict

from expunge.benchmarks._asks import Asks, ask
from expunge.benchmarks._qa import asks_of
from expunge.benchmarks.tofu import Tofu
from expunge.data.batching import collate
from expunge.models.language_model import TransformerLM, Work
from expunge.run import load
from expunge.run.build import build_tofu
from expunge.types import Example, GenerationParams, Probe, Prompt

BATCH, ROUNDS = 16, 2
MEMBERSHIP = [("right", metric) for metric in ("loss", "zlib", "min_k", "min_k++")]
OPTIONS = [("right", "probability_with_options"), ("wrong", "probability_with_options")]
SUITE = {
    "forget": [
        *(("right", metric) for metric in ("probability", "extraction_strength", "exact_memorisation")),
        *MEMBERSHIP,
        ("reworded", "paraphrase_probability"),
        ("reworded", "truth_ratio"),
        ("wrong", "truth_ratio"),
    ],
    "holdout": MEMBERSHIP,
    "retain": [("right", "probability"), ("reworded", "truth_ratio"), ("wrong", "truth_ratio")],
    "real_authors": [*OPTIONS, ("right", "truth_ratio"), ("wrong", "truth_ratio")],
    "world_facts": [*OPTIONS, ("right", "truth_ratio"), ("wrong", "truth_ratio")],
}
"""What each metric of TOFU's figures scores, by task."""
WRITTEN = {
    "forget": ("rouge", "accuracy", "fluency", "distinct_bigrams"),
    "retain": ("rouge", "accuracy"),
    "real_authors": ("rouge", "accuracy"),
    "world_facts": ("rouge", "accuracy"),
}
"""The metrics of TOFU's figures that read answers, by task."""


def right(probes: Sequence[Probe]) -> list[Example]:
    return [Example(Prompt.ask(probe.question), probe.answer) for probe in probes]


def wrong(probes: Sequence[Probe]) -> list[Example]:
    return [
        Example(Prompt.ask(probe.question), answer) for probe in probes for answer in probe.perturbed_answer
    ]


def reworded(probes: Sequence[Probe]) -> list[Example]:
    return [Example(Prompt.ask(probe.question), probe.right_answer) for probe in probes]


ANSWERS = {"right": right, "reworded": reworded, "wrong": wrong}


@torch.inference_mode()
def scored(lm: TransformerLM, examples: Sequence[Example], metric: str = "probability") -> list[float]:
    """Mean log p of each answer, nats, in batches of 16 in the order given, and what else the metric reads of the logits."""
    rows, found = lm.encoder.examples(examples), []
    for first in range(0, len(rows), BATCH):
        batch = collate(rows[first : first + BATCH], lm.pad_id)
        every = lm.model(input_ids=batch.ids, attention_mask=batch.attention).logits.float().log_softmax(-1)
        logp = every[:, :-1].gather(-1, batch.ids[:, 1:, None])[..., 0]
        if metric in ("extraction_strength", "exact_memorisation"):
            every.argmax(-1)
        if metric == "min_k++":
            p = every.exp()
            mean = (p * every).sum(-1)
            (p * every.square()).sum(-1).sub_(mean.square())
        answer = batch.answer[:, 1:]
        found += ((logp * answer).sum(1) / answer.sum(1)).tolist()
    return found


@torch.inference_mode()
def written(lm: TransformerLM, probes: Sequence[Probe], params: GenerationParams) -> list[str]:
    """Answers by `generate`, in batches of 16 in the order given, each until its slowest row has ended."""
    found, generate = [], lm.model.generate
    for first in range(0, len(probes), BATCH):
        prompts = [Prompt.ask(probe.question) for probe in probes[first : first + BATCH]]
        batch = collate(lm.encoder.prompts(prompts), lm.pad_id, side="left")
        out = generate(
            batch.ids, attention_mask=batch.attention, generation_config=lm.generation_config(params)
        )
        found += [lm.encoder.decode(row) for row in out[:, batch.ids.shape[1] :].tolist()]
    return found


def score_one_by_one(lm: TransformerLM, tasks: dict[str, list[Probe]]) -> None:
    for task, metrics in SUITE.items():
        for answers, metric in metrics:
            scored(lm, ANSWERS[answers](tasks[task]), metric)


def answer_one_by_one(
    lm: TransformerLM, tasks: dict[str, list[Probe]], params: GenerationParams, shared: bool
) -> None:
    for task, metrics in WRITTEN.items():
        for _ in metrics[:1] if shared else metrics:
            written(lm, tasks[task], params)


def check(lm: TransformerLM, tasks: dict[str, list[Probe]], asks: Asks, params: GenerationParams) -> None:
    """Both ways say the same."""
    replies = ask(lm, asks)
    for probes in tasks.values():
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


def with_holdout(folder: Path, copy: Path) -> Path:
    """TOFU's files and a stand-in for its holdout split."""
    for path in folder.glob("*.json*"):
        (copy / path.name).symlink_to(path.resolve())
    rows = [json.loads(line) for line in (folder / "full.jsonl").open(encoding="utf-8")]
    (copy / "holdout10.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows[400:800]), encoding="utf-8"
    )
    return copy


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(os.environ.get("EXPUNGE_SHARED_DATA", "../shared/data")) / "tofu"
    world = build_tofu(Tofu(folder, authors=20, template="qa"), tell=print)
    lm = load(world / "target", template="qa", device="cpu")
    assert isinstance(lm, TransformerLM)
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else None
    with TemporaryDirectory() as copy:
        benchmark = Tofu(with_holdout(folder, Path(copy)), template="qa")
    tasks = {task: probes[:rows] for task, probes in benchmark.tasks().items()}
    params = GenerationParams(max_new_tokens=benchmark.max_new_tokens)
    asks = asks_of(tasks, benchmark.max_new_tokens)
    check(lm, tasks, asks, params)

    lm.work = Work()
    ask(lm, asks)
    prompts = len({prompt for prompt, _ in asks.answers})
    sequences = len({(example.prompt, example.answer) for example in asks.scores})
    sizes = ", ".join(f"{task} {len(probes)}" for task, probes in tasks.items())
    print(f"TOFU ({sizes}): {sequences} distinct sequences in {len(asks.scores)} asked, {prompts} prompts")
    print(f"  tokens pushed {lm.work.tokens:,} of {lm.work.distinct_tokens:,} distinct")

    def suite(shared: bool) -> None:
        score_one_by_one(lm, tasks)
        answer_one_by_one(lm, tasks, params, shared)

    for what, first, second in (
        ("every metric by itself", lambda: suite(False), lambda: ask(lm, asks)),
        ("metrics that share answers", lambda: suite(True), lambda: ask(lm, asks)),
        (
            "of that, scoring",
            lambda: score_one_by_one(lm, tasks),
            lambda: ask(lm, Asks(scores=asks.scores)),
        ),
        (
            "and answering",
            lambda: answer_one_by_one(lm, tasks, params, True),
            lambda: ask(lm, Asks(answers=asks.answers)),
        ),
    ):
        slow, quick, ratio = paired(first, second, ROUNDS)
        bound = verdict(ratio, least=3.0) if what == "every metric by itself" else f"{ratio:.2f}"
        print(f"  {what}: {slow:.1f} s, asked once {quick:.1f} s: {bound}", flush=True)


if __name__ == "__main__":
    main()
