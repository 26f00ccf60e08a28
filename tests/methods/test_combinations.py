"""Any allowed combination of axis values holds what every method holds, not only the combinations that have a preset."""

import random

import pytest
import torch

import expunge.models.hidden
import expunge.models.reference
import expunge.train.feed
import expunge.train.statistics
from expunge import catalog
from expunge.data.batching import collate
from expunge.errors import ConfigError
from expunge.recipes import recipe
from expunge.train.feed import Feed
from expunge.train.loop import _Run, train
from expunge.train.selection import unpack
from tests.methods.cases import ELSEWHERE, Case
from tests.methods.test_matrix import knowing, start, step_gradient  # noqa: F401  (a fixture)

SETTINGS = {
    "rmu": {"layer": 1, "size": 2.0},
    "embed": {"layer": 1},
    "layers": {"patterns": ["layers.1."]},
    "primal_dual": {"limit": 0.5},
    "codec": {"samples": 60, "most": 4},
    **{key: {"share": 0.5} for key in ("wagle", "snip", "magnitude", "random")},
}
AXES = ("objective", "weighting", "retain", "gradient", "selection")
ON_KNOWING = {"undial", "ceu", "wga", "satimp", "wtnpo"}
"""Compared on a model that knows its rows: on an ignorant one these teach almost what is there, or weigh almost nothing."""


def draw_cases(count: int) -> list[Case]:
    """Distinct allowed recipes, drawn at random; the seed only makes the same ones come again."""
    rng = random.Random(0)
    found: dict[str, Case] = {}
    while len(found) < count:
        names = {"objective": rng.choice(sorted(catalog.entries("objective")))}
        for axis in AXES[1:]:
            name = rng.choice([None, *sorted(set(catalog.entries(axis)) - set(ELSEWHERE))])
            if name:
                names[axis] = name
        chosen = {axis: SETTINGS[name] for axis, name in names.items() if name in SETTINGS}
        case = Case("+".join(names.values()), chosen, knows=bool(ON_KNOWING & set(names.values())))
        try:
            recipe(case.method, **case.settings)
        except ConfigError:
            continue
        found[case.method] = case
    return list(found.values())


def shake(model) -> None:
    """Move what trains a little away from the start, where `kl` and `embed` have no gradient but rounding."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))


CASES = draw_cases(40)
FEWER = CASES[:20]
BATCHING = (expunge.train.feed, expunge.train.statistics, expunge.models.reference, expunge.models.hidden)


@pytest.fixture(params=CASES, ids=lambda case: case.method)
def case(request):
    return request.param


@pytest.fixture(params=FEWER, ids=lambda case: case.method)
def one_of_fewer(request):
    return request.param


def has_threshold(case: Case) -> bool:
    """Whether it picks weights by a threshold on gradients, which the last bit of a gradient decides."""
    return bool({"wagle", "snip"} & set(case.method.split("+")))


def changed(made, **train):
    return made.model_copy(update={"train": made.train.model_copy(update=train)})


def shaken_gradient(tokenizer, case, weights):
    model, _, rows, made = start(tokenizer, case, weights)
    feed = Feed(model, made, rows, 0)
    shake(model)
    return step_gradient(model, feed, made)[0]


def test_any_allowed_combination_is_finite_and_does_not_depend_on_how_a_step_is_cut(tokenizer, knowing, case):  # noqa: F811
    if has_threshold(case):
        pytest.skip("decided by the last bit; test_selection holds the gradients themselves")
    weights = knowing if case.knows else None
    found = []
    for size in (1, 4):
        model, _, rows, made = start(tokenizer, case, weights)
        made = changed(made, micro_batch=size)
        feed = Feed(model, made, rows, 0)
        shake(model)
        found.append(step_gradient(model, feed, made)[0])
    assert found[0].isfinite().all()
    scale = found[1].abs().max()
    assert torch.allclose(*found, rtol=1e-3, atol=1e-5 * scale), case


def test_any_allowed_combination_moves_what_was_selected_and_nothing_else(tokenizer, knowing, case):  # noqa: F811
    model, _, rows, made = start(tokenizer, case, knowing if case.knows else None)
    made = changed(made, weight_decay=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run = _Run(model, Feed(model, made, rows, 0), made, None, None)
    run.finish(lambda done, total: None)
    moved = 0
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all()
        may = (
            unpack(run.masks[name], parameter.shape)
            if name in run.masks
            else torch.full(parameter.shape, name in run.weights and not run.masks)
        )
        assert torch.equal(parameter[~may], before[name][~may]), name
        moved += int((parameter != before[name]).sum())
    assert moved > 0


def test_padding_and_what_stands_under_it_change_nothing(tokenizer, knowing, one_of_fewer, monkeypatch):  # noqa: F811
    """C13: seven more columns, up to rounding. C15: any ids there, bit for bit."""
    case = one_of_fewer
    weights = knowing if case.knows else None

    def wider(rows, pad_id, **options):
        batch = collate(rows, pad_id, **options)
        return type(batch)(*(torch.nn.functional.pad(part, (0, 7), value=0) for part in batch))

    def scribbled(rows, pad_id, **options):
        batch = wider(rows, pad_id, **options)
        anything = torch.randint_like(batch.ids, 3, len(tokenizer))
        return batch._replace(ids=torch.where(batch.attention.bool(), batch.ids, anything))

    found = []
    for batching in (collate, wider, scribbled):
        for module in BATCHING:
            monkeypatch.setattr(module, "collate", batching)
        found.append(shaken_gradient(tokenizer, case, weights))
    plain, wide, scribble = found
    assert torch.equal(scribble, wide)
    if not has_threshold(case):
        assert torch.allclose(wide, plain, rtol=1e-3, atol=1e-5 * plain.abs().max())


def test_a_run_cut_short_resumes_to_the_same_bytes(tokenizer, knowing, one_of_fewer, tmp_path):  # noqa: F811
    """With whatever the recipe remembers: masks, GRU's average, the multiplier, Adam's moments."""
    case = one_of_fewer

    class Cut(Exception):
        pass

    def cut(done, total):
        if done == 2:
            raise Cut

    def run(folder, progress=None):
        model, _, rows, made = start(tokenizer, case, knowing if case.knows else None)
        made = changed(made, checkpoint_every=1, weight_decay=0.1)
        outcome = train(model, Feed(model, made, rows, 0), made, folder=folder, progress=progress)
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()]), outcome.trace

    straight, trace = run(None)
    with pytest.raises(Cut):
        run(tmp_path, cut)
    resumed, again = run(tmp_path)
    assert torch.equal(resumed, straight)
    assert again == trace


def test_the_draw_holds_every_kind_of_memory():
    drawn = {name for case in FEWER for name in case.method.split("+")}
    assert {"gru", "primal_dual", "wagle"} <= drawn
