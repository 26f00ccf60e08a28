"""ROUGE in the dialects of the benchmarks, from two packages that disagree (Lin, 2004).

    recall    = (words of the reference found in the answer, in order for ROUGE-L) / (words of the reference)
    precision = the same over the words of the answer,      F1 = 2 · recall · precision / (recall + precision)

| dialect | package | stemming | what is read |
|---|---|---|---|
| TOFU | rouge-score 0.1.2 | yes | recall |
| MUSE | rouge-score 0.1.2 | no | F1 |
| OFFSIDE | rouge-score 0.1.2 | yes | F1 |
| RWKU | rouge 1.0.1 | no | recall; splits at full stops and spaces, keeps capitals and punctuation, counts distinct words |

Range [0, 1]. A wrong fact in the right sentence still scores high; see accuracy.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

VERSION = 2


class Rouge(NamedTuple):
    rouge1_recall: float
    rouge_l_recall: float


def rouge_recall(generations: Sequence[str], references: Sequence[str]) -> list[Rouge]:
    """TOFU's: recall, with stemming."""
    return [
        Rouge(score["rouge1"].recall, score["rougeL"].recall)
        for score in _scores(generations, references, True)
    ]


def rouge_l_f1(generations: Sequence[str], references: Sequence[str], stem: bool = False) -> list[float]:
    """MUSE's: F1 of ROUGE-L without stemming (OpenUnlearning stems)."""
    return [score["rougeL"].fmeasure for score in _scores(generations, references, stem)]


class RougeF1(NamedTuple):
    rouge1_f1: float
    rouge2_f1: float
    rouge_l_f1: float


def rouge_f1(generations: Sequence[str], references: Sequence[str]) -> list[RougeF1]:
    """OFFSIDE's: F1 of ROUGE-1, 2 and L, with stemming."""
    return [
        RougeF1(*(score[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")))
        for score in _scores(generations, references, True)
    ]


def rwku_recall(generations: Sequence[str], references: Sequence[str]) -> list[float]:
    """RWKU's: recall of ROUGE-L by the package `rouge`; an answer that has nothing it can read counts as "NOANSWER"."""
    from rouge import Rouge as Package

    read = Package(metrics=["rouge-l"], stats=["r"])
    found = []
    for generation, reference in zip(generations, references, strict=True):
        said = generation if generation.replace(".", " ").split() else "NOANSWER"
        found.append(float(read.get_scores(said, reference)[0]["rouge-l"]["r"]))
    return found


def _scores(generations: Sequence[str], references: Sequence[str], stem: bool) -> list:
    scorer = _scorer(stem)
    return [scorer.score(reference, said) for said, reference in zip(generations, references, strict=True)]


@cache
def _scorer(stem: bool):
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stem)
