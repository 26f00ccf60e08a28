"""Paired timings: two ways of doing a thing run in turn, so that whatever else the machine does hits both alike."""

import statistics
import time
from collections.abc import Callable


def paired(
    first: Callable[[], object], second: Callable[[], object], rounds: int = 15
) -> tuple[float, float, float]:
    """Median seconds of each, and the median over rounds of first / second."""
    first(), second()
    times = []
    for number in range(rounds):
        pair = {}
        for which in ((0, 1), (1, 0))[number % 2]:
            begin = time.perf_counter()
            (first, second)[which]()
            pair[which] = time.perf_counter() - begin
        times.append((pair[0], pair[1]))
    return (
        statistics.median(a for a, _ in times),
        statistics.median(b for _, b in times),
        statistics.median(a / b for a, b in times),
    )


def verdict(ratio: float, *, least: float | None = None, most: float | None = None) -> str:
    """The ratio beside its bound."""
    good = (least is None or ratio >= least) and (most is None or ratio <= most)
    bound = f"at least {least}" if least is not None else f"at most {most}"
    return f"{ratio:.3f} ({bound}: {'reached' if good else 'MISSED'})"
