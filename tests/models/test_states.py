"""States of prompts: what a full forward has at the same place, whatever stands beside the prompt in the batch."""

import threading

import numpy as np
import pytest
import torch

from expunge.errors import ConfigError
from expunge.models.language_model import TransformerLM
from expunge.models.states import block_number, states
from expunge.types import Prompt
from tests.conftest import FAMILIES, make_family, make_model

SHORT = Prompt.ask("Who is Mara Olen?")
LONG = Prompt.ask("Where was Mara Olen born? Who taught Mara Brask in Corvale? " * 3)


@pytest.mark.parametrize("pool", ["last", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_a_whole_forward_over_the_rendered_prompt(tokenizer, family, pool):
    lm = TransformerLM(make_family(family, tokenizer), tokenizer)
    ids = tokenizer("Question: Who is Mara Olen?\nAnswer:", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        hidden = lm.model(ids, output_hidden_states=True).hidden_states[1][0]  # behind block 0
    expected = hidden[-1] if pool == "last" else hidden.mean(0)
    found = states(lm, [SHORT], 0, pool)
    assert found.dtype == np.float32
    assert np.allclose(found[0], expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("pool", ["last", "mean"])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_prompt_has_the_same_states_alone_and_padded_beside_a_long_one(lm, layer, pool, monkeypatch):
    monkeypatch.setattr("expunge.models.states.by_length", lambda lengths, most: [list(range(len(lengths)))])
    alone = states(lm, [SHORT], layer, pool)[0]
    beside = states(lm, [LONG, SHORT], layer, pool)[1]
    assert np.abs(alone - beside).max() < 1e-4
    assert np.abs(alone).max() > 0.1


def test_rows_come_back_in_the_order_they_were_given(lm):
    prompts = [LONG, SHORT, Prompt.ask("Who taught Tovin Brask?"), SHORT]
    found = states(lm, prompts, -1, "mean")
    for i, prompt in enumerate(prompts):
        assert np.allclose(found[i], states(lm, [prompt], -1, "mean")[0], atol=1e-4)


def test_negative_layers_count_from_the_last_and_a_missing_one_is_refused(tokenizer):
    deep = TransformerLM(make_model(tokenizer, num_hidden_layers=5), tokenizer)
    assert [block_number(deep, layer) for layer in (0, 4, -1, -2, -5)] == [0, 4, 4, 3, 0]
    for layer in (5, -6):
        with pytest.raises(ConfigError, match=r"blocks 0 to 4 \(or -5 to -1"):
            states(deep, [SHORT], layer)


def test_nothing_stays_on_the_model_and_it_waits_for_its_lock(lm):
    before = lm.score([]), [len(module._forward_hooks) for module in lm.model.modules()]
    states(lm, [SHORT, LONG], 0)
    assert [len(module._forward_hooks) for module in lm.model.modules()] == before[1]
    found = []
    thread = threading.Thread(target=lambda: found.append(states(lm, [SHORT], 0)))
    with lm._lock:
        thread.start()
        thread.join(0.05)
        assert not found, "a forward ran while another thread held the model"
    thread.join()
    assert len(found) == 1
