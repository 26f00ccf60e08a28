"""SEUF on small mixtures of three architectures: what is picked, what moves, and what the anchor does (check C25)."""

import pytest
import torch

from expunge.data.batching import collate
from expunge.errors import ConfigError, ModelError
from expunge.methods.selection.seuf import SEUF
from expunge.models.experts import affinities, expert_layers, recorded
from expunge.models.language_model import TransformerLM
from expunge.recipes import recipe
from expunge.train.feed import Feed
from expunge.train.loop import train
from expunge.types import Streams
from tests.conftest import make_model
from tests.methods.test_matrix import rows_of, step_gradient
from tests.methods.toy import view
from tests.models.test_experts import FAMILIES, blocks, every_family, mixture


def start(tokenizer, method="npo+nll+seuf", family="qwen3_moe", selection=None, **changes):
    settings = {"learning_rate": 1e-2, "max_steps": 4, "batch_size": 2, "weight_decay": 0.5, **changes}
    model = mixture(tokenizer, family)
    rows = rows_of(TransformerLM(model, tokenizer))
    extra = {"objective": {"layer": 2, "size": 2.0}} if "rmu" in method else {}
    return model, rows, recipe(method, selection=selection or {}, train=settings, **extra)


@pytest.mark.parametrize("experts", [1, 3])
def test_the_experts_used_most_are_picked_over_all_layers_together(tokenizer, experts):
    model, rows, made = start(tokenizer, selection={"experts": experts})
    shares = torch.stack([each.shares for each in affinities(model, rows.forget, 0)])
    best = set(shares.flatten().topk(experts).indices.tolist())
    feed = Feed(model, made, rows, 0)
    wanted: dict = {}
    for flat in best:
        layer = expert_layers(model)[flat // 4]
        for name in layer.tensors:
            wanted.setdefault(name, set()).add(flat % 4)
        wanted |= {name: set(range(4)) for name in layer.router_weights}
    assert {
        name: set(mask.flatten(1).any(1).nonzero()[:, 0].tolist()) for name, mask in feed.picked.items()
    } == wanted
    assert all(p.requires_grad == (name in wanted) for name, p in model.named_parameters())


@pytest.mark.parametrize(
    ("family", "method", "experts"),
    [(family, "npo+nll+seuf", 1) for family in FAMILIES]
    + [("qwen3_moe", "npo+nll+seuf", 3), ("qwen3_moe", "npo+nll+gru+seuf", 1), ("mixtral", "rmu+embed+seuf", 1),
       ("qwen2_moe", "imitate+nll+seuf", 1), ("qwen3_moe", "dpo+kl+seuf", 1)],
)  # fmt: skip
def test_only_the_chosen_slices_and_their_routers_change_bit_for_bit_under_weight_decay(
    tokenizer, family, method, experts
):
    """C25."""
    model, rows, made = start(tokenizer, method, family, {"experts": experts})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    feed = Feed(model, made, rows, 0)
    outcome = train(model, feed, made)
    for name, parameter in model.named_parameters():
        mask = feed.picked.get(name, torch.zeros(parameter.shape, dtype=torch.bool))
        assert torch.equal(parameter[~mask], before[name][~mask]), name
        if name in feed.picked:
            assert (parameter != before[name])[mask].float().mean() > 0.9, name
    total = sum(p.numel() for p in model.parameters())
    assert outcome.trained_share == sum(int(mask.sum()) for mask in feed.picked.values()) / total
    assert all(entry["penalty"] > 0 for entry in outcome.trace)


def test_the_anchor_by_hand():
    """[0, .6, .4, 0] against e_1: (.6 - 1)² + .4² = .32. Two chosen of one router share it; routers add up."""
    seen = view(torch.zeros(1), [1])
    seen.gates = torch.tensor([[[0.0, 0.6, 0.4, 0.0]]])
    seen.chosen = torch.tensor([[False, True, False, False]])
    streams = Streams({"forget": seen})
    assert SEUF().penalty(streams).item() == pytest.approx(0.32)
    assert SEUF(alpha=3.0).penalty(streams).item() == pytest.approx(0.96)
    seen.chosen = torch.tensor([[False, True, True, False]])
    assert SEUF().penalty(streams).item() == pytest.approx(0.02)
    seen.gates = torch.tensor([[[0.0, 0.6, 0.4, 0.0], [1.0, 0.0, 0.0, 0.0]]])
    seen.chosen = torch.tensor([[False, True, False, False], [False, False, False, True]])
    assert SEUF().penalty(streams).item() == pytest.approx(0.32 + 2.0)


@every_family
def test_a_strong_anchor_raises_the_chosen_experts_share_step_by_step(tokenizer, family):
    """Small steps of the router alone, as α outweighs all else."""
    model, rows, made = start(
        tokenizer, family=family, selection={"alpha": 1e4}, learning_rate=1e-3, batch_size=4, max_steps=12,
        weight_decay=0.0, schedule="constant",
    )  # fmt: skip
    feed = Feed(model, made, rows, 0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in feed.gates.layers[0].router_weights)
    feed.picked = {name: feed.picked[name] for name in feed.gates.layers[0].router_weights}
    batch = collate(rows.forget, 0)

    def share():
        with torch.no_grad(), feed.gates.recorded() as seen:
            model(batch.ids, attention_mask=batch.attention)
        return float(feed.gates.at_answers(seen, batch)[:, feed.gates.chosen].mean())

    shares = [share()]
    outcome = train(model, feed, made, progress=lambda done, total: shares.append(share()))
    assert shares == sorted(shares), shares
    assert shares[-1] > shares[0] + 0.005
    anchors = [entry["penalty"] for entry in outcome.trace]
    assert anchors == sorted(anchors, reverse=True)


@pytest.mark.parametrize("method", ["npo+nll+seuf", "npo+nll+gru+seuf", "rmu+nll+seuf"])
def test_micro_batches_change_neither_the_gradient_nor_the_anchor(tokenizer, method):
    found = []
    for size in (1, 4):
        model, rows, made = start(tokenizer, method, batch_size=4, micro_batch=size, clip_norm=None)
        found.append(step_gradient(model, Feed(model, made, rows, 0), made))
    (one, first), (four, second) = found
    assert torch.allclose(one, four, rtol=1e-4, atol=1e-6 * four.abs().max())
    assert first["penalty"] == pytest.approx(second["penalty"], rel=1e-5)


def test_the_anchor_is_not_under_the_forget_weight(tokenizer):
    """The gradient of a step is that of forget_weight · L_f plus the anchor's own."""
    pulls = []
    for weight, alpha in ((2.0, 5.0), (2.0, 0.0), (0.0, 5.0)):
        model, rows, made = start(tokenizer, "ga+seuf", selection={"alpha": alpha}, clip_norm=None)
        made = made.model_copy(update={"forget_weight": weight})
        pulls.append(step_gradient(model, Feed(model, made, rows, 0), made)[0])
    assert torch.allclose(pulls[0], pulls[1] + pulls[2], atol=1e-6 * pulls[0].abs().max())
    assert pulls[2].abs().max() > 0


def test_a_rule_that_wants_both_pulls_gets_the_anchor_with_the_forget_pull(tokenizer):
    """The retain pull has weight 0 here and the objective too: what is left is the anchor."""
    sizes = []
    for alpha in (0.0, 5.0):
        model, rows, made = start(tokenizer, "npo+gru+seuf", selection={"alpha": alpha}, clip_norm=None)
        made = made.model_copy(update={"forget_weight": 0.0})
        sizes.append(float(step_gradient(model, Feed(model, made, rows, 0), made)[0].abs().max()))
    assert sizes[0] == 0 < sizes[1]


def test_gates_are_those_of_the_forget_answers_whatever_runs_beside_them(tokenizer):
    model, rows, made = start(tokenizer, "dpo+nll+seuf", batch_size=4)
    feed = Feed(model, made, rows, 0)
    found = [
        feed.views(feed.steps[0], slice(0, 4), streams).forget
        for streams in (["forget"], ["forget", "alternate", "retain"])
    ]
    batch = collate([rows.forget[i] for i in feed.steps[0].forget], 0)
    with recorded(model, feed.gates.layers) as seen:
        model(batch.ids, attention_mask=batch.attention)
    by_hand = seen[feed.gates.layers[0].router][batch.answer.reshape(-1)]
    for each in found:
        assert torch.equal(each.chosen, feed.gates.chosen)
        assert torch.allclose(each.gates[:, 0], by_hand, atol=1e-6)
    assert feed.views(feed.steps[0], slice(0, 4), ["retain"]).retain.gates is None


def test_a_run_cut_short_resumes_to_the_same_bytes(tokenizer, tmp_path):
    class Cut(Exception):
        pass

    def stop(done, total):
        if done == 5:
            raise Cut

    found = []
    for folder in ("straight", "cut"):
        model, rows, made = start(tokenizer, max_steps=8, checkpoint_every=2)
        if folder == "cut":
            with pytest.raises(Cut):
                train(model, Feed(model, made, rows, 0), made, folder=tmp_path / folder, progress=stop)
            model, rows, made = start(tokenizer, max_steps=8, checkpoint_every=2)
        outcome = train(model, Feed(model, made, rows, 0), made, folder=tmp_path / folder)
        found.append((torch.cat([p.detach().reshape(-1) for p in model.parameters()]), outcome.trace))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_a_dense_model_is_refused_before_anything_runs(tokenizer):
    model = make_model(tokenizer)
    rows = rows_of(TransformerLM(model, tokenizer))
    model.register_forward_pre_hook(lambda *_: pytest.fail("it ran"))
    with pytest.raises(
        ModelError,
        match=r"needs a mixture of experts; this model \(LlamaForCausalLM\) is dense.\nTake another",
    ):
        Feed(model, recipe("npo+nll+seuf"), rows, 0)


def test_an_expert_behind_the_block_that_is_looked_at_is_refused(tokenizer):
    model = mixture(tokenizer)
    rows = rows_of(TransformerLM(model, tokenizer))
    with torch.no_grad():  # all tokens go to one expert of the last block
        blocks(model)[2].gate.weight.mul_(100)
    made = recipe("rmu+nll+seuf", objective={"layer": 1})
    with pytest.raises(ConfigError, match=r"nothing below block 2 trains.*\n.*objective.layer=2"):
        Feed(model, made, rows, 0)
