"""A model whose hidden states are edited behind chosen blocks, at every token of the flagged rows of a batch.

The edit is bound to the thread that runs the batch and lasts as long as the batch does. It looks at no position, so scoring,
prefill, single steps, beams, copies and missing caches all meet the same rule.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from expunge.data.batching import Batch
from expunge.models.hidden import find_blocks
from expunge.models.intervention import Asked, Forward, PlainTokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Edits = Mapping[int, Callable[[Tensor], Tensor]]
"""By block number: [..., hidden] to [..., hidden]; the input is left alone."""


class EditedStates(PlainTokens):
    """The edits as an intervention."""

    def __init__(self, edits: Edits):
        self.edits = edits

    def logits(self, forward: Forward) -> Tensor:
        with editing(forward.model, self.edits, [row.flagged for row in forward.asked]):
            return forward.run()

    @contextmanager
    def writing(
        self, model: PreTrainedModel, batch: Batch, asked: Sequence[Asked]
    ) -> Generator[tuple[PreTrainedModel, dict[str, Any]]]:
        with editing(model, self.edits, [row.flagged for row in asked]):
            yield model, {}


@contextmanager
def editing(model: PreTrainedModel, edits: Edits, flagged: Sequence[bool]) -> Generator[None]:
    """While it lasts, forwards of this thread on these rows (or beams and copies of them, side by side) are edited."""
    thread, rows = threading.get_ident(), torch.tensor(flagged, device=model.device)

    def hook(edit: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        def change(module: nn.Module, args: Any, output: Any) -> Any:
            if threading.get_ident() != thread:
                return output
            hidden = output[0] if isinstance(output, tuple) else output  # [batch, tokens, hidden]
            which = rows.repeat_interleave(len(hidden) // len(rows))[:, None, None]
            changed = torch.where(which, edit(hidden), hidden)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return change

    with ExitStack() as stack:
        for layer, edit in edits.items():
            handle = find_blocks(model, layer).modules[layer].register_forward_hook(hook(edit))
            stack.callback(handle.remove)
        yield
