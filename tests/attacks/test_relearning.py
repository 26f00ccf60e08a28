"""Relearning where no trained world is needed; what comes back and what does not is in `tests/run/test_bench.py`."""

import pytest
import torch

from expunge.attacks.relearning import Relearning
from expunge.benchmarks.pocket import Pocket
from expunge.data.pocket.world import SIZES
from expunge.errors import ConfigError
from expunge.recipes import recipe
from expunge.run import attack, load, unlearn
from expunge.run.relearn import merge_adapters, relearn
from expunge.types import Probe
from tests.run.test_unlearn import DATA, EXAMPLES, TRAIN


def test_an_adapter_is_merged_and_all_weights_are_trained(model_folder, tmp_path):
    out = unlearn(
        model_folder,
        DATA,
        recipe("ga+lora", train=TRAIN, adapter={"rank": 4}),
        tmp_path / "run",
        device="cpu",
    )
    before = [score.logprob for score in load(out).score(EXAMPLES)]
    lm = load(out)
    names = set(load(model_folder).model.state_dict())
    merge_adapters(lm.model)
    assert set(lm.model.state_dict()) == names
    assert [score.logprob for score in lm.score(EXAMPLES)] == pytest.approx(before, abs=1e-4)
    start = {name: value.clone() for name, value in lm.model.state_dict().items()}
    relearn(lm, [_probe(record) for record in DATA.forget[:4]], Relearning(steps=1, batch_size=4).training, 0)
    moved = [name for name, value in lm.model.state_dict().items() if not torch.equal(value, start[name])]
    assert any("embed" in name for name in moved)
    assert any("q_proj" in name for name in moved)


def _probe(record):
    return Probe(record.id, record.question, record.answer)


def test_an_unknown_setting_is_named(model_folder):
    with pytest.raises(ConfigError, match="attack relearning: unknown setting 'step'"):
        attack(model_folder, Pocket(SIZES["tiny"], 0), "relearning", settings={"step": 3})
