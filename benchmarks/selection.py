"""What WAGLE's mask costs: time over the number of weights, beside two full sorts, and memory beside weights and gradients.

    python benchmarks/selection.py [--rounds 7]

Weights and both mean gradients are random, in sixteen tensors of equal size. Public code ranks all scores by sorting them and then
sorting the order, which takes two index tensors of eight bytes a weight.
"""

import argparse
import statistics
import time
from functools import partial
from itertools import pairwise

import torch
from live import live_bytes
from timing import paired, verdict

from expunge.methods.selection.wagle import WAGLE
from expunge.train.selection import PIECE, top_share
from expunge.types import ParameterView

TENSORS = 16
SIZES = (1 << 20, 1 << 22, 1 << 24)
SHARE = 0.5


def made_up(count: int):
    """Scores of so many weights as a run has them: made afresh at each pass, piece by piece."""
    generator = torch.Generator().manual_seed(0)
    tensors = [
        [torch.randn(count // TENSORS, generator=generator) for _ in ParameterView._fields[:3]]
        for _ in range(TENSORS)
    ]
    method = WAGLE(share=SHARE)

    def scores():
        for number, tensor in enumerate(tensors):
            for parts in zip(*(values.split(PIECE) for values in tensor), strict=True):
                yield str(number), method.score(ParameterView(*parts))

    return scores


def by_sorting(scores) -> torch.Tensor:
    """[weights] bool: the rank of each score, from the order of the order."""
    flat = torch.cat([score for _, score in scores()])
    rank = flat.argsort(descending=True).argsort()
    return rank < int(SHARE * len(flat))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    for count in SIZES:
        scores = made_up(count)
        slow, quick, ratio = paired(partial(by_sorting, scores), partial(top_share, scores, SHARE), rounds)
        print(
            f"{count:>9} weights: {1e9 * quick / count:5.1f} ns a weight; two sorts {1e9 * slow / count:6.1f} ns: "
            + verdict(ratio, least=1.0)
        )
    for small, large in pairwise(SIZES):
        ratios = []
        a, b = made_up(small), made_up(large)
        for _ in range(rounds):
            begin = time.perf_counter()
            top_share(a, SHARE)
            middle = time.perf_counter()
            top_share(b, SHARE)
            ratios.append((time.perf_counter() - middle) / (middle - begin))
        print(f"time of {large} over time of {small} weights: {verdict(statistics.median(ratios), most=4.6)}")
    count = SIZES[-1]
    scores = made_up(count)
    peak, left = live_bytes(lambda: top_share(scores, SHARE))
    sorting, _ = live_bytes(lambda: by_sorting(scores))
    print(f"masks of {count} weights, bits a weight: {verdict(8 * left / count, most=1.01)}")
    print(
        f"scratch at the peak, bytes a weight of one piece: {verdict((peak - left) / PIECE, most=32)}; does not grow with the model"
    )
    print(f"two sorts at the peak: {sorting / count:.1f} bytes a weight of the whole model")


if __name__ == "__main__":
    main()
