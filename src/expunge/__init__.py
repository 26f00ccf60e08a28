"""Expunge: make a language model stop knowing, in its weights or while it answers, and measure how far that worked."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "Dataset": "expunge.data.dataset",
    "Ledger": "expunge.ledger",
    "Policy": "expunge.guards.policy",
    "Pocket": "expunge.benchmarks.pocket",
    "RemovalRequest": "expunge.ledger",
    "Scope": "expunge.types",
    "Tofu": "expunge.benchmarks.tofu",
    "attack": "expunge.run",
    "evaluate": "expunge.run",
    "load": "expunge.run",
    "open_benchmark": "expunge.benchmarks._open",
    "recipe": "expunge.recipes",
    "report": "expunge.run",
    "unlearn": "expunge.run",
}
__all__ = [
    "Dataset",
    "Ledger",
    "Pocket",
    "Policy",
    "RemovalRequest",
    "Scope",
    "Tofu",
    "__version__",
    "attack",
    "evaluate",
    "load",
    "open_benchmark",
    "recipe",
    "report",
    "unlearn",
]

if TYPE_CHECKING:
    from expunge.benchmarks._open import open_benchmark
    from expunge.benchmarks.pocket import Pocket
    from expunge.benchmarks.tofu import Tofu
    from expunge.data.dataset import Dataset
    from expunge.guards.policy import Policy
    from expunge.ledger import Ledger, RemovalRequest
    from expunge.recipes import recipe
    from expunge.run import attack, evaluate, load, report, unlearn
    from expunge.types import Scope


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'expunge' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
