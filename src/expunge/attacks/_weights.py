"""What attacks on weights share: which tensors they change, how a change is taken back, and the figures before and after."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from expunge.attacks._attack import Found
from expunge.attacks._case import Case
from expunge.attacks._recall import rate, recalled

if TYPE_CHECKING:
    from torch import Tensor, nn

    from expunge.models.language_model import TransformerLM
    from expunge.types import LanguageModel

RETAIN_ROWS = 100
"""How many rows that nobody removed are asked, to tell knowledge that came back from a model that broke."""


def matrices(model: Any) -> dict[str, Tensor]:
    """The weights that multiply, by name: every parameter with two axes or more, but embeddings and the output head."""
    from torch import nn

    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    head = model.get_output_embeddings()
    left = {id(p) for module in (*tables, *([head] if head is not None else [])) for p in module.parameters()}
    return {name: p for name, p in model.named_parameters() if p.dim() >= 2 and id(p) not in left}


@contextmanager
def rewritten(weights: Mapping[str, Tensor], make: Callable[[str, Tensor], Tensor]) -> Generator[None]:
    """While open, each weight is what `make(name, weight)` says; then all are as they were, bit for bit."""
    import torch

    held: dict[str, Tensor] = {}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                held[name] = weight.detach().to("cpu", copy=True)
                weight.copy_(make(name, weight.detach()))
        yield
    finally:
        with torch.no_grad():
            for name, weight in held.items():
                weights[name].copy_(weight)


def same_shapes(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Whether two models have the same tensors, so that one can be held against the other."""
    return {name: w.shape for name, w in mine.items()} == {name: w.shape for name, w in theirs.items()}


def shape_of(lm: TransformerLM) -> tuple[int, int, int]:
    """Blocks, width and vocabulary: models in which all are equal have states that can be held against each other."""
    config = lm.model.config.get_text_config()
    return config.num_hidden_layers, config.hidden_size, config.vocab_size


def ask_some(
    lm: LanguageModel, cases: Sequence[Case], numbers: Sequence[int], variant: str = ""
) -> list[Found]:
    """`recalled` of the cases with these numbers alone."""
    found = recalled(lm, [cases[i] for i in numbers], variant) if numbers else []
    return [row._replace(case=numbers[row.case]) for row in found]


def answered(lm: LanguageModel, retain: Sequence[Case]) -> float | None:
    """The share of rows that nobody removed that are answered right."""
    return rate(recalled(lm, retain[:RETAIN_ROWS])) if retain else None


def change(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def feed_forward_ends(model: Any) -> dict[int, nn.Linear]:
    """By block, the linear layer that ends its feed-forward part: its inputs are the neurons. Blocks without one are left out."""
    from torch import nn

    from expunge.models.hidden import find_blocks

    width = model.config.get_text_config().hidden_size
    found: dict[int, nn.Linear] = {}
    for number, block in enumerate(find_blocks(model, 0).modules):
        for name, module in block.named_modules():
            if isinstance(module, nn.Linear) and module.out_features == width and "att" not in name.lower():
                found[number] = module
    return found
