"""L0: what each corruption does to an embedding, exactly."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from expunge.errors import ConfigError, DataError
from expunge.guards import corruptions
from expunge.guards.actions.eco import ECO, FittedECO
from expunge.guards.corruptions import KINDS, Noise, corrupt
from expunge.guards.target_names import TargetNames
from expunge.models.corrupted import CorruptedInputs, corrupt_at
from expunge.models.language_model import TransformerLM
from expunge.types import Prompt, Seed
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
        ({"corruption": "flip", "dims": 0.5}, [[-0.1, 0.4, 0.3, -0.2], [-1, -2, -3, 0.5]]),
    ],
)
def test_zero_and_flip_have_exact_results(lm, settings, expected):
    assert torch.equal(eco(lm, **settings).apply(E, IDS), torch.tensor(expected).float())


@pytest.mark.parametrize(
    ("kind", "which", "expected"),
    [
        ("add", "first", [[0.6, 0.1, 0.3, -0.2], [1.5, 2.5, -3.0, 0.5]]),
        ("subtract", "first", [[-0.4, -0.9, 0.3, -0.2], [0.5, 1.5, -3.0, 0.5]]),
        ("subtract", "largest", [[-0.4, -0.4, -0.2, -0.2], [0.5, 1.5, -3.0, 0.5]]),
        ("add", "smallest", [[0.1, 0.1, 0.3, 0.3], [1.0, 2.0, -2.5, 1.0]]),
    ],
)
def test_constants_go_to_the_dimensions_that_were_asked_for(kind, which, expected):
    """sub_value_top_k and add_value_least_k rank by signed value, the zeroing and flipping functions by size."""
    found = corrupt(E, IDS, kind, which, 2, 0.5, Noise(Seed(0), signs=False))
    assert torch.allclose(found, torch.tensor(expected))


AUTHORS = {
    "rand_noise_first_n": ("noise", "first"),
    "rand_noise_top_k": ("noise", "top"),
    "rand_noise_rand_n": ("noise", "random"),
    "set_rand_noise_first_n": ("set_noise", "first"),
    "zero_out_first_n": ("zero", "first"),
    "zero_out_top_k": ("zero", "top"),
    "flip_sign_first_n": ("flip", "first"),
    "flip_sign_top_k": ("flip", "top"),
    "add_value_first_n": ("add", "first"),
    "sub_value_first_n": ("subtract", "first"),
    "sub_value_top_k": ("subtract", "largest"),
    "add_value_least_k": ("add", "smallest"),
    "reverse_order": ("reverse", "first"),
    "shuffle": ("shuffle", "first"),
}


@pytest.mark.parametrize("name", AUTHORS)
def test_each_of_the_fourteen_functions_changes_its_dimensions_of_flagged_tokens_alone(lm, name):
    kind, which = AUTHORS[name]
    assert name in corruptions.__doc__
    guard = eco(lm, corruption=kind, which=which, dims=0.25)
    (row,) = lm.encoder.prompts([Prompt.ask("Where was Mara Olen born?")])
    change = CorruptedInputs(guard)
    enters = change.enters(row)
    hits = {i: int(token) for i, token in enumerate(enters) if token >= 0}
    assert 2 <= len(hits) < len(row.ids)
    with torch.no_grad():
        clean = lm.model.get_input_embeddings()(torch.tensor([row.ids]))[0]
        found = corrupt_at(lm.model, torch.tensor([row.ids]), hits, guard)[0]
    changed = (found != clean).any(1)
    assert not changed[[i for i in range(len(row.ids)) if i not in hits]].any()
    if kind in ("reverse", "shuffle"):
        assert sorted(hits.values()) == sorted(row.ids[i] for i in hits)
        if kind == "reverse":
            assert list(hits.values()) == [row.ids[i] for i in reversed(hits)]
    else:
        assert changed[list(hits)].all()
        assert ((found != clean).sum(1)[list(hits)] == 8).all()  # a quarter of 32 dimensions


def test_one_set_of_random_dimensions_serves_all_tokens(lm):
    found = eco(lm, corruption="set_noise", which="random", dims=0.25).apply(torch.zeros(3, 64), [5, 6, 7])
    where = found != 0
    assert (where == where[0]).all()
    assert where[0].sum() == 16
    assert not where[0, :16].all()


def test_the_fixed_vector_is_the_same_for_all_tokens_and_never_small(lm):
    guard = eco(lm, corruption="fixed")
    moved = guard.apply(torch.zeros(3, 64), [5, 6, 7])
    assert (moved == moved[0]).all()
    assert torch.allclose(moved.abs(), torch.tensor(2.0 * guard.rms))


def test_gaussian_noise_leaves_eight_percent_of_entries_nearly_clean_and_signs_none(lm):
    wide = torch.zeros(64, 4096)
    gauss = eco(lm, strength=1.0, corruption="noise").apply(wide, range(64)) / eco(lm).rms
    assert (gauss.abs() < 0.1).float().mean().item() == pytest.approx(0.0797, abs=0.003)
    signs = eco(lm, strength=1.0).apply(wide, range(64)) / eco(lm).rms
    assert (signs.abs() > 0.99).all()


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


@pytest.mark.parametrize("kind", KINDS)
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
    with pytest.raises(ConfigError, match="go together"):
        ECO(tokens="entities").fit(lm, data)
    with pytest.raises(DataError, match="none is known"):
        ECO().fit(lm, fit_data([], [], []))
    with pytest.raises(DataError, match="finds its strength on question-answer pairs"):
        ECO().fit(lm, data)


def test_written_tokens_are_masked_as_in_scoring(lm):
    """One rule for an answer that is scored and one that is being written."""
    from expunge.types import Example

    guard = eco(lm)
    (row,) = lm.encoder.examples(
        [Example(Prompt.ask("Where was Mara Olen born?"), "Mara Olen was born in Corvale.")]
    )
    mask = CorruptedInputs(guard).enters(row) >= 0
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


def test_a_swapped_token_is_always_another_and_always_the_same(lm):
    guard = eco(lm, corruption="swap")
    (row,) = lm.encoder.prompts([Prompt.ask("Where was Mara Olen born, and who is Mara Olen?")])
    mask = guard.prompt_mask(row)
    entering = guard.entering(row, mask)
    stands_in = {}
    for token, source, hit in zip(row.ids, entering, mask, strict=True):
        assert (token != source) == hit
        assert stands_in.setdefault(token, source) == source
        assert guard.written_as(token) == source or not hit
