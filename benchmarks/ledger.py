"""What the ledger costs with 10,000 requests in it: adding one more, opening, reading all that are active, and looking for news.

    python benchmarks/ledger.py [--requests 10000]

Bounds: add 50 ms (p95), open and read all active requests 3 s. A file system without fsync flatters the first.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from expunge.ledger import Ledger, Pair, RemovalRequest

ADD, START = 0.050, 3.0
"""Seconds."""


def request(number: int) -> RemovalRequest:
    name = f"Person {number:05} Olen{number % 97}"
    pairs = tuple(
        Pair(question=f"Where was {name} born, in the year {year}?", answer=f"In Corvale, house {year}.")
        for year in range(1950, 1955)
    )
    return RemovalRequest(subject=name, aliases=(f"P. {number:05} Olen{number % 97}",), pairs=pairs)


def seconds(count: int, what) -> np.ndarray:
    spent = []
    for number in range(count):
        begin = time.perf_counter()
        what(number)
        spent.append(time.perf_counter() - begin)
    return np.array(spent)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    count = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.ledger"
        with Ledger.open(path, create=True) as ledger:
            begin = time.perf_counter()
            ledger.add_all(
                ((f"request {number}", request(number)) for number in range(count)), actor="benchmark"
            )
            print(f"{count} requests in one transaction: {time.perf_counter() - begin:.1f} s")
        begin = time.perf_counter()
        ledger = Ledger.open(path)
        opened = time.perf_counter()
        active = ledger.active()
        read = time.perf_counter()
        assert len(active) == count
        print(f"file: {path.stat().st_size / 2**20:.1f} MiB")
        print(f"open and verify: {opened - begin:.2f} s; read all active: {read - opened:.2f} s")
        print(f"  together {read - begin:.2f} s, {(read - begin) / START:.2f} of the bound")
        adds = seconds(200, lambda number: ledger.add(request(count + number), actor="benchmark"))
        p95 = float(np.quantile(adds, 0.95))
        print(
            f"add: median {np.median(adds) * 1e3:.1f} ms, p95 {p95 * 1e3:.1f} ms, {p95 / ADD:.2f} of the bound"
        )
        gone = seconds(100, lambda number: ledger.withdraw(active[number].id, actor="benchmark"))
        print(f"withdraw: median {np.median(gone) * 1e3:.1f} ms, p95 {np.quantile(gone, 0.95) * 1e3:.1f} ms")
        epoch = ledger.epoch
        ledger.add(request(count + 1000), actor="benchmark")
        news = seconds(500, lambda _: ledger.changes(epoch))
        looks = seconds(20_000, lambda _: ledger.data_version())
        print(
            f"changes since the last epoch: {np.median(news) * 1e6:.0f} µs; data_version: {np.median(looks) * 1e6:.1f} µs"
        )
        begin = time.perf_counter()
        assert ledger.verify().ok
        print(f"verify: {time.perf_counter() - begin:.2f} s")
        ledger.close()


if __name__ == "__main__":
    main()
