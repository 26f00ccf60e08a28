"""Defects that a study of open-unlearning found by running it, each with the check that it does not exist here.

D9 (settings that never reach lm-evaluation-harness) is in tests/run/test_harness.py. D14 (wrappers for several GPUs that are by-passed) has
no counterpart: there is one loop and no wrapper.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from expunge.benchmarks import _asks
from expunge.benchmarks._asks import Asks
from expunge.benchmarks.pocket import Pocket
from expunge.data.dataset import Dataset
from expunge.methods.objectives.undial import UNDIAL
from expunge.metrics.extraction_strength import extraction_strength
from expunge.models.gradients import gradient_norms
from expunge.models.language_model import TransformerLM
from expunge.models.load import save_model
from expunge.recipes import recipe
from expunge.run import evaluate
from expunge.run.asking import replies_of
from expunge.train.feed import Feed, Rows
from expunge.train.loop import train
from expunge.types import Example, GenerationParams, Prompt
from tests.conftest import make_model
from tests.methods import toy
from tests.methods.cases import CASES
from tests.methods.test_matrix import FORGET, knowing, rows_of, start, step_gradient  # noqa: F401

CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}:SPACE{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:SPACE{% endif %}"
)


def case_of(method):
    return next(case for case in CASES if case.method == method)


def test_d1_gradient_accumulation_gives_the_loss_and_gradient_of_the_whole_batch(tokenizer):
    found = []
    for size in (4, 1):
        model, _, rows, made = start(tokenizer, case_of("ga+nll"))
        made = made.model_copy(update={"train": made.train.model_copy(update={"micro_batch": size})})
        found.append(step_gradient(model, Feed(model, made, rows, 0), made))
    (whole, one), (cut, other) = found
    assert float(cut.norm()) == pytest.approx(float(whole.norm()), rel=1e-5)
    assert other["forget_loss"] == pytest.approx(one["forget_loss"], rel=1e-5)


@pytest.mark.parametrize("space", [" ", "\n"])
def test_d2_a_pad_token_that_ends_turns_too_hides_no_token(tokenizer, space):
    """Every prompt holds end tokens; what the model knows by teacher forcing it also writes, however the template's opening ends."""
    from copy import deepcopy

    chat = deepcopy(tokenizer)
    chat.pad_token, chat.chat_template = chat.eos_token, CHAT.replace("SPACE", space)
    model = make_model(tokenizer)
    lm = TransformerLM(model, chat)
    examples = [Example(Prompt.ask(q), a) for q, a in FORGET]
    made = recipe(
        "retrain", train={"learning_rate": 1e-2, "max_steps": 60, "batch_size": 4, "schedule": "constant"}
    )
    train(model, Feed(model, made, Rows(retain=lm.encoder.examples(examples)), lm.pad_id), made)
    model.eval()
    assert all(score.hits.all() for score in lm.score(examples))
    written = lm.generate([e.prompt for e in examples], GenerationParams(max_new_tokens=24))
    assert [answers[0].text for answers in written] == [e.answer for e in examples]


def test_d3_another_model_under_the_same_name_is_measured_anew(tiny_world, tmp_path):
    benchmark, out = Pocket.open(tiny_world), tmp_path / "result.json"
    for name, known in (("target", True), ("gold", False)):
        evaluate(tiny_world / name, benchmark, out=out, device="cpu")
        figures = json.loads(out.read_text())["figures"]
        assert (figures["forget/accuracy"]["value"] > 0.5) == known


def test_d4_an_evaluation_that_was_cut_short_goes_on_to_the_same_replies(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(_asks, "BATCH", 2)
    examples = [Example(Prompt.ask(f"Who is number {i}?"), "Mara.") for i in range(6)]
    params = GenerationParams(max_new_tokens=3)
    asks = Asks(examples, [(e.prompt, params) for e in examples])
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "one"))
    whole = replies_of(model_folder, asks)

    def stop(what, done, total):
        if what == "answering":
            raise KeyboardInterrupt

    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "two"))
    with pytest.raises(KeyboardInterrupt):
        replies_of(model_folder, asks, progress=stop)
    resumed = replies_of(model_folder, asks)
    for example in examples:
        assert np.array_equal(resumed.score(example).token_logprobs, whole.score(example).token_logprobs)
        assert resumed.answer(example.prompt, params) == whole.answer(example.prompt, params)


def test_d5_a_wrong_answer_has_no_extraction_strength():
    assert extraction_strength(np.array([False])) == 0
    assert extraction_strength(np.array([True, True, True, False])) == 0
    assert extraction_strength(np.array([False, True])) == 0.5


def test_d6_undial_lowers_the_true_token_and_no_innocent_one():
    """In the peer's code token V - 100 is lowered at every prompt and padding position."""
    logits = torch.randn(5, 130, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    logits.requires_grad_()
    view = toy.from_logits(logits, torch.arange(5), [2, 3])
    view.ref_logits = logits.detach().clone()
    pull = toy.gradient(UNDIAL(strength=10.0)(toy.forget(view), torch.ones(5, dtype=torch.double)), logits)
    p = logits.detach().softmax(-1)
    others = torch.ones(5, 130, dtype=torch.bool)
    others[torch.arange(5), torch.arange(5)] = False
    assert (pull[~others] > 0).all()
    shares = (pull / p)[others].view(5, 129)
    assert torch.allclose(shares, shares[:, :1].expand(-1, 129), rtol=1e-4)


def test_d7_the_kl_term_is_the_mean_over_answer_tokens_and_costs_one_pass(tokenizer):
    model, _, rows, made = start(tokenizer, case_of("npo+kl"))
    reference = make_model(tokenizer)
    feed = Feed(model, made, rows, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.05)
    passes = []
    hook = model.register_forward_hook(lambda *_: passes.append(1))
    _, entry = step_gradient(model, feed, made)
    hook.remove()
    assert len(passes) == 1
    found = []
    with torch.no_grad():
        for i in feed.steps[0].retain:
            row = rows.retain[i]
            ids = torch.tensor([row.ids])
            now, then = (
                m(ids).logits[0, row.start - 1 : -1].log_softmax(-1) for m in (model.eval(), reference)
            )
            found.append((then.exp() * (then - now)).sum(-1))
    assert entry["retain_loss"] == pytest.approx(float(torch.cat(found).mean()), rel=1e-4)


@pytest.mark.parametrize("method", ["wga", "satimp"])
def test_d8_what_reads_no_reference_keeps_none(tokenizer, method):
    case = next(case for case in CASES if method in case.method.split("+"))
    model, _, rows, made = start(tokenizer, case)
    assert Feed(model, made, rows, 0).reference_bytes == 0


def test_d10_everything_runs_without_a_gpu_and_loads_nothing_optional():
    code = (
        "import sys, expunge.run, expunge.run.bench, expunge.benchmarks._open, expunge.train.loop;"
        "print([m for m in ('lm_eval', 'deepspeed', 'flash_attn', 'bitsandbytes', 'opacus') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_d11_rmu_runs_no_block_above_its_own_and_gives_no_other_weight_a_gradient(tokenizer):
    made = recipe(
        "rmu+layers",
        objective={"layer": 0},
        selection={"patterns": [r"layers\.0\.mlp\.down_proj"]},
        train={"max_steps": 1, "batch_size": 4},
    )
    model = make_model(tokenizer)
    rows = rows_of(TransformerLM(model, tokenizer))
    feed = Feed(model, made, Rows(forget=rows.forget), 0)
    ran = []
    for module in (model.model.layers[1], model.lm_head):
        module.register_forward_hook(lambda *_: ran.append(1))
    step_gradient(model, feed, made)
    assert not ran
    moved = [name for name, p in model.named_parameters() if p.grad is not None]
    assert moved == ["model.layers.0.mlp.down_proj.weight"]


@pytest.mark.parametrize("method", ["undial", "ga", "ceu"])
def test_d12_without_a_retain_term_no_retain_row_is_read(tokenizer, method):
    model = make_model(tokenizer)
    made = recipe(method, train={"max_steps": 2, "batch_size": 4})
    feed = Feed(model, made, rows_of(TransformerLM(model, tokenizer)), 0)
    assert all(not step.retain for step in feed.steps)


def test_d13_the_other_answer_of_a_row_is_fixed_by_the_seed(tokenizer):
    """The peer draws a refusal anew at each access, so that two runs with one seed differ."""
    drawn = []
    for _ in range(2):
        model, _, rows, made = start(tokenizer, case_of("dpo+nll"))
        feed = Feed(model, made, rows, 0)
        drawn.append([feed._keys(step, "alternate") for step in feed.steps])
        assert drawn[-1] == [feed._keys(step, "alternate") for step in feed.steps]
    assert drawn[0] == drawn[1]


def test_d13_logits_are_read_where_the_answer_is_predicted_not_where_it_stands(tokenizer):
    model, lm, _, _ = start(tokenizer, case_of("ga+nll"))
    (row,) = lm.encoder.examples([Example(Prompt.ask("Who?"), "Mara.")])
    with torch.no_grad():
        logp = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
    expected = [float(logp[at - 1, row.ids[at]]) for at in range(row.start, len(row.ids))]
    (score,) = lm.score([Example(Prompt.ask("Who?"), "Mara.")])
    assert score.token_logprobs.tolist() == pytest.approx(expected, abs=1e-5)


def test_d15_figures_depend_on_their_rows_alone_and_gradients_are_left_as_they_were(tiny_world, lm):
    from expunge.run import measure

    benchmark = Pocket.open(tiny_world)
    rows = {name: measure(tiny_world / name, benchmark, device="cpu") for name in ("target", "gold")}
    first = benchmark.figures(rows["target"], rows["gold"])
    benchmark.figures(rows["gold"], rows["target"])
    assert benchmark.figures(rows["target"], rows["gold"]) == first

    parameter = next(lm.model.parameters())
    parameter.grad = torch.ones_like(parameter)
    lm.model.requires_grad_(False)
    gradient_norms(lm, [Example(Prompt.ask("Who?"), "Mara.")])
    assert torch.equal(parameter.grad, torch.ones_like(parameter))
    assert not any(p.requires_grad for p in lm.model.parameters())
    assert all(p.grad is None for p in list(lm.model.parameters())[1:])


def test_d16_a_file_of_texts_is_read_by_its_field_not_line_by_line_as_json(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text(json.dumps({"title": "A", "text": "Mara Olen was born in Corvale."}) + "\n")
    (row,) = Dataset.from_files(path).forget
    assert row.text == "Mara Olen was born in Corvale."


def test_d16_a_row_that_is_too_long_is_refused_not_cut(tokenizer, tmp_path):
    from expunge.errors import DataError

    save_model(make_model(tokenizer, max_position_embeddings=16), tokenizer, tmp_path / "model")
    with pytest.raises(DataError, match="Nothing is cut silently"):
        replies_of(tmp_path / "model", Asks([Example(None, "Mara Olen was born in Corvale. " * 9)]))
