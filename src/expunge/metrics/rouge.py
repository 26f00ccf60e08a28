"""ROUGE recall as TOFU measures it: package rouge-score, stemming on (Lin, 2004; TOFU, arXiv:2401.06121).

    recall = (words of the reference found in the answer, in order for ROUGE-L) / (words of the reference)

Range [0, 1]. A wrong fact in the right sentence still scores high; see accuracy.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

VERSION = 1


class Rouge(NamedTuple):
    rouge1_recall: float
    rouge_l_recall: float


def rouge_recall(generations: Sequence[str], references: Sequence[str]) -> list[Rouge]:
    """One value a pair, with stemming."""
    scorer = _scorer()
    found = [
        scorer.score(reference, generation)
        for generation, reference in zip(generations, references, strict=True)
    ]
    return [Rouge(score["rouge1"].recall, score["rougeL"].recall) for score in found]


@cache
def _scorer():
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
