"""Greedy answers of many prompts at once, in which a row that has ended leaves the batch.

`generate` keeps every row until the slowest has ended; answers of one question set differ in length, and half of what is computed then is
for rows that are done. The tokens are those of `generate` with `do_sample=False`; whether they are for a model is tried out once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from expunge.data.batching import Batch, collate
from expunge.data.tokenize import Encoded
from expunge.models.kv_cache import cache_name
from expunge.models.logprobs import head_rows

if TYPE_CHECKING:
    from collections.abc import Collection

    from transformers import GenerationConfig, PreTrainedModel

LEAVES = 8
"""Rows leave together, when one in so many has ended."""


@torch.inference_mode()
def write_greedily(
    model: PreTrainedModel, batch: Batch, max_new_tokens: int, end_ids: Collection[int]
) -> list[list[int]]:
    """The tokens written after each prompt of a left-padded batch, the end token included where one came."""
    from transformers import DynamicCache

    run: Any = model
    held = {cache_name(): DynamicCache(config=model.config.get_text_config())}
    ids, seen = batch.ids, batch.attention
    positions = (seen.cumsum(-1) - 1).clamp(min=0)
    last = torch.zeros_like(seen, dtype=torch.bool)
    last[:, -1] = True
    with head_rows(model, last):
        logits = run(
            input_ids=ids, attention_mask=seen, position_ids=positions, use_cache=True, **held
        ).logits
    written: list[list[int]] = [[] for _ in ids]
    rows = list(range(len(ids)))  # which prompt stands in each row of the batch
    going = [True] * len(rows)
    while True:
        best = logits.argmax(-1).to(ids.device)  # [rows]
        for row, token in zip(rows, best.tolist(), strict=True):
            if going[row]:
                written[row].append(token)
                going[row] = token not in end_ids and len(written[row]) < max_new_tokens
        left = [at for at, row in enumerate(rows) if going[row]]
        if not left:
            return written
        if len(rows) - len(left) >= max(1, len(rows) // LEAVES):
            kept = torch.tensor(left, device=ids.device)
            held[cache_name()].batch_select_indices(kept)
            best, seen, positions = best[kept], seen[kept], positions[kept]
            rows = [rows[at] for at in left]
        seen = torch.cat([seen, seen.new_ones(len(rows), 1)], dim=1)
        positions = positions[:, -1:] + 1
        logits = run(
            input_ids=best[:, None], attention_mask=seen, position_ids=positions, use_cache=True, **held
        ).logits[:, -1]


def writes_as_generate(model: PreTrainedModel, config: GenerationConfig, pad_id: int) -> bool:
    """Whether the rows of three short prompts are those of `generate` under `config`, one of them ending early."""
    vocabulary = model.config.get_text_config().vocab_size
    prompts = [[i % vocabulary for i in range(3, 3 + length)] for length in (4, 2, 6)]
    batch = collate(
        [Encoded(ids, len(ids), "", [], 0) for ids in prompts], pad_id, side="left", device=model.device
    )
    ends, config.eos_token_id = config.eos_token_id, None
    write: Any = model.generate
    with torch.inference_mode():
        out = write(batch.ids, attention_mask=batch.attention, generation_config=config)
    config.eos_token_id = ends
    whole = out[:, batch.ids.shape[1] :].tolist()
    end = whole[0][1]
    expected = [row[: row.index(end) + 1] if end in row else row for row in whole]
    try:
        return write_greedily(model, batch, len(whole[0]), {end}) == expected
    except (ValueError, RuntimeError, TypeError, AttributeError, LookupError, NotImplementedError):
        return False  # it keeps no cache of this kind, or takes no positions
