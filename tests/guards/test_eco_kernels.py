"""L0: what each corruption does to an embedding, exactly."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from expunge.errors import ConfigError, DataError
from expunge.guards.actions.eco import ECO, FittedECO
from expunge.guards.target_names import TargetNames
from expunge.models.language_model import TransformerLM
from expunge.types import Prompt
from tests.conftest import make_model
from tests.guards.cases import fit_data

E = torch.tensor([[0.1, -0.4, 0.3, -0.2], [1.0, 2.0, -3.0, 0.5]])
IDS = [7, 9]


def eco(lm, strength=2.0, seed=0, **settings):
    return FittedECO(ECO(**settings), TargetNames(["Mara Olen"]), lm, strength, seed, [])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"corruption": "zero"}, [[0, 0, 0, 0], [0, 0, 0, 0]]),
        ({"corruption": "zero", "dims": 0.5}, [[0, 0, 0.3, -0.2], [0, 0, -3, 0.5]]),
        ({"corruption": "zero", "dims": 0.5, "which": "top"}, [[0.1, 0, 0, -0.2], [1, 0, 0, 0.5]]),
        ({"corruption": "flip"}, [[-0.1, 0.4, -0.3, 0.2], [-1, -2, 3, -0.5]]),
        ({"corruption": "flip", "dims": 0.25, "which": "top"}, [[0.1, 0.4, 0.3, -0.2], [1, 2, 3, 0.5]]),
    ],
)
def test_zero_and_flip_have_exact_results(lm, settings, expected):
    assert torch.equal(eco(lm, **settings).apply(E, IDS), torch.tensor(expected).float())


def test_rademacher_moves_every_dimension_by_exactly_sigma_rms(lm):
    guard = eco(lm, strength=2.0)
    wide = torch.zeros(2, 64)
    moved = guard.apply(wide, IDS)
    assert torch.allclose(moved.abs(), torch.full_like(wide, 2.0 * guard.rms))
    assert not torch.equal(moved[0], moved[1])


def test_noise_has_the_asked_size_and_leaves_other_dimensions_alone(lm):
    guard = eco(lm, strength=3.0, corruption="noise", dims=0.5)
    wide = torch.zeros(64, 4096)
    moved = guard.apply(wide, range(64))
    assert torch.equal(moved[:, 2048:], wide[:, 2048:])
    assert moved[:, :2048].std().item() == pytest.approx(3.0 * guard.rms, rel=0.02)


def test_the_same_token_always_becomes_the_same_vector_and_seeds_differ(lm):
    """Asking again, or another copy, averages nothing away."""
    guard = eco(lm)
    twice = guard.apply(E[[0, 0]], [7, 7])
    assert torch.equal(twice[0], twice[1])
    assert torch.equal(eco(lm).apply(E, IDS), guard.apply(E, IDS))
    assert not torch.equal(eco(lm, seed=1).apply(E, IDS), guard.apply(E, IDS))


@pytest.mark.parametrize("kind", ["rademacher", "noise", "zero", "flip"])
def test_the_callers_tensor_and_its_type_stay_as_they_are(lm, kind):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        given = E.to(dtype)
        kept = given.clone()
        found = eco(lm, corruption=kind).apply(given, IDS)
        assert torch.equal(given, kept)
        assert found.dtype == dtype
        assert found.isfinite().all()


def test_rms_is_that_of_the_embedding_table(lm):
    table = lm.model.get_input_embeddings().weight
    assert eco(lm).rms == pytest.approx(table.detach().pow(2).mean().sqrt().item(), rel=1e-6)


def prompt_mask(guard, lm, text, prefill=""):
    (row,) = lm.encoder.prompts([Prompt.ask(text, prefill)])
    mask = guard.prompt_mask(row)
    return lm.tokenizer.decode([i for i, m in zip(row.ids, mask, strict=True) if m]), mask, row


def test_names_are_masked_in_question_and_prefill_and_nothing_else(lm):
    guard = eco(lm)
    found, _, _ = prompt_mask(guard, lm, "Where was Mara Olen born?", "Mara Olen was born in")
    assert found.split() == ["Mara", "Olen", "Mara", "Olen"]


def test_a_flagged_prompt_without_a_name_is_corrupted_whole_but_its_last_token(lm):
    _, mask, _ = prompt_mask(eco(lm), lm, "Who is it?")
    assert mask[:-1].all()
    assert not mask[-1]


def test_the_prompt_mask_corrupts_everything_but_the_last_token(lm):
    _, mask, _ = prompt_mask(eco(lm, tokens="prompt"), lm, "Where was Mara Olen born?")
    assert mask[:-1].all()


def test_a_lone_token_is_corrupted_too(lm):
    from expunge.data.tokenize import Encoded

    assert eco(lm).prompt_mask(Encoded([5], 1, "x", [(0, 1)], 1)).tolist() == [True]


def test_settings_that_cannot_work_are_refused(lm):
    data = fit_data([], [], ["Mara Olen"])
    with pytest.raises(ConfigError, match="corruption 'flip' has no strength"):
        ECO(corruption="flip", strength=2.0).fit(lm, data)
    with pytest.raises(DataError, match="none is known"):
        ECO().fit(lm, fit_data([], [], []))
    with pytest.raises(DataError, match="finds its strength on question-answer pairs"):
        ECO().fit(lm, data)


def test_written_tokens_are_masked_as_in_scoring(lm):
    """One rule for an answer that is scored and one that is being written."""
    from expunge.models.corrupted import CorruptedInputs
    from expunge.types import Example

    guard = eco(lm)
    (row,) = lm.encoder.examples(
        [Example(Prompt.ask("Where was Mara Olen born?"), "Mara Olen was born in Corvale.")]
    )
    mask = CorruptedInputs(guard).mask(row)
    written = row.ids[row.start :]
    steps = [bool(guard.written_mask(written[: i + 1], i)[0]) for i in range(len(written))]
    assert np.array_equal(mask[row.start :], steps)
    assert sum(steps) >= 2


class Counted(TorchDispatchMode):
    """Counts the tensor operations inside it and the numbers they make."""

    def __init__(self):
        super().__init__()
        self.operations, self.numbers = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.operations += 1
        self.numbers += made.numel() if isinstance(made, torch.Tensor) else sum(part.numel() for part in made)
        return made


@pytest.mark.parametrize("settings", [{}, {"corruption": "zero", "dims": 0.5, "which": "top"}])
def test_the_cost_follows_the_tokens_and_the_width_never_the_number_of_parameters(lm, tokenizer, settings):
    """L7: the same operations at four widths and depths, making as many numbers per embedding entry."""
    seen = set()
    for hidden, layers in ((16, 1), (32, 2), (64, 6), (128, 12)):
        big = TransformerLM(
            make_model(tokenizer, hidden_size=hidden, num_hidden_layers=layers), lm.tokenizer, "qa"
        )
        guard = FittedECO(ECO(**settings), TargetNames(["Mara Olen"]), big, 2.0, 0, [])
        embeddings = torch.ones(5, hidden)
        guard.apply(embeddings, range(5))  # draws the noise
        with Counted() as counted:
            guard.apply(embeddings, range(5))
        seen.add((counted.operations, counted.numbers // hidden))
    assert len(seen) == 1
