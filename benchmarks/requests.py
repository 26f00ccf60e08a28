"""Requests added one by one to a policy: are old ones still found, does anybody else pay, how much is kept? (For time see guard.py.)

    python benchmarks/requests.py [--seed 0]

The forget people of a pocket world are the first requests, made-up people the others, in the same questions. Missed: questions
about the world's people whose request is in force, in words that no request was given. Flagged wrongly: questions about everybody
else in the world, and about made-up people whose request has not come yet. Markdown, as docs/guards.md has it.
"""

import argparse
import tracemalloc

import numpy as np
import torch

from expunge.attacks._case import cases_of
from expunge.attacks._rewrites import rewrite
from expunge.benchmarks.pocket import Pocket
from expunge.data.dataset import Record
from expunge.guards.policy import Policy
from expunge.metrics.intervals import wilson
from expunge.run import load
from expunge.run.build import build_pocket

STOPS = (1, 10, 20, 100, 1000)
WORDINGS = ("in a frame", "role", "name only", "German")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    world = build_pocket(seed=seed, tell=print)
    bench = Pocket.open(world)
    tasks, data = bench.tasks(), bench.dataset()
    people = list(dict.fromkeys(record.subject for record in data.forget))
    rows_of = {name: [row for row in data.forget if row.subject == name] for name in people}
    asked = {
        name: [
            prompt.text
            for row in cases_of([p for p in tasks["forget"] if p.subject == name], tasks["retain"])
            for wording in WORDINGS
            if (prompt := rewrite(row, wording)) is not None
        ]
        for name in people
    }
    others = [probe.question for task in ("known", "lands", "holdout", "neighbours") for probe in tasks[task]]
    others += [probe.paraphrased_question or probe.question for probe in tasks["retain"]]
    rng = np.random.default_rng(seed)
    letters = list("abcdefghiklmnoprstuvw")
    made_up = [
        " ".join("".join(rng.choice(letters, rng.integers(4, 9))).capitalize() for _ in range(2))
        for _ in range(max(STOPS) + 100)
    ]
    template = rows_of[people[0]]
    policy = Policy(
        load(world / "target", template="qa", device="cpu"),
        background=[record.question for record in data.retain],
        known=list(dict.fromkeys(record.subject for record in data.retain)),
    )
    print("| requests | missed of the world's | flagged wrongly | KiB a request |")
    print("|---|---|---|---|")
    tracemalloc.start()
    start = tracemalloc.get_traced_memory()[0]
    first: list[tuple[str, ...]] = []
    for number in range(max(STOPS)):
        if number < len(people):
            policy.add(people[number], rows_of[people[number]])
        else:
            name = made_up[number]
            policy.add(
                name,
                [
                    Record(f"{name}-{i}", row.question.replace(people[0], name), "x", subject=name)
                    for i, row in enumerate(template)
                ],
            )
        if number + 1 not in STOPS:
            continue
        inside = [text for name in people[: number + 1] for text in asked[name]]
        outside = [
            *others,
            *(row.question.replace(people[0], name) for name in made_up[-100:] for row in template),
        ]
        decided = policy.decide(inside)
        missed = sum(not found.requests for found in decided)
        wrong = sum(bool(found.requests) for found in policy.decide(outside))
        kept = [found.requests for found in policy.decide(asked[people[0]])]
        first = first or kept
        same = all(set(a) <= set(b) for a, b in zip(first, kept, strict=True))
        assert same, "the first request is no longer found where it was"
        size = (tracemalloc.get_traced_memory()[0] - start) / 1024 / (number + 1)
        print(
            f"| {number + 1} | {share(missed, len(inside))} | {share(wrong, len(outside))} | {size:.0f} |",
            flush=True,
        )


def share(wrong: int, n: int) -> str:
    low, high = wilson(wrong, n)
    return f"{wrong} of {n}: {wrong / n:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
