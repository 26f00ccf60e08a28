"""ROCR: the key leads to the value, retained keys stay, the change has rank one, and it is AlphaEdit's solve (check C23)."""

import pytest
import torch

from expunge.data.batching import collate
from expunge.data.dataset import Dataset, Record
from expunge.errors import ConfigError, DataError
from expunge.methods.edits.rocr import ROCR, direction, outside, used_directions
from expunge.models.activations import run_blocks, watched
from expunge.models.language_model import TransformerLM
from expunge.recipes import Recipe
from expunge.train.workbench import Workbench
from expunge.types import Prompt
from tests.conftest import make_family, make_model

NO_BASIS = torch.zeros(40, 0, dtype=torch.float64)


@pytest.fixture
def algebra():
    """W, a key, a goal, retained keys of rank 12, and two earlier keys; float64."""
    torch.manual_seed(0)
    weight, key, goal, retained, earlier = (
        torch.randn(*size, dtype=torch.float64) for size in ((24, 40), (40,), (24,), (40, 12), (40, 2))
    )
    return weight, key, goal, retained, earlier


def basis_of(retained):
    return used_directions(retained @ retained.T / retained.shape[1], 1e-10)


def change(weight, key, goal, basis, earlier, penalty):
    return torch.outer(goal - weight @ key, direction(key, basis, earlier, penalty))


def test_the_key_leads_to_the_value_as_the_penalty_goes_to_zero(algebra):
    weight, key, goal, retained, _ = algebra
    basis = basis_of(retained)
    errors = []
    for penalty in (1.0, 1e-3, 1e-6, 0.0):
        delta = change(weight, key, goal, basis, [], penalty)
        errors.append(float(((weight + delta) @ key - goal).norm()))
        left = penalty / (penalty + float(outside(key, basis) @ key))
        assert errors[-1] == pytest.approx(left * float((goal - weight @ key).norm()), rel=1e-9, abs=1e-12)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12


def test_retained_keys_keep_their_values_and_the_change_has_rank_one(algebra):
    weight, key, goal, retained, _ = algebra
    basis = basis_of(retained)
    assert basis.shape == (40, 12)
    assert outside(retained, basis).abs().max() < 1e-12
    delta = change(weight, key, goal, basis, [], 1.0)
    assert (delta @ retained).abs().max() < 1e-12
    assert int(torch.linalg.matrix_rank(delta)) == 1


def test_it_is_the_dense_solve_of_the_published_equation(algebra):
    """( P (k kᵀ + C) + λ I )⁻¹ P k, of the size of the inner layer."""
    _, key, _, retained, earlier = algebra
    basis = basis_of(retained)
    projector = torch.eye(40, dtype=torch.float64) - basis @ basis.T
    for others in ([], list(earlier.T)):
        keys = torch.stack([key, *others], 1)
        dense = torch.linalg.solve(
            projector @ keys @ keys.T + 0.7 * torch.eye(40, dtype=torch.float64), projector @ key
        )
        assert (direction(key, basis, others, 0.7) - dense).abs().max() < 1e-12


def test_earlier_keys_keep_their_values(algebra):
    weight, key, goal, retained, earlier = algebra
    basis, others = basis_of(retained), list(earlier.T)
    assert (change(weight, key, goal, basis, others, 1e-10) @ earlier).abs().max() < 1e-8
    forgetful = (change(weight, key, goal, basis, [], 1e-10) @ earlier).norm()
    for penalty in (1e-2, 1.0, 10.0):
        assert (change(weight, key, goal, basis, others, penalty) @ earlier).norm() < forgetful


def test_directions_outside_hold_at_most_the_threshold_of_the_energy(algebra):
    retained = algebra[3] * torch.logspace(0, -3, 12, dtype=torch.float64)
    energy = retained.square().sum()
    used = []
    for threshold in (1e-9, 1e-4, 0.02, 0.3):
        basis = used_directions(retained @ retained.T, threshold)
        assert outside(retained, basis).square().sum() <= threshold * energy + 1e-12
        used.append(basis.shape[1])
    assert used == sorted(used, reverse=True)
    assert used[0] == 12


# --- on a model -------------------------------------------------------------------------------------------------------
FORGET = (Record("f", subject="Mara Olen"), Record("g", subject="Tovin Brask"))
RETAIN = (Record("r", question="Where?", answer="In Corvale."), Record("s", text="the quick brown fox"))


def bench_of(lm, forget=FORGET, retain=RETAIN):
    return Workbench(lm, Dataset(forget, retain), Recipe(method="rocr", axes={}))


def state_at(bench, name, edit):
    return bench.at_name(name, edit.templates, edit.layers[0], edit.layers[-1])[1]


def test_a_name_is_taken_for_the_concept_and_only_its_layer_changes(lm):
    edit = ROCR(concept="a librarian", layers=[0], penalty=1e-6, threshold=1e-6)
    bench = bench_of(lm, FORGET[:1])
    goal, before = state_at(bench, "a librarian", edit), state_at(bench, "Mara Olen", edit)
    weights = {name: p.detach().clone() for name, p in lm.model.named_parameters()}
    facts = edit.apply(bench)
    after = state_at(bench, "Mara Olen", edit)
    assert (after - goal).norm() < 1e-2 * (before - goal).norm()
    changed = [name for name, p in lm.model.named_parameters() if not torch.equal(p, weights[name])]
    assert changed == ["model.layers.0.mlp.down_proj.weight"]
    (entry,) = facts["edits"]
    assert entry["written"] == pytest.approx(1, abs=1e-2)
    delta = lm.model.get_parameter(changed[0]).detach() - weights[changed[0]]
    assert entry["change"] == pytest.approx(float(delta.norm() / weights[changed[0]].norm()), rel=1e-4)


def test_what_enters_the_layer_in_retained_text_passes_as_before(lm):
    bench = bench_of(lm)
    module = bench.down_projection(0)

    def out(row):
        with watched({0: module}, "output") as seen:
            run_blocks(lm.model, collate([row], 0))
        return seen[0]

    before = [out(row) for row in bench.rows.retain]
    ROCR(concept="a librarian", layers=[0], penalty=1e-3, threshold=1e-9).apply(bench)
    for row, old in zip(bench.rows.retain, before, strict=True):
        assert torch.allclose(out(row), old, atol=1e-3 * float(old.abs().max()))


def test_residuals_are_shared_out_over_the_blocks(lm):
    edit = ROCR(concept="a librarian", layers=[0, 1], penalty=1e-6, threshold=1e-6)
    bench = bench_of(lm)
    goal = state_at(bench, "a librarian", edit)
    before = state_at(bench, "Tovin Brask", edit)
    facts = edit.apply(bench)
    assert [(e["subject"], e["layer"]) for e in facts["edits"]] == [
        (name, layer) for name in ("Mara Olen", "Tovin Brask") for layer in (0, 1)
    ]
    assert (state_at(bench, "Tovin Brask", edit) - goal).norm() < 0.05 * (before - goal).norm()


def test_the_name_is_found_by_offsets_whatever_the_template_puts_around_it(lm):
    """Rows of one name differ in length and end; the key of one alone equals its key in the batch of all."""
    bench = bench_of(lm)
    templates = ["{}", "Where was {} born?", "Who taught {}"]
    together = bench.at_name("Mara Olen", templates, 0, 1)
    alone = [bench.at_name("Mara Olen", [template], 0, 1) for template in templates]
    for i in range(2):
        assert torch.allclose(together[i], torch.stack([v[i] for v in alone]).mean(0), atol=1e-5)
    row = lm.encoder.prompts([Prompt.ask("Where was Mara Olen born?")])[0]
    end = row.text.index("Mara Olen") + len("Mara Olen")
    place = max(i for i, (a, b) in enumerate(row.offsets) if a < end and b > a)
    states = lm.model(torch.tensor([row.ids]), output_hidden_states=True).hidden_states[1][0]
    assert torch.allclose(bench.at_name("Mara Olen", templates[1:2], 0, 0)[1], states[place], atol=1e-5)


def test_what_cannot_be_edited_is_refused_with_what_to_do(lm, tokenizer):
    edit = ROCR(concept="a librarian", layers=[0])
    with pytest.raises(DataError, match="needs retain rows"):
        edit.apply(bench_of(lm, retain=()))
    with pytest.raises(DataError, match="forget row h: no 'subject'"):
        edit.apply(bench_of(lm, (*FORGET, Record("h", question="Where?", answer="Here."))))
    with pytest.raises(
        ConfigError, match=r"layer 7: this model has blocks 0 to 1\. Set them: --set edit\.layers"
    ):
        ROCR(concept="a librarian", layers=[0, 7]).apply(bench_of(lm))
    with pytest.raises(ConfigError, match=r"looked for a linear layer gpt_neox\.layers\.0\.mlp\.down_proj"):
        edit.apply(bench_of(TransformerLM(make_family("gpt_neox", tokenizer), tokenizer)))
    with pytest.raises(ConfigError, match=r"must have one \{\} where the name goes"):
        ROCR.parse({"concept": "x", "layers": [0], "templates": ["Tell me"]}, "edit rocr")


def test_a_name_whose_key_retained_text_uses_up_is_refused(tokenizer):
    """One inner direction: whatever enters, the key is a multiple of what retained text has."""
    model = make_model(tokenizer)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[1:] = 0
    bench = bench_of(TransformerLM(model, tokenizer))
    with pytest.raises(DataError, match=r"'Mara Olen', layer 0: only .* of its key lies outside"):
        ROCR(concept="a librarian", layers=[0], threshold=1e-6).apply(bench)


def test_a_row_that_names_anothers_subject_needs_none_of_its_own(lm):
    extra = Record("h", question="Where was Mara Olen born?", answer="Here.")
    assert bench_of(lm, (*FORGET, extra)).subjects == ("Mara Olen", "Tovin Brask")
