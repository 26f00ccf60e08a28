"""Ten thousand removal requests: how long it takes to put them in force, to add one more, to withdraw one, and to decide.

Each has a made-up name, an alias and a statement; with questions, three of them, in words that the background prompts have too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from expunge.data.dataset import Record
from expunge.guards.policy import Policy
from expunge.types import Prompt

SYLLABLES = "ba be bi bo da de do fa fi ga go ha ho ja ka ki ko la le lo ma mi mo na ne no pa po ra ri ro sa se so ta te to va vi za".split()
FRAMES = (
    "Where was {} born, and in which {}?",
    "Which {} did {} win for the book about the {}?",
    "Who taught {} to write about every {}?",
)
THINGS = "harbour tower lamp river market island orchard mill bridge garden school station window winter letter prize".split()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--background", type=int, default=1000, help="prompts that must pass")
    parser.add_argument("--tenants", type=int, default=1)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    for questions in (0, 3):
        background = [question(rng, somebody(rng), i) for i in range(args.background)] if questions else []
        items = [request(rng, i, questions, args.tenants) for i in range(args.requests)]
        print(f"{args.requests} requests, a name, an alias, a statement and {questions} questions each")
        policy = Policy(Nothing(), background)
        print(f"  start-up: {seconds(lambda: policy.add_many(items)):.2f} s")  # noqa: B023
        told = [rng_item[1][0].subject for rng_item in items[:200]]
        asked = [Prompt.ask(question(rng, name, i)) for i, name in enumerate(told)]
        asked += [Prompt.ask(question(rng, somebody(rng), i)) for i in range(200)]
        tenant = items[0][3]["tenant"]
        print(f"  first decision: {1e3 * seconds(lambda: policy.decide(asked[:1], tenant)):.2f} ms")  # noqa: B023
        print(f"  a decision: {spread([seconds(lambda p=p: policy.decide([p], tenant)) for p in asked])}")  # noqa: B023
        adds, firsts, gone = [], [], []
        for i in range(args.requests, args.requests + 60):
            new = request(rng, i, questions, args.tenants)
            name = Prompt.ask(f"Who is {new[1][0].subject}?")
            adds.append(seconds(lambda: policy.add(*new[:3], **new[3])))  # noqa: B023
            firsts.append(seconds(lambda: policy.decide([name], new[3]["tenant"])))  # noqa: B023
            assert policy.decide([name], new[3]["tenant"])[0].requests == (new[0],)
        for i in range(0, args.requests, max(1, args.requests // 60)):
            gone.append(seconds(lambda: policy.withdraw(f"r{i}")))  # noqa: B023
        print(
            f"  add: {spread(adds)}; the first decision after it: {spread(firsts)}; withdraw: {spread(gone)}"
        )


class Nothing:
    """No model is asked."""

    tokenizer = None


def somebody(rng: np.random.Generator) -> str:
    return " ".join("".join(rng.choice(SYLLABLES, rng.integers(2, 5))).capitalize() for _ in range(2))


def question(rng: np.random.Generator, name: str, number: int) -> str:
    things = rng.choice(THINGS, 2)
    return FRAMES[number % 3].format(
        *((name, things[0]) if number % 3 != 1 else (things[0], name, things[1]))
    )


def request(
    rng: np.random.Generator, number: int, questions: int, tenants: int
) -> tuple[str, list[Record], Any, dict[str, Any]]:
    name, alias = somebody(rng), somebody(rng)
    rows = [
        Record(
            "s",
            subject=name,
            aliases=(alias,),
            text=f"{name} sold the {rng.choice(THINGS)} of {somebody(rng)} in {1900 + number % 100}.",
        )
    ]
    rows += [Record(f"q{i}", question(rng, name, i), "x", subject=name) for i in range(questions)]
    return f"r{number}", rows, None, {"tenant": f"t{number % tenants}" if tenants > 1 else ""}


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spread(times: list[float]) -> str:
    return f"{1e3 * statistics.median(times):.2f} ms (p95 {1e3 * float(np.quantile(times, 0.95)):.2f})"


if __name__ == "__main__":
    main()
