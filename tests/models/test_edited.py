"""Edited states: flagged rows at every token, other rows bit for bit, nothing left behind, nobody else's thread."""

import threading

import numpy as np
import pytest
import torch

from expunge.data.batching import collate
from expunge.models.edited import EditedStates, editing
from expunge.models.intervention import Asked
from expunge.models.language_model import TransformerLM
from expunge.types import Example, Prompt
from tests.conftest import FAMILIES, make_family

ASKED = [
    Prompt.ask(text) for text in ("Where was Mara Olen born?", "Who taught Tovin Brask?", "Who is Mara?")
]
FLAGGED = [True, False, True]
EDITS = {0: lambda hidden: hidden * -0.5}
CHANGE = EditedStates(EDITS)
EXAMPLES = [Example(prompt, "Mara Olen was born in Corvale.") for prompt in ASKED]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_flagged_rows_of_a_mixed_batch_change_when_scored(tokenizer, family):
    lm = TransformerLM(make_family(family, tokenizer), tokenizer)
    plain, changed = lm.score(EXAMPLES), lm.score(EXAMPLES, CHANGE, FLAGGED)
    for before, after, flag in zip(plain, changed, FLAGGED, strict=True):
        assert np.array_equal(before.token_logprobs, after.token_logprobs) is not flag
    assert not any(module._forward_hooks for module in lm.model.modules())


def write(model, batch, **options):
    with torch.no_grad():
        return model.generate(
            batch.ids, attention_mask=batch.attention, max_new_tokens=6, do_sample=False, pad_token_id=0,
            eos_token_id=None, return_dict_in_generate=True, output_logits=True, **options,
        )  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"use_cache": False}])
def test_only_flagged_rows_change_while_writing_with_their_beams_and_copies(lm, options):
    encoded = lm.encoder.prompts(ASKED)
    batch = collate(encoded, 0, side="left")
    asked = [Asked(row, "", flag) for row, flag in zip(encoded, FLAGGED, strict=True)]

    plain = write(lm.model, batch, **options)
    with CHANGE.writing(lm.model, batch, asked) as (model, more):
        assert not more
        changed = write(model, batch, **options)
    beams, copies = options.get("num_beams", 1), options.get("num_return_sequences", 1)
    for before, after in zip(plain.logits, changed.logits, strict=True):
        assert torch.equal(before[beams : 2 * beams], after[beams : 2 * beams])
        for row in (0, 2):
            assert not torch.equal(before[row * beams], after[row * beams])
    assert torch.equal(plain.sequences[copies : 2 * copies], changed.sequences[copies : 2 * copies])


def test_with_a_cache_each_step_has_the_logits_of_a_whole_forward(lm):
    batch = collate(lm.encoder.prompts(ASKED), 0, side="left")
    with editing(lm.model, EDITS, FLAGGED):
        written = write(lm.model, batch)
    for row, flag in enumerate(FLAGGED):
        padding = int((batch.attention[row] == 0).sum())
        with torch.no_grad(), editing(lm.model, EDITS, [flag]):
            whole = lm.model(written.sequences[row : row + 1, padding:]).logits[0]
        first = batch.ids.shape[1] - padding - 1
        for step, logits in enumerate(written.logits):
            assert torch.allclose(logits[row], whole[first + step], atol=1e-4)


def test_another_thread_meets_the_plain_model(lm):
    ids = lm.tokenizer("Who is Mara?", return_tensors="pt")["input_ids"]
    found = []
    with torch.no_grad():
        plain = lm.model(ids).logits
        with editing(lm.model, EDITS, [True]):
            thread = threading.Thread(target=lambda: found.append(lm.model(ids).logits))
            thread.start()
            thread.join()
            mine = lm.model(ids).logits
    assert torch.equal(found[0], plain)
    assert not torch.equal(mine, plain)


def test_a_failure_leaves_no_edit_behind(lm):
    def fail(hidden):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        lm.score(EXAMPLES, EditedStates({1: fail}), FLAGGED)
    assert not any(module._forward_hooks for module in lm.model.modules())
