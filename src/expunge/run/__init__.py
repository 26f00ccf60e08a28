"""The rooms strung together: load, unlearn, evaluate, audit, report; and whole benchmarks from end to end."""

from expunge.run.audit import attack
from expunge.run.make import load, model_hash, unlearn
from expunge.run.measuring import evaluate, measure, report

__all__ = ["attack", "evaluate", "load", "measure", "model_hash", "report", "unlearn"]
