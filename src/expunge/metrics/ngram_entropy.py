"""N-gram entropy: does a text go on, or repeat itself? (RWKU's fluency, arXiv:2406.10890; from ROME, arXiv:2202.05262)

    H_n = - Σ f log2 f       over the relative frequencies f of the text's n-grams
    fluency = ( 2/3 · H_2 + 4/3 · H_3 ) / 2

Bits; higher is more varied, 0 for a text that has no two different n-grams. RWKU prints 100 times the mean over texts (705.8 for Llama-3-8B). It
grows with a text's length up to log2 of the number of n-grams, so compare texts of like length. It cannot tell a fluent text from a random one.
The authors cut words with nltk's tokenizer, which has to be downloaded; here a word or a punctuation mark is one.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

VERSION = 1
WEIGHTS = {2: 2 / 3, 3: 4 / 3}


def ngram_entropy(text: str) -> float:
    """Bits, of one text."""
    return words_entropy(re.findall(r"\w+|[^\w\s]", text))


def words_entropy(words: Sequence[str]) -> float:
    """Bits, of a text that was cut already."""
    return sum(weight * entropy(words, n) for n, weight in WEIGHTS.items()) / len(WEIGHTS)


def entropy(words: Sequence[str], n: int) -> float:
    """Bits, of the n-grams alone."""
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    total = counts.total()
    return math.fsum(-count / total * math.log2(count / total) for count in counts.values())
