"""What guarding costs a server: throughput, added latency, a request's way into force, and the start with many requests.

    python benchmarks/gateway.py [--requests 1000] [--many 10000] [--rounds 7] [--streams 16] [--tokens 48] [--hidden 512]

Two servers on one model, one with active requests and one with an empty ledger, are asked the same prompts in turn. Bounds:
throughput at least 0.9 of the unguarded server's, 95 % of the paired differences in latency at most 40 ms; with many requests
an add takes under 50 ms until it is in force, and the start (ledger and policy) under 5 s.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

import httpx2
import numpy as np
from served import Served, ask, fill, made_up_names, serving, streams
from timing import verdict

from expunge.guards.actions.refuse import Refuse
from expunge.guards.policy import Policy
from expunge.ledger import Ledger
from expunge.models.fresh import train_tokenizer

REFUSAL = Refuse().text


def make_model(folder: Path, hidden: int, layers: int = 6) -> None:
    """A Llama with random weights: what it writes does not matter, how long that takes does."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    texts = [
        f"What is the birthplace of {name}? It is a town."
        for name in made_up_names(400, np.random.default_rng(1))
    ]
    tokenizer = train_tokenizer(texts, 4000)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=1024, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


ASKED = "What does {} think of the weather in spring?"
"""What is measured with; it has to pass, so retain rows ask it too, of others."""


def background(path: Path, count: int = 400) -> Path:
    """Retain rows, from which false alarms are calibrated."""
    names = made_up_names(count, np.random.default_rng(2))
    frames = "Where does {} live, and since when?", ASKED
    rows = [
        {"question": frames[i % 2].format(name), "answer": "In a town.", "subject": name}
        for i, name in enumerate(names)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def throughput(plain: Served, guarded: Served, model: str, asked: argparse.Namespace) -> None:
    questions = [ASKED.format(name) for name in made_up_names(4 * asked.streams, np.random.default_rng(3))]
    ratios, speeds = [], {"unguarded": [], "guarded": []}
    for number in range(asked.rounds + 1):
        speed = {}
        for which, served in (("unguarded", plain), ("guarded", guarded))[:: 1 if number % 2 else -1]:
            seconds, answers = asyncio.run(streams(served, model, questions, asked.tokens, asked.streams))
            assert all(a.status == 200 for a in answers), [a.status for a in answers]
            refused = sum(REFUSAL.startswith(a.text.strip()) for a in answers)
            assert refused <= len(answers) // 10, f"{refused} of {len(answers)} are refusals, not answers"
            speed[which] = sum(a.tokens for a in answers) / seconds
        if number:  # the first round warms up
            for which, value in speed.items():
                speeds[which].append(value)
            ratios.append(speed["guarded"] / speed["unguarded"])
    print(
        f"{asked.streams} streams: {np.median(speeds['unguarded']):.0f} tokens a second unguarded, {np.median(speeds['guarded']):.0f} guarded"
    )
    print(
        f"throughput, guarded / unguarded: {verdict(float(np.median(ratios)), least=0.9)}, rounds {' '.join(f'{r:.2f}' for r in ratios)}",
        flush=True,
    )


def latency(plain: Served, guarded: Served, model: str, asked: argparse.Namespace) -> None:
    """Paired, one client: the same prompt to both, in turn."""

    async def measure() -> np.ndarray:
        async def client(served: Served) -> httpx2.AsyncClient:
            return httpx2.AsyncClient(base_url=served.url, headers=served.headers, timeout=60)

        one, other = await client(plain), await client(guarded)
        rows = []
        questions = [ASKED.format(name) for name in made_up_names(asked.pairs, np.random.default_rng(4))]
        for number, question in enumerate(questions):
            found = {}
            for which, who in (("plain", one), ("guarded", other))[:: 1 if number % 2 else -1]:
                found[which] = await ask(who, model, question, 16)
            rows.append([(a.first_seconds, a.seconds) for a in (found["plain"], found["guarded"])])
        await one.aclose()
        await other.aclose()
        return np.array(rows) * 1000

    times = asyncio.run(measure())[5:]
    for at, what in enumerate(("first text", "whole answer")):
        added = times[:, 1, at] - times[:, 0, at]
        print(
            f"{what}: {np.median(times[:, 0, at]):.1f} ms unguarded, {np.median(times[:, 1, at]):.1f} ms guarded; "
            f"added: median {np.median(added):.1f} ms, p95 in ms {verdict(float(np.quantile(added, 0.95)), most=40)}",
            flush=True,
        )


def many(folder: Path, model: str, retain: Path, asked: argparse.Namespace) -> None:
    """A ledger of many requests: the start, and adding one over HTTP until it is in force."""
    names = made_up_names(asked.many, np.random.default_rng(5))
    for pairs in (0, 3):
        ledger = folder / f"many{pairs}.ledger"
        key = fill(ledger, names, pairs=pairs)
        rows = [json.loads(line) for line in retain.read_text().splitlines()]
        begin = time.perf_counter()
        with Ledger.open(ledger) as opened:
            entries = opened.active()
            read = time.perf_counter() - begin
            policy = Policy(None, [row["question"] for row in rows], [row["subject"] for row in rows])  # ty: ignore[invalid-argument-type]
            policy.add_many([(entry.id, entry.request.records(), None, {}) for entry in entries])
        seconds = time.perf_counter() - begin
        bound = f" s, bound {verdict(seconds, most=5)}" if not pairs else " s"
        print(
            f"{asked.many} requests with {pairs} questions each: ledger and policy start in {seconds:.2f}{bound} (ledger {read:.2f} s)",
            flush=True,
        )
        with serving(str(model), ledger, key, "--retain", str(retain), threads=asked.threads) as served:
            print(f"  the whole process, imports and model included: {served.ready_seconds:.1f} s")
            times = []
            with httpx2.Client(base_url=served.url, headers=served.headers, timeout=60) as client:
                for number, name in enumerate(made_up_names(60, np.random.default_rng(6))):
                    start = time.perf_counter()
                    reply = client.post(
                        "/v1/requests", json={"subject": name, "statements": [f"{name} was born in Corvale."]}
                    )
                    times.append((time.perf_counter() - start) * 1000)
                    assert reply.status_code == 201, reply.text
                    if number % 20 == 0:
                        found = client.post(
                            "/v1/check",
                            json={"messages": [{"role": "user", "content": f"Where was {name} born?"}]},
                        ).json()
                        assert reply.json()["id"] in found["requests"], found
        bound = (
            verdict(float(np.quantile(times, 0.95)), most=50)
            if not pairs
            else f"{np.quantile(times, 0.95):.1f}"
        )
        print(
            f"  add over HTTP until in force: median {np.median(times):.1f} ms, p95 in ms {bound}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = {
        "requests": 1000,
        "many": 10_000,
        "rounds": 7,
        "streams": 16,
        "tokens": 48,
        "hidden": 512,
        "pairs": 150,
    }
    for name, default in {**numbers, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", nargs="+", default=["throughput", "latency", "many"])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = folder / "model"
        make_model(model, asked.hidden)
        retain = background(folder / "retain.jsonl")
        if {"throughput", "latency"} & set(asked.only):
            ledgers = [folder / "plain.ledger", folder / "guarded.ledger"]
            keys = [
                fill(ledgers[0], []),
                fill(ledgers[1], made_up_names(asked.requests, np.random.default_rng(0)), pairs=3),
            ]
            with (
                serving(str(model), ledgers[0], keys[0], threads=asked.threads) as plain,
                serving(
                    str(model), ledgers[1], keys[1], "--retain", str(retain), threads=asked.threads
                ) as guarded,
            ):
                name = httpx2.get(f"{plain.url}/v1/models", headers=plain.headers).json()["data"][0]["id"]
                if "throughput" in asked.only:
                    throughput(plain, guarded, name, asked)
                if "latency" in asked.only:
                    latency(plain, guarded, name, asked)
        if "many" in asked.only:
            many(folder, str(model), retain, asked)


if __name__ == "__main__":
    main()
