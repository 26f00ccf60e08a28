"""The running batch: whatever joins and leaves, each row is what `generate` writes alone, and nothing of it depends on the others."""

import random

import numpy as np
import pytest
import torch

from expunge.data.tokenize import Encoded
from expunge.guards.actions.eco import ECO, FittedECO
from expunge.guards.target_names import TargetNames
from expunge.models import running as running_module
from expunge.models.corrupted import CorruptedInputs
from expunge.models.language_model import TransformerLM
from expunge.models.running import Row, Running, choose, draw, runs_as_generate
from expunge.types import GenerationParams
from tests.conftest import make_family, make_model
from tests.models.cases import PARAMS, PROMPTS, alone


def run(running, arrivals):
    """Rows join at the step they are listed under; all of them until they end, and the logits that each met."""
    met = {}
    for step in range(60):
        if running.rows:
            note(met, running.rows, running.step())
            running.leave()
        if joining := arrivals.get(step):
            logits, cache = running.read(joining)
            note(met, joining, logits)
            running.join(joining, cache)
    return met


def note(met, rows, logits):
    for row, found in zip(rows, logits, strict=True):
        met.setdefault(row, []).append(found.clone())
    choose(logits, rows)


def row_of(lm, prompt, limit=12, **more):
    return Row(encoded=lm.encoder.prompts([prompt])[0], limit=limit, ends=lm._end_ids, **more)


# --- the batch ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "gpt_neox"])
@pytest.mark.parametrize("seed", range(3))
def test_rows_that_come_and_go_have_the_tokens_of_generate(tokenizer, family, seed):
    lm = TransformerLM(
        make_model(tokenizer) if family == "llama" else make_family(family, tokenizer), tokenizer
    )
    chance = random.Random(seed)
    rows = [row_of(lm, prompt, chance.randint(1, 14)) for prompt in PROMPTS * 2]
    arrivals = {}
    for row in rows:
        arrivals.setdefault(chance.randint(0, 12), []).append(row)
    running = Running(lm.model, lm.pad_id)
    run(running, arrivals)
    assert not running.rows
    for row, prompt in zip(rows, PROMPTS * 2, strict=True):
        assert lm._read(row.written) == alone(lm, prompt, GenerationParams(max_new_tokens=row.limit))


def test_the_cache_is_no_wider_than_its_longest_row(lm):
    long, short = row_of(lm, PROMPTS[2], 2), row_of(lm, PROMPTS[1], 8)
    running = Running(lm.model, lm.pad_id)
    logits, cache = running.read([long, short])
    choose(logits, [long, short])
    running.join([long, short], cache)
    assert running._cache.get_seq_length() == long.held
    choose(running.step(), running.rows)
    running.leave()
    assert running.rows == [short]
    assert running._cache.get_seq_length() == short.held


def test_corrupted_rows_have_the_tokens_of_generate_under_the_corruption(lm, corruption):
    other = FittedECO(ECO(corruption="swap"), TargetNames(["Tovin", "fox"]), lm, 0.0, 0, [])
    changes = [None, corruption, other, corruption, None, other]
    rows = [row_of(lm, prompt, corruption=change) for prompt, change in zip(PROMPTS, changes, strict=True)]
    run(Running(lm.model, lm.pad_id), {0: rows[:2], 2: rows[2:5], 5: rows[5:]})
    for row, prompt, change in zip(rows, PROMPTS, changes, strict=True):
        expected = alone(lm, prompt, PARAMS, CorruptedInputs(change) if change else None)
        assert lm._read(row.written) == expected


def test_written_names_enter_corrupted(lm):
    """A name of which every token that the model writes is a part: all of it is corrupted, as under `generate`."""
    plain = alone(lm, PROMPTS[0], GenerationParams(max_new_tokens=16))
    names = [word for word in plain.text.split() if word.isalpha()] or ["Mara"]
    corruption = FittedECO(ECO(), TargetNames(names), lm, 8.0, 0, [])
    row = row_of(lm, PROMPTS[0], 16, corruption=corruption)
    hits = []
    run(Running(lm.model, lm.pad_id), {0: [row]})
    for end in range(1, len(row.written)):
        part = Row(encoded=row.encoded, limit=99, corruption=corruption, written=row.written[:end])
        hits.append(part.last_hit())
    mask = corruption.written_mask(row.written, 0)
    assert [hit is not None for hit in hits] == mask[:-1].tolist()
    assert lm._read(row.written) == alone(
        lm, PROMPTS[0], GenerationParams(max_new_tokens=16), CorruptedInputs(corruption)
    )


def test_a_row_is_untouched_by_its_neighbours_corruption_bit_for_bit(lm, corruption):
    met = []
    for change in (None, corruption):
        rows = [row_of(lm, PROMPTS[0], corruption=change), row_of(lm, PROMPTS[2]), row_of(lm, PROMPTS[3])]
        for row in rows:
            row.ends = ()
        found = run(Running(lm.model, lm.pad_id), {0: rows[:2], 3: rows[2:]})
        met.append([torch.stack(found[row]) for row in rows])
    plain, beside = met
    assert not torch.equal(plain[0], beside[0])
    for a, b in zip(plain[1:], beside[1:], strict=True):
        assert torch.equal(a, b)


def test_what_the_model_cannot_join_is_found_out(lm, tokenizer):
    assert runs_as_generate(lm)
    assert not runs_as_generate(TransformerLM(make_family("gemma2", tokenizer), tokenizer))
    config = lm.generation_config

    def penalised(params):
        found = config(params)
        found.repetition_penalty = 50.0
        return found

    lm.generation_config = penalised
    assert not runs_as_generate(lm)


def test_a_cache_that_forgets_its_padding_is_found_out(lm, monkeypatch):
    def shifted(cache, other):
        for mine, theirs in zip(cache.layers, other.layers, strict=True):
            for name in ("keys", "values"):
                a, b = getattr(mine, name), getattr(theirs, name)
                width = max(a.shape[-2], b.shape[-2])
                parts = [torch.nn.functional.pad(x, (0, 0, 0, width - x.shape[-2])) for x in (a, b)]
                setattr(mine, name, torch.cat(parts))

    monkeypatch.setattr(running_module, "put_beside", shifted)
    assert not runs_as_generate(lm)


# --- draws ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8), (1.5, 0.3), (1.0, 1e-6)])
def test_draws_follow_temperature_and_nucleus(temperature, top_p):
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(1)) * 2
    warped = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, logits))
    expected = warped.softmax(-1)[0].double().numpy()
    rng = np.random.default_rng(0)
    params = GenerationParams(sample=True, temperature=temperature, top_p=top_p)
    nothing = Encoded([], 0, "", [], 0)
    rows = [Row(encoded=nothing, limit=1, params=params, draws=rng) for _ in range(20_000)]
    counts = np.bincount(draw(logits.expand(len(rows), -1), rows), minlength=12) / len(rows)
    assert not counts[expected == 0].any()
    assert np.abs(counts - expected).max() < 0.015


def test_a_wide_nucleus_is_looked_for_in_the_whole_vocabulary(monkeypatch):
    monkeypatch.setattr(running_module, "LIKELY", 4)
    logits = torch.zeros(1, 100)
    rng = np.random.default_rng(0)
    params = GenerationParams(sample=True, top_p=0.9)
    rows = [Row(encoded=Encoded([], 0, "", [], 0), limit=1, params=params, draws=rng) for _ in range(2000)]
    assert len(set(draw(logits.expand(len(rows), -1), rows))) > 80


def test_rounding_draws_no_token_that_cannot_come():
    p, one = torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    assert running_module._first_past(p, one, one, sort=False).tolist() == [1]


def test_log_probabilities_are_those_before_a_bias(lm):
    plain = torch.tensor([[2.0, 1.0, 0.0]])
    row = row_of(lm, PROMPTS[0], push=lambda logits: logits + torch.tensor([0.0, 9.0, 0.0]), logprobs=[])
    choose(plain, [row])
    assert row.written == [1]
    np.testing.assert_allclose(row.logprobs, [plain.log_softmax(-1)[0, 1]])
