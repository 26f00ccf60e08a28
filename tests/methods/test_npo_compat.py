"""Other losses that were published as NPO, kept to reproduce those runs (checks C5 and C32)."""

import math

import pytest
import torch

from expunge import catalog
from expunge.methods.objectives.npo import NPO
from expunge.recipes import recipe
from expunge.train.feed import Feed
from tests.methods.cases import Case
from tests.methods.test_matrix import start, step_gradient
from tests.methods.toy import forget, from_logits, gradient, view

none = torch.ones(0)


def test_a_mean_inside_the_link_pushes_all_rows_alike():
    """C5: tokens one nat below the reference. Ascent on the mean of 30 tokens has a gradient of 1/30 each; here it is .950 of it."""
    logp = torch.full((30,), -1.0, dtype=torch.float64, requires_grad=True)
    rows = forget(view(logp, [5, 25], torch.zeros(2, dtype=torch.float64)))
    found = 30 * gradient(NPO(beta=0.1, compat="batch")(rows, none), logp)
    assert torch.allclose(found, torch.full((30,), 0.950, dtype=torch.float64), atol=5e-4)
    each = 2 * gradient(NPO(beta=0.1)(rows, none), logp)
    assert [each[0].item(), each[-1].item()] == pytest.approx([0.755, 0.152], abs=5e-4)


def test_a_step_in_two_parts_is_the_mean_of_what_either_part_gives():
    """Cut into micro-batches of one row it is another loss than whole: 20 sp(-.05) and 20 sp(-.3) have the mean 12.23."""
    logp = torch.tensor([-0.5, -0.5, -3.0], dtype=torch.float64)
    loss, zero = NPO(beta=0.1, compat="batch"), torch.zeros(1, dtype=torch.float64)
    parts = [view(logp[:2], [2], zero), view(logp[2:], [1], zero)]
    for part in parts:
        part.step_rows = 2
    cut = sum(loss(forget(part), none).item() for part in parts)
    assert cut == pytest.approx(10 * (math.log1p(math.exp(-0.05)) + math.log1p(math.exp(-0.3))))
    assert cut == pytest.approx(12.23, abs=0.005)
    whole = loss(forget(view(logp, [2, 1], torch.zeros(2, dtype=torch.float64))), none).item()
    assert whole == pytest.approx(20 * math.log1p(math.exp(-0.4 / 3)))


def test_a_constant_on_all_logits_changes_the_loss_on_raw_logits_and_no_other():
    """C32: 13.97 becomes 19.60 by design, a toy of random logits two apart from the reference, and 5 on all of them."""
    torch.manual_seed(0)
    reference, noise = torch.randn(2, 60, 500, dtype=torch.float64)
    targets = torch.randint(500, (60,))
    found = {}
    for shift in (0.0, 5.0):
        for compat in (None, "batch", "muse2024"):
            seen = from_logits(reference + 2 * noise + shift, targets, [20, 40])
            seen.ref_logits = reference
            seen.ref_logp = torch.zeros(2, dtype=torch.float64)
            found[compat, shift] = NPO(beta=0.1, compat=compat)(forget(seen), none).item()
    assert found["muse2024", 0.0] == pytest.approx(13.97, abs=0.03)
    assert found["muse2024", 5.0] == pytest.approx(19.60, abs=0.03)
    assert found[None, 0.0] == pytest.approx(found[None, 5.0])
    assert found["batch", 0.0] == pytest.approx(found["batch", 5.0])


def test_on_raw_logits_the_first_gradient_changes_no_probability():
    """All logits are pushed down alike, whatever the given token is."""
    logits = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    seen = from_logits(logits, torch.zeros(4, dtype=torch.int64), [4])
    seen.ref_logits = logits.detach()
    loss = NPO(beta=0.1, compat="muse2024")(forget(seen), none)
    assert loss.item() == pytest.approx(20 * math.log(2))
    assert torch.allclose(gradient(loss, logits), torch.full((4, 7), 1 / 28, dtype=torch.float64))


@pytest.mark.parametrize(
    ("compat", "needs"),
    [("batch", {"forget", "ref_logp"}), ("muse2024", {"forget", "logits", "ref_logits"})],
)
def test_each_form_asks_for_what_it_reads_and_runs(tokenizer, compat, needs):
    model, _, rows, made = start(tokenizer, Case("npo", {"objective": {"compat": compat}}))
    assert made.needs == needs
    assert catalog.entries("objective")["npo"].declared["needs"] == {"forget", "ref_logp"}
    found, entry = step_gradient(model, Feed(model, made, rows, 0), made)
    assert entry["forget_loss"] == pytest.approx(20 * math.log(2), abs=1e-3)
    assert found.isfinite().all()
    assert found.abs().max() > 0
    assert recipe(**made.describe()) == made
