"""Cost of the output watch: per delta of an answer, with ten thousand names watched, early and late in a long answer.

python benchmarks/watch.py
"""

import random
import statistics
import time

from expunge.guards.aliases import AliasIndex
from expunge.guards.watching import Watch

SYLLABLES = [
    a + b for a in "b c d f g h k l m n p r s t v br ch st".split() for b in "a e i o u an en or".split()
]
PROSE = {
    "prose": "The harbour was quiet in the morning, and a man who had come from the hills asked where one might buy bread. ",
    "markdown": "**Step 3.** Call `open_file(path)` and *then* read it; it's about 20% faster than the v2 way of doing it. ",
    "German": "Der Hafen war früh am Morgen still, und jemand über fünfzig fragte, wo man hier schönes Brot kaufen könne. ",
    "Russian": "Утром в гавани было тихо, и человек, который пришёл с холмов, спросил, где здесь можно купить хлеба. ",
    "Chinese": "清晨的港口很安静，一个从山上下来的人问在哪里可以买到面包。",
}


def name(rng: random.Random) -> str:
    return " ".join(
        "".join(rng.choices(SYLLABLES, k=k)).capitalize() for k in (rng.choice([2, 3]), rng.choice([3, 4]))
    )


def main() -> None:
    rng = random.Random(0)
    index = AliasIndex()
    names = [name(rng) for _ in range(10_000)]
    begin = time.thread_time()
    for number, each in enumerate(names):
        index.add(str(number), [each])
    print(f"adding {len(names)} names: {time.thread_time() - begin:.2f} s")
    begin = time.thread_time()
    index.add("one more", ["Mara Olen"])
    print(f"adding one more: {1e6 * (time.thread_time() - begin):.0f} us")
    print(
        f"{'us a delta':12} {'median':>8} {'p99':>8} {'first 500':>10} {'last 500':>10}   characters held: mean, most"
    )
    for kind, text in PROSE.items():
        answer = (text * 1000)[:20_000]
        watch = Watch(index, lambda owner: True)
        times, held, at, released = [], [], 0, ""
        while at < len(answer):
            size = rng.randint(1, 8)
            begin = time.thread_time()
            released += watch.feed(answer[at : at + size]).text
            times.append(1e6 * (time.thread_time() - begin))
            at += size
            held.append(watch.held)
        assert released + watch.feed("", last=True).text == answer
        early, late = statistics.mean(times[:500]), statistics.mean(times[-500:])
        p99 = statistics.quantiles(times, n=100)[-1]
        print(
            f"{kind:12} {statistics.median(times):8.0f} {p99:8.0f} {early:10.0f} {late:10.0f}   {statistics.mean(held):.1f}, {max(held)}"
        )


if __name__ == "__main__":
    main()
