"""GRU: the projection's geometry, and why it comes after masking and accumulating (checks C17 to C19)."""

import pytest
import torch

from expunge.methods.gradients.gru import GRU
from expunge.methods.gradients.sum import Sum

SHAPES = [(4, 3), (5,)]


def random(seed):
    torch.manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]


def flat(parts):
    return torch.cat([part.reshape(-1) for part in parts])


def project(unlearn, retain, gamma=1.0):
    parts = [part.clone() for part in unlearn]
    facts = GRU(gamma=gamma).combine(parts, [part.clone() for part in retain], {})
    return parts, facts


def conflicting(start):
    """Random pairs of gradients that point against each other."""
    for seed in range(start, start + 200, 2):
        u, r = random(seed), random(seed + 1)
        if flat(u) @ flat(r) < 0:
            yield u, r


def test_the_result_never_conflicts_and_is_unchanged_where_nothing_conflicts():
    for seed in range(0, 40, 2):
        u, r = random(seed), random(seed + 1)
        g, facts = project(u, r)
        assert flat(g) @ flat(r) >= -1e-12 * flat(g).norm() * flat(r).norm()
        if flat(u) @ flat(r) >= 0:
            assert torch.equal(flat(g), flat(u))
            assert facts["rectified"] == 0
        again, _ = project(g, r)
        assert torch.allclose(flat(again), flat(g), atol=1e-14)


def test_the_worked_example():
    """(1, 0) against (-1, 1) gives (0.5, 0.5); against its own opposite nothing is left."""
    one = [torch.tensor([1.0, 0.0], dtype=torch.float64)]
    assert project(one, [torch.tensor([-1.0, 1.0], dtype=torch.float64)])[0][0].tolist() == [0.5, 0.5]
    assert project(one, [torch.tensor([-2.0, 0.0], dtype=torch.float64)])[0][0].tolist() == [0, 0]


def test_it_is_the_nearest_feasible_point():
    u, r = next(conflicting(0))
    g, _ = project(u, r)
    distance = (flat(g) - flat(u)).norm()
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(20_000, flat(u).numel(), generator=generator, dtype=torch.float64)
    reach = 10 * distance * torch.rand(20_000, 1, generator=generator, dtype=torch.float64)
    candidates = flat(u) + reach * directions / directions.norm(dim=1, keepdim=True)
    feasible = candidates[candidates @ flat(r) >= 0]
    assert len(feasible) > 100
    assert ((feasible - flat(u)).norm(dim=1) >= distance).all()


def test_the_scale_of_the_retain_gradient_does_not_matter():
    u, r = next(conflicting(0))
    a, b = project(u, r)[0], project(u, [1000 * part for part in r])[0]
    assert torch.allclose(flat(a), flat(b), atol=1e-14)


def test_the_moving_average_weighs_the_newest_gradient_by_gamma():
    memory = {}
    rule = GRU(gamma=0.8)
    first, second = [torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 1.0])]
    rule.combine([torch.zeros(2)], first, memory)
    assert torch.allclose(memory["0"], torch.tensor([0.8, 0.0]))
    rule.combine([torch.zeros(2)], second, memory)
    assert torch.allclose(memory["0"], torch.tensor([0.16, 0.8]))


def test_masking_before_projecting_is_feasible_and_after_it_is_not_always():
    """C18."""
    broken = total = 0
    for u, r in conflicting(1000):
        torch.manual_seed(total)
        mask = [(torch.rand_like(part) < 0.5).double() for part in u]
        before, _ = project(
            [a * m for a, m in zip(u, mask, strict=True)], [a * m for a, m in zip(r, mask, strict=True)]
        )
        assert flat(before) @ (flat(r) * flat(mask)) >= -1e-12
        after = flat(project(u, r)[0]) * flat(mask)
        broken += float(after @ (flat(r) * flat(mask)) < -1e-12)
        total += 1
    assert 0.2 < broken / total < 0.8


def test_projecting_each_micro_batch_is_another_direction_that_may_conflict():
    """C19: accumulate first, project once."""
    conflicts, differences = 0, []
    for seed in range(100):
        pairs = [(random(10 * seed + i), random(10 * seed + i + 5)) for i in range(4)]
        summed = [[sum(parts) for parts in zip(*side, strict=True)] for side in zip(*pairs, strict=True)]
        once = flat(project(*summed)[0])
        each = sum(flat(project(u, r)[0]) for u, r in pairs)
        differences.append(float((once - each).norm() / once.norm()))
        conflicts += float(each @ flat(summed[1]) < -1e-9)
    assert sum(differences) / len(differences) > 0.1
    assert conflicts > 0


def test_sum_adds():
    u, r = random(0), random(1)
    expected = flat(u) + flat(r)
    Sum().combine(u, r, {})
    assert torch.equal(flat(u), expected)


def test_gamma_is_bounded():
    with pytest.raises(ValueError, match="gamma"):
        GRU(gamma=0)


def test_a_clip_rectifies_no_more_than_its_cosine_asks_for():
    """At -1 it is the projection; a conflict sharper than the clip keeps what lies beyond it."""
    for u, r in conflicting(400):
        whole, facts = project(u, r)
        parts = [part.clone() for part in u]
        GRU(gamma=1.0, clip=-1.0).combine(parts, [part.clone() for part in r], {})
        assert torch.allclose(flat(parts), flat(whole), atol=1e-12)
        parts = [part.clone() for part in u]
        GRU(gamma=1.0, clip=-0.01).combine(parts, [part.clone() for part in r], {})
        left = flat(parts) @ flat(r) / (flat(u).norm() * flat(r).norm())
        assert left.item() == pytest.approx(min(0.0, facts["cosine"] + 0.01), abs=1e-9)


def test_the_step_cosine_is_that_of_the_step_really_taken(tokenizer):
    """Adam preconditions, so the step may conflict where the projected gradient does not; the trace says so."""
    from expunge.train.feed import Feed
    from expunge.train.loop import _Run
    from tests.methods.cases import CASES
    from tests.methods.test_matrix import start

    case = next(case for case in CASES if case.method == "npo+nll+gru")
    model, _, rows, made = start(tokenizer, case)
    run = _Run(model, Feed(model, made, rows, 0), made, None, None)
    kept = []
    rule = made.axes["gradient"]
    original = type(rule).combine

    def combine(self, unlearn, retain, memory):
        kept.append(flat([part.clone() for part in retain]))
        return original(self, unlearn, retain, memory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(rule), "combine", combine)
        for number in range(3):
            before = flat([p.detach().clone() for p in run.parameters])
            entry = run._step(run.feed.steps[number])
            run.done += 1
            moved = before - flat([p.detach() for p in run.parameters])
            expected = torch.nn.functional.cosine_similarity(moved, kept[-1], dim=0)
            assert entry["step_cosine"] == pytest.approx(expected.item(), abs=1e-4)
