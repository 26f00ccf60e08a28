"""Mixed load for an hour (or as long as you say): no error but declared ones, every added request in force at once, flat memory.

    python benchmarks/soak.py [--minutes 60] [--clients 16] [--requests 1000]

Clients stream and wait, ask about people on the list and others, go away in mid-answer, send what cannot be served, add requests,
ask about them at once, and withdraw them. What a kind of call may answer is declared below; everything else is an error.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx2
import numpy as np
from gateway import background, make_model
from served import Served, fill, made_up_names, serving

REFUSAL = "I do not know."
BUSY = {429, 503}
"""Any call may be told to come back."""
DECLARED = {
    "stream": {200}, "whole": {200}, "text": {200}, "two": {200}, "listed": {200}, "gone": {200}, "field": {400}, "json": {400},
    "key": {401}, "long": {400}, "big": {413}, "route": {404}, "life": {201}, "verify": {200}, "health": {200}, "metrics": {200},
}  # fmt: skip
SHARES = {
    "stream": 40, "whole": 12, "text": 6, "two": 3, "listed": 14, "gone": 5, "field": 3, "json": 2, "key": 2, "long": 2, "big": 1,
    "route": 2, "life": 4, "verify": 1, "health": 2, "metrics": 1,
}  # fmt: skip


class Load:
    """One run of the load, and what came of it."""

    def __init__(self, served: Served, names: list[str], seed: int):
        self.served, self.names, self.rng = served, names, random.Random(seed)
        self.counts: Counter[tuple[str, int]] = Counter()
        self.errors: list[str] = []
        self.memory: list[tuple[float, float]] = []
        """Seconds since the start, MiB."""

    async def run(self, seconds: float, clients: int) -> None:
        end = time.monotonic() + seconds
        async with httpx2.AsyncClient(
            base_url=self.served.url,
            headers=self.served.headers,
            timeout=120,
            limits=httpx2.Limits(max_connections=4 * clients),
        ) as client:
            reply = await client.get("/v1/models")
            self.model = reply.json()["data"][0]["id"]
            await asyncio.gather(self._remember(end), *[self._client(client, end) for _ in range(clients)])

    async def _remember(self, end: float) -> None:
        begin = time.monotonic()
        while time.monotonic() < end:
            self.memory.append((time.monotonic() - begin, self.served.mebibytes()))
            await asyncio.sleep(min(5.0, (end - begin) / 60))

    async def _client(self, client: httpx2.AsyncClient, end: float) -> None:
        while time.monotonic() < end:
            kind = self.rng.choices(list(SHARES), list(SHARES.values()))[0]
            try:
                status = await getattr(self, f"_{kind}")(client)
            except (httpx2.HTTPError, ValueError, KeyError, IndexError) as error:
                self.errors.append(
                    f"{kind}, {end - time.monotonic():.0f} s before the end: {type(error).__name__}: {error}"
                )
                continue
            self.counts[kind, status] += 1
            if status not in DECLARED[kind] | BUSY:
                self.errors.append(f"{kind}: answered {status}")

    def _body(self, question: str = "", **more) -> dict:
        question = question or f"What does {made_up_name(self.rng)} think of the weather?"
        return {
            "model": self.model, "messages": [{"role": "user", "content": question}],
            "max_tokens": self.rng.choice((4, 16, 48)), "temperature": self.rng.choice((0, 0.8)), **more,
        }  # fmt: skip

    async def _post(self, client: httpx2.AsyncClient, body: dict) -> httpx2.Response:
        return await client.post("/v1/chat/completions", json=body)

    async def _stream(self, client: httpx2.AsyncClient) -> int:
        async with client.stream("POST", "/v1/chat/completions", json=self._body(stream=True)) as reply:
            lines = [line async for line in reply.aiter_lines() if line]
            if reply.status_code == 200 and lines[-1] != "data: [DONE]":
                self.errors.append(f"stream: ended with {lines[-1][:200]}")
            return reply.status_code

    async def _whole(self, client: httpx2.AsyncClient) -> int:
        return (await self._post(client, self._body())).status_code

    async def _two(self, client: httpx2.AsyncClient) -> int:
        reply = await self._post(client, self._body(n=2))
        if reply.status_code == 200 and len(reply.json()["choices"]) != 2:
            self.errors.append("two: not two answers")
        return reply.status_code

    async def _text(self, client: httpx2.AsyncClient) -> int:
        body = {"model": self.model, "prompt": "The weather in spring is", "max_tokens": 16}
        return (await client.post("/v1/completions", json=body)).status_code

    async def _listed(self, client: httpx2.AsyncClient) -> int:
        return await self._refused(client, self.rng.choice(self.names), "listed")

    async def _refused(self, client: httpx2.AsyncClient, name: str, kind: str) -> int:
        reply = await self._post(client, self._body(f"Where was {name} born?", max_tokens=48))
        if reply.status_code == 200 and reply.json()["choices"][0]["message"]["content"] != REFUSAL:
            self.errors.append(f"{kind}: a listed name was answered")
        return reply.status_code

    async def _gone(self, client: httpx2.AsyncClient) -> int:
        """A client that goes away in mid-answer."""
        async with client.stream(
            "POST", "/v1/chat/completions", json=self._body(stream=True, max_tokens=48)
        ) as reply:
            async for _ in reply.aiter_lines():
                break
            return reply.status_code

    async def _field(self, client: httpx2.AsyncClient) -> int:
        return (await self._post(client, self._body(logit_bias={"5": 100}))).status_code

    async def _json(self, client: httpx2.AsyncClient) -> int:
        return (
            await client.post(
                "/v1/chat/completions", content=b'{"model": ', headers={"Content-Type": "application/json"}
            )
        ).status_code

    async def _key(self, client: httpx2.AsyncClient) -> int:
        return (
            await client.post(
                "/v1/chat/completions", json=self._body(), headers={"Authorization": "Bearer exp_no_no"}
            )
        ).status_code

    async def _long(self, client: httpx2.AsyncClient) -> int:
        return (await self._post(client, self._body("word " * 3000))).status_code

    async def _big(self, client: httpx2.AsyncClient) -> int:
        try:
            return (await self._post(client, self._body("x" * 10_000_000))).status_code
        except (httpx2.WriteError, httpx2.ReadError, httpx2.RemoteProtocolError):
            return 413  # it stopped listening

    async def _route(self, client: httpx2.AsyncClient) -> int:
        return (await client.post("/v1/embeddings", json={"input": "x"})).status_code

    async def _life(self, client: httpx2.AsyncClient) -> int:
        """A request's whole life: added, in force at once, withdrawn."""
        name = made_up_name(self.rng)
        reply = await client.post("/v1/requests", json={"subject": name})
        if reply.status_code != 201:
            return reply.status_code
        await self._refused(client, name, "life")
        await client.delete(f"/v1/requests/{reply.json()['id']}")
        return 201

    async def _verify(self, client: httpx2.AsyncClient) -> int:
        reply = await client.get("/v1/ledger/verify")
        if reply.status_code == 200 and not reply.json()["ok"]:
            self.errors.append("verify: the chain is broken")
        return reply.status_code

    async def _health(self, client: httpx2.AsyncClient) -> int:
        return (await client.get("/health")).status_code

    async def _metrics(self, client: httpx2.AsyncClient) -> int:
        return (await client.get("/metrics")).status_code

    # --- what came of it ----------------------------------------------------------------------------------------------
    @property
    def growth(self) -> float:
        """Median memory of the last quarter beside that of the second one."""
        quarters = np.array_split([mib for _, mib in self.memory], 4)
        return float(np.median(quarters[3]) / np.median(quarters[1]))

    def report(self) -> str:
        kinds: dict[str, dict[int, int]] = {}
        for (kind, status), count in sorted(self.counts.items()):
            kinds.setdefault(kind, {})[status] = count
        busy = sum(count for (_, status), count in self.counts.items() if status in BUSY)
        lines = [
            f"{sum(self.counts.values())} calls, {busy} told to come back, {len(self.errors)} undeclared errors"
        ]
        lines += [
            f"  {kind}: {', '.join(f'{count} of {status}' for status, count in found.items())}"
            for kind, found in kinds.items()
        ]
        lines += [f"  error: {error}" for error in self.errors[:20]]
        means = " ".join(
            f"{np.mean(part):.0f}" for part in np.array_split([mib for _, mib in self.memory], 12)
        )
        lines.append(f"memory, MiB in each twelfth: {means}; last quarter / second quarter {self.growth:.3f}")
        return "\n".join(lines)


def made_up_name(rng: random.Random) -> str:
    return made_up_names(1, np.random.default_rng(rng.getrandbits(32)))[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--hidden", type=int, default=256)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_model(folder / "model", asked.hidden)
        names = made_up_names(asked.requests, np.random.default_rng(0))
        ledger = folder / "soak.ledger"
        key = fill(ledger, names)
        retain = background(folder / "retain.jsonl")
        with serving(str(folder / "model"), ledger, key, "--retain", str(retain), threads=1) as served:
            load = Load(served, names, 0)
            asyncio.run(load.run(60 * asked.minutes, asked.clients))
            print(load.report())
            print(
                json.dumps(
                    {"errors": len(load.errors), "growth": load.growth, "calls": sum(load.counts.values())}
                )
            )


if __name__ == "__main__":
    main()
