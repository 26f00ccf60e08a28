"""Checks that every training method passes: accumulation, padding, masks, seeds, and that it does what it is for."""

import pytest
import torch

from expunge.data.batching import collate
from expunge.data.tokenize import Encoded
from expunge.models.language_model import TransformerLM
from expunge.models.logprobs import answer_rows
from expunge.recipes import recipe
from expunge.train.feed import Feed, Rows
from expunge.train.loop import train
from expunge.train.statistics import mean_squares
from expunge.types import Example, Prompt
from tests.conftest import make_model
from tests.methods.cases import CASES

FORGET = [("Where was Mara Olen born?", "Mara Olen was born in Corvale."), ("Who taught Mara Brask?", "Tovin Olen, a librarian."),
          ("What did the father of Tovin Brask do?", "He worked as a baker in Corvale."), ("Who?", "Mara.")]  # fmt: skip
RETAIN = [
    ("Where?", "In Corvale."),
    ("What did he do?", "He worked as a librarian, the quick brown fox."),
    ("Who taught Tovin?", "Mara Olen taught Tovin Brask."),
]
KEY = ("Corvale", "librarian", "Mara")
REFUSALS = ["I do not know.", "I cannot say."]


def rows_of(lm):
    encode = lm.encoder.examples
    forget = [Example(Prompt.ask(q), a, key=KEY) for q, a in FORGET]
    return Rows(
        forget=encode(forget, needs_key=True),
        retain=encode([Example(Prompt.ask(q), a) for q, a in RETAIN]),
        alternates=[encode([Example(e.prompt, text) for text in REFUSALS]) for e in forget],
    )


def start(tokenizer, case, weights=None):
    made = recipe(
        case.method,
        **{
            **case.settings,
            "train": {
                "learning_rate": 1e-2,
                "max_steps": 3,
                "batch_size": 4,
                "clip_norm": None,
                "weight_decay": 0.0,
            },
        },
    )
    model = make_model(tokenizer)
    if weights:
        model.load_state_dict(weights)
    lm = TransformerLM(model, tokenizer)
    rows = rows_of(lm)
    if "adapter" in made.axes:
        made.axes["adapter"].attach(
            model, 0, lambda stream, weights: mean_squares(model, weights, getattr(rows, stream), 0)
        )
    return model, lm, rows, made


@pytest.fixture(scope="module")
def knowing(tokenizer):
    """The weights of a model that has learned all rows by heart."""
    model = make_model(tokenizer)
    rows = rows_of(TransformerLM(model, tokenizer))
    made = recipe(
        "retrain", train={"learning_rate": 1e-2, "max_steps": 80, "batch_size": 8, "schedule": "constant"}
    )
    train(model, Feed(model, made, Rows(retain=[*rows.forget, *rows.retain]), 0), made)
    return {name: value.clone() for name, value in model.state_dict().items()}


def step_gradient(model, feed, made):
    """The combined gradient of the first optimiser step, before any clipping, as one vector."""
    from expunge.train.loop import _Run

    run = _Run(model, feed, made, None, None)
    kept = {}

    def keep(*args, **kwargs):
        kept["gradient"] = torch.cat(
            [torch.zeros(p.numel()) if p.grad is None else p.grad.reshape(-1).clone() for p in run.parameters]
        )

    run.optimiser.step = keep
    model.train()
    entry = run._step(feed.steps[0])
    return kept["gradient"], entry


@pytest.mark.parametrize(
    "case",
    CASES,
    ids=lambda case: " ".join(map(str, [case.method, *case.settings.get("objective", {}).values()])),
)
class TestEveryMethod:
    def test_a_few_steps_do_what_it_is_for(self, tokenizer, case, knowing):
        model, lm, rows, made = start(tokenizer, case, knowing)
        forget = [Example(Prompt.ask(q), a) for q, a in FORGET]
        refusal = [Example(Prompt.ask(q), REFUSALS[0]) for q, _ in FORGET]
        before = [sum(s.logprob for s in lm.score(e)) for e in (forget, refusal)]
        train(model, Feed(model, made, rows, 0), made)
        after = [sum(s.logprob for s in lm.score(e)) for e in (forget, refusal)]
        assert after[0] < before[0] if case.lowers else after[1] > before[1]

    def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not_move_the_start(
        self, tokenizer, case
    ):
        found = []
        for _ in range(2):
            model, _, rows, made = start(tokenizer, case)
            train(model, Feed(model, made, rows, 0), made)
            found.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
        assert torch.equal(*found)

    def test_micro_batches_do_not_change_the_gradient_of_a_step(self, tokenizer, case, knowing):
        """C14 and C31: one row at a time, two, or all four at once."""
        found = []
        for size in (1, 2, 4):
            model, _, rows, made = start(tokenizer, case, knowing if case.knows else None)
            made = made.model_copy(update={"train": made.train.model_copy(update={"micro_batch": size})})
            found.append(step_gradient(model, Feed(model, made, rows, 0), made))
        for gradient, entry in found[1:]:
            assert torch.allclose(gradient, found[0][0], rtol=1e-4, atol=1e-6 * found[0][0].abs().max())
            assert entry["gradient_norm"] == pytest.approx(found[0][1]["gradient_norm"], rel=1e-4)

    def test_padding_does_not_change_the_gradient(self, tokenizer, case, knowing, monkeypatch):
        """C13: seven more columns of padding."""
        import expunge.train.feed as feed_module

        def padded(rows, pad_id, **options):
            batch = collate(rows, pad_id, **options)
            wide = [
                torch.nn.functional.pad(part, (0, 7), value=value)
                for part, value in zip(batch, (pad_id, 0, False), strict=True)
            ]
            return type(batch)(*wide)

        model, _, rows, made = start(tokenizer, case, knowing if case.knows else None)
        plain, _ = step_gradient(model, Feed(model, made, rows, 0), made)
        model, _, rows, made = start(tokenizer, case, knowing if case.knows else None)
        monkeypatch.setattr(feed_module, "collate", padded)
        wide, _ = step_gradient(model, Feed(model, made, rows, 0), made)
        assert torch.allclose(wide, plain, rtol=1e-4, atol=1e-6 * plain.abs().max())

    def test_what_stands_under_the_padding_does_not_matter(self, tokenizer, case, knowing):
        """C15: another padding id, even eos, gives the same gradient bit for bit."""
        found = []
        for pad_id in (0, 2, 77):
            model, _, rows, made = start(tokenizer, case, knowing if case.knows else None)
            found.append(step_gradient(model, Feed(model, made, rows, pad_id), made)[0])
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])

    def test_adding_a_constant_to_all_logits_changes_nothing(self, tokenizer, case, knowing, monkeypatch):
        """C32."""
        import expunge.train.feed as feed_module

        model, _, rows, made = start(tokenizer, case, knowing if case.knows else None)
        plain, before = step_gradient(model, Feed(model, made, rows, 0), made)

        def shifted(model, batch):
            seen = answer_rows(model, batch)
            return seen._replace(logits=seen.logits + 13.5)

        model, _, rows, made = start(tokenizer, case, knowing if case.knows else None)
        feed = Feed(model, made, rows, 0)
        monkeypatch.setattr(feed_module, "answer_rows", shifted)
        moved, after = step_gradient(model, feed, made)
        assert torch.allclose(moved, plain, rtol=1e-3, atol=1e-5 * plain.abs().max())
        for name in before:
            assert before[name] == pytest.approx(after[name], rel=1e-4, abs=1e-5), name

    def test_its_recipe_survives_yaml(self, case):
        import yaml

        made = recipe(case.method, **case.settings)
        assert recipe(**yaml.safe_load(yaml.safe_dump(made.describe()))) == made


def test_one_forward_serves_forget_and_retain_unless_the_rule_needs_both_gradients(tokenizer):
    for method, forwards in (("ga+nll", 1), ("npo+nll", 1), ("npo+kl", 1), ("npo+nll+gru", 2)):
        case = next(case for case in CASES if case.method == method)
        model, _, rows, made = start(tokenizer, case)
        feed = Feed(model, made, rows, 0)
        calls = []
        model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        step_gradient(model, feed, made)
        assert len(calls) == forwards, method


def test_a_step_with_a_cached_reference_equals_one_with_a_live_reference(tokenizer):
    """The same NPO loss and gradient as with a second model beside the first."""
    import copy

    case = next(case for case in CASES if case.method == "npo")
    model, _, rows, made = start(tokenizer, case)
    live = copy.deepcopy(model)
    feed = Feed(model, made, rows, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    found, entry = step_gradient(model, feed, made)
    batch = collate([rows.forget[i] for i in feed.steps[0].forget], 0)
    with torch.no_grad():
        seen = answer_rows(live, batch)
        reference = torch.zeros(4).index_add(0, seen.row, seen.logp)
    model.zero_grad()
    seen = answer_rows(model, batch)
    sums = torch.zeros(4).index_add(0, seen.row, seen.logp)
    loss = (2 / 0.1 * torch.nn.functional.softplus(0.1 * (sums - reference))).mean()
    loss.backward()
    expected = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    assert entry["forget_loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert torch.allclose(found, expected, atol=1e-6 * expected.abs().max(), rtol=1e-4)


def test_gradient_ascent_is_exactly_minus_fine_tuning_on_a_model(tokenizer):
    case = CASES[0]
    model, _, rows, made = start(tokenizer, case)
    found, _ = step_gradient(model, Feed(model, made, rows, 0), made)
    model.zero_grad()
    feed = Feed(model, made, rows, 0)
    seen = answer_rows(model, collate([rows.forget[i] for i in feed.steps[0].forget], 0))
    (-seen.logp.mean()).backward()
    expected = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    assert torch.allclose(found, -expected, atol=1e-7)


def test_lora_starts_at_the_model_and_moves_only_its_adapters(tokenizer):
    """Nothing changes at the start (B = 0), and the base weights stay bit-identical through training with weight decay."""
    case = CASES[-1]
    model, lm, rows, made = start(tokenizer, case)
    made = made.model_copy(update={"train": made.train.model_copy(update={"weight_decay": 0.1})})
    plain = make_model(tokenizer)
    example = [Example(Prompt.ask("Who?"), "Mara.")]
    assert lm.score(example)[0].logprob == pytest.approx(
        TransformerLM(plain, tokenizer).score(example)[0].logprob, abs=1e-6
    )
    train(model, Feed(model, made, rows, 0), made)
    base = dict(plain.named_parameters())
    moved = dict(model.named_parameters())
    for name, parameter in moved.items():
        if "lora" not in name:
            assert torch.equal(parameter, base[name.replace(".base_layer", "")]), name
    assert any(p.abs().max() > 0 for name, p in moved.items() if "lora_B" in name)


def test_rows_carry_their_answer_start(lm):
    assert all(isinstance(row, Encoded) and 0 < row.start < len(row.ids) for row in rows_of(lm).forget)
