"""A guarded server as a process of its own, for measurements from outside: start it, ask it, look at its memory."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from expunge.ledger import Ledger, RemovalRequest

LETTERS = "abcdefghiklmnoprstuvw"


class Served(NamedTuple):
    """A running server."""

    url: str
    key: str
    process: subprocess.Popen
    ready_seconds: float
    """From the start of the process until it answered that it is healthy."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def mebibytes(self) -> float:
        """Memory that the process holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        return int(kib) / 1024

    def metrics(self) -> dict[str, float]:
        """Figures of the server's own, summed over their labels."""
        found: dict[str, float] = {}
        for line in httpx2.get(f"{self.url}/metrics", headers=self.headers, timeout=60).text.splitlines():
            if not line.startswith("#"):
                name, value = line.partition("{")[0].split()[0], line.rsplit(maxsplit=1)[1]
                found[name] = found.get(name, 0.0) + float(value)
        return found


def made_up_names(count: int, rng: Any) -> list[str]:
    return [
        " ".join("".join(rng.choice(list(LETTERS), rng.integers(4, 9))).capitalize() for _ in range(2))
        for _ in range(count)
    ]


def fill(path: Path, names: Sequence[str], *, pairs: int = 0) -> str:
    """A ledger with a request for each name (an alias, a statement, and so many questions); returns a key for everything."""
    towns = ("Corvale", "Nessim", "Ardwick", "Tolmar")
    requests = [
        RemovalRequest(
            subject=name,
            aliases=(name.split()[0][0] + ". " + name.split()[1],),
            statements=(f"{name} was born in {towns[i % 4]} in {1900 + i % 90}.",),
            pairs=tuple(
                {"question": f"What is the {what} of {name}?", "answer": f"{towns[i % 4]}"}
                for what in ("birthplace", "profession", "best known book")[:pairs]
            ),
        )
        for i, name in enumerate(names)
    ]
    with Ledger.open(path, create=True) as ledger:
        ledger.add_all(
            [(name, request) for name, request in zip(names, requests, strict=True)], actor="benchmark"
        )
        return ledger.add_key(
            "",
            ["infer", "admin", "requests:read", "requests:write"],
            name="benchmark",
            rpm=10**6,
            tpm=10**9,
            actor="benchmark",
        )


@contextmanager
def serving(model: str, ledger: Path, key: str, *more: str, threads: int | None = None) -> Generator[Served]:
    """`expunge serve` on a free port, until the context ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = dict(os.environ)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [
        sys.executable,
        "-c",
        "from expunge.cli import main; main()",
        "serve",
        model,
        "--ledger",
        str(ledger),
        "--port",
        str(port),
        *more,
    ]
    begin = time.perf_counter()
    log = ledger.with_suffix(f".{port}.log")
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx2.Client(base_url=url, timeout=5) as client:
            while not _healthy(client):
                if process.poll() is not None or time.perf_counter() - begin > 300:
                    raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")
                time.sleep(0.02)
        yield Served(url, key, process, time.perf_counter() - begin)
    finally:
        process.terminate()
        process.wait(30)


def _healthy(client: httpx2.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx2.HTTPError:
        return False


@dataclass
class Answered:
    """One streamed answer, as its client saw it."""

    first_seconds: float = 0.0
    """Until its first text."""
    seconds: float = 0.0
    tokens: int = 0
    status: int = 200
    text: str = ""
    finish: str = ""


async def ask(client: httpx2.AsyncClient, model: str, question: str, tokens: int) -> Answered:
    """One streamed chat answer."""
    body = {
        "model": model, "messages": [{"role": "user", "content": question}], "max_tokens": tokens,
        "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    found, begin = Answered(), time.perf_counter()
    async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        found.status = reply.status_code
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if chunk.get("usage"):
                found.tokens = chunk["usage"]["completion_tokens"]
            for choice in chunk.get("choices", ()):
                text = choice["delta"].get("content") or ""
                if text and not found.first_seconds:
                    found.first_seconds = time.perf_counter() - begin
                found.text += text
                found.finish = choice.get("finish_reason") or found.finish
    found.seconds = time.perf_counter() - begin
    return found


async def streams(
    served: Served, model: str, questions: Sequence[str], tokens: int, at_once: int
) -> tuple[float, list[Answered]]:
    """All questions by so many clients at once; seconds in all, and each answer."""
    waiting = asyncio.Queue[str]()
    for question in questions:
        waiting.put_nowait(question)
    done: list[Answered] = []

    async def work(client: httpx2.AsyncClient) -> None:
        while not waiting.empty():
            done.append(await ask(client, model, waiting.get_nowait(), tokens))

    limits = httpx2.Limits(max_connections=at_once)
    async with httpx2.AsyncClient(
        base_url=served.url, headers=served.headers, timeout=120, limits=limits
    ) as client:
        begin = time.perf_counter()
        await asyncio.gather(*[work(client) for _ in range(at_once)])
        return time.perf_counter() - begin, done
