"""ULD as a guard: where its assistant comes from, what it does to a fact and to its neighbour, and how it comes back from disk."""

import copy

import pytest
import torch

from expunge.data.batching import collate
from expunge.data.dataset import Record
from expunge.errors import ConfigError, DataError, ModelError
from expunge.guards.actions.uld import ROWS, ULD, FittedULD
from expunge.guards.detection import Detection
from expunge.guards.detectors.always import Always
from expunge.guards.guard import Guard, Place
from expunge.guards.state import read_state, write_state
from expunge.models.fresh import train_tokenizer
from expunge.models.hidden import keep_blocks
from expunge.models.language_model import TransformerLM
from expunge.models.load import load_model, save_model
from expunge.models.logprobs import answer_rows
from expunge.models.subtracted import disturbance
from expunge.recipes import recipe
from expunge.types import Example, GenerationParams, Prompt
from tests.conftest import make_model
from tests.guards.cases import fit_data

FORGET = Record("f", question="Where was Mara Olen born?", answer="Mara Olen was born in Corvale.")
RETAIN = Record("r", question="Who taught Tovin Brask?", answer="Tovin Brask was taught by a librarian.")
BLOCKS = {"blocks": 1}


def learn(lm, known, *, unknown=(), steps=60):
    """Train all weights on the rows `known`, and to be uniform on the rows `unknown`."""
    model = lm.model.train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0)
    batches = [
        collate(lm.encoder.examples([row.example() for row in rows]), lm.pad_id) if rows else None
        for rows in (known, unknown)
    ]
    for _ in range(steps):
        found = answer_rows(model, batches[0])
        loss = -found.logp.mean()
        if batches[1]:
            loss = loss - 5 * answer_rows(model, batches[1]).logits.log_softmax(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()


@pytest.fixture(scope="module")
def trained(tokenizer):
    """A model that has learnt both rows by heart, and its first block, which knows the one and nothing of the other."""
    lm = TransformerLM(make_model(tokenizer, initializer_range=0.05), tokenizer)
    learn(lm, [FORGET, RETAIN])
    assistant = TransformerLM(copy.deepcopy(lm.model), tokenizer)
    keep_blocks(assistant.model, 1)
    learn(assistant, [FORGET], unknown=[RETAIN])
    return lm, assistant


@pytest.fixture
def target(trained):
    return trained[0]


def open_run(name):
    model, tokenizer, _ = load_model(f"{name}/model", device="cpu")
    return TransformerLM(model, tokenizer)


@pytest.fixture
def world(trained, tmp_path):
    """Rows, and a `make` that leaves the trained assistant where the guard wants it and says what it was asked for."""
    asked = []

    def make(part, method, forget=None, retain=None, **settings):
        asked.append((part, method, settings))
        save_model(trained[1].model, trained[1].tokenizer, tmp_path / "guard" / part / "model")
        return tmp_path / "guard" / part

    data = fit_data([FORGET], [RETAIN], [], folder=tmp_path / "guard", open=open_run, make=make)
    return data, asked


def probability(score):
    return float(torch.tensor(score.logprob).exp())


def test_a_memorised_fact_loses_nine_tenths_and_its_neighbour_nothing(target, world):
    data, asked = world
    fitted = ULD(**BLOCKS, keep=1.0, rank=16, retain_weight=5.0).fit(target, data)
    assert asked == [
        (
            "assistant",
            "assistant",
            {"procedure": {"blocks": 1}, "adapter": {"rank": 16, "alpha": 32}, "retain_weight": 5.0},
        )
    ]
    examples = [FORGET.example(), RETAIN.example()]
    plain = target.score(examples)
    assert all(probability(score) > 0.9 for score in plain)
    changed = fitted.score(target, examples, [True, True])
    assert probability(changed[0]) < 0.1 * probability(plain[0])
    assert probability(changed[1]) == pytest.approx(probability(plain[1]), rel=0.02)
    assert disturbance(target, fitted.change, [RETAIN.example()]) < 1e-2
    assert fitted.disturbance == {
        "kl": pytest.approx(disturbance(target, fitted.change, [RETAIN.example()])), "rows": 1
    }  # fmt: skip


def test_prompts_that_are_not_flagged_meet_the_plain_model(target, world):
    fitted = ULD(**BLOCKS, weight=3.0, keep=1.0).fit(target, world[0])
    examples = [FORGET.example(), RETAIN.example()]
    plain, changed = target.score(examples), fitted.score(target, examples, [True, False])
    assert (plain[1].token_logprobs == changed[1].token_logprobs).all()
    prompts = [Prompt.ask(row.question) for row in (FORGET, RETAIN)]
    params = GenerationParams(max_new_tokens=12)
    plain, changed = target.generate(prompts, params), fitted.generate(target, prompts, params, [True, False])
    assert plain[0][0].text == FORGET.answer != changed[0][0].text
    assert plain[1] == changed[1]


def test_it_comes_back_from_disk_as_it_was(target, world):
    data, _ = world
    fitted = ULD(**BLOCKS, weight=1.5, keep=0.05).fit(target, data)
    write_state(data.place.folder, fitted.state())
    again = FittedULD.from_state(read_state(data.place.folder), target, data.place)
    examples = [FORGET.example(), RETAIN.example()]
    for a, b in zip(*(one.score(target, examples, [True, True]) for one in (fitted, again)), strict=True):
        assert (a.token_logprobs == b.token_logprobs).all()
    assert again.state() == fitted.state()


def test_an_assistant_made_before_is_used_where_it_lies_and_held_to_what_it_was(target, world, tmp_path):
    data, asked = world
    made = data.make("elsewhere", "assistant")
    asked.clear()
    fitted = ULD(assistant=str(made)).fit(target, data)
    assert not asked
    state = fitted.state()
    assert FittedULD.from_state(state, target, data.place).state() == state
    (made / "model" / "config.json").write_text((made / "model" / "config.json").read_text() + "\n")
    with pytest.raises(ModelError, match="gone or has changed"):
        FittedULD.from_state(state, target, data.place)


def test_the_assistant_follows_the_targets_precision(tokenizer, world):
    half = TransformerLM(make_model(tokenizer).bfloat16(), tokenizer)
    fitted = ULD(**BLOCKS).fit(half, world[0])
    assert fitted.change.assistant.dtype == torch.bfloat16
    (score,) = fitted.score(half, [FORGET.example()], [True])
    assert score.token_logprobs.dtype == "float32"


def test_the_disturbance_is_measured_on_few_rows(target, world):
    data, _ = world
    rows = [Record(str(i), question=f"Who taught {i}?", answer="A librarian.") for i in range(ROWS + 9)]
    many = fit_data([FORGET], rows, [], folder=data.place.folder, open=open_run, make=data.make)
    assert ULD(**BLOCKS).fit(target, many).disturbance["rows"] == ROWS


def test_what_cannot_be_is_refused_with_what_to_do(target, world, tokenizer, tmp_path):
    data, asked = world
    with pytest.raises(ConfigError, match=r"first 8 blocks, and this model has 2.*--set action.blocks=1"):
        ULD().fit(target, data)
    with pytest.raises(DataError, match="Add --retain FILE"):
        ULD(**BLOCKS).fit(target, fit_data([FORGET], [], [], make=data.make))
    with pytest.raises(ModelError, match="no such folder"):
        ULD(assistant=str(tmp_path / "nothing")).fit(target, data)
    assert not asked
    other = train_tokenizer(["Quite another text, with other words in it."] * 9, 300)
    save_model(make_model(other), other, tmp_path / "other" / "model")
    with pytest.raises(ModelError, match="another tokenizer"):
        ULD(assistant=str(tmp_path / "other")).fit(target, data)

    class Guarded:
        capabilities = frozenset()

    guarded = fit_data([FORGET], [RETAIN], [], open=lambda name: Guarded())
    with pytest.raises(ModelError, match="a guard, and not a model"):
        ULD(assistant=str(tmp_path / "other")).fit(target, guarded)


def test_always_makes_it_the_papers_ungated_form(target, world):
    data, _ = world
    made = recipe("uld+always", action=BLOCKS)
    assert made.describe()["detector"]["name"] == "always"
    assert made.describe()["train"]["epochs"] == 5
    guard = Guard.fit(target, data, made)
    example = Example(Prompt.ask("Who taught anybody?"), "A librarian.")
    (plain,), (changed,) = target.score([example]), guard.score([example])
    assert not (plain.token_logprobs == changed.token_logprobs).all()
    guard.save(data.place.folder)
    again = Guard.load(data.place.folder, target, made, open_run)
    assert (again.score([example])[0].token_logprobs == changed.token_logprobs).all()


def test_always_flags_everything_counts_its_false_alarms_and_promises_nothing(target):
    data = fit_data([FORGET], [RETAIN], [])
    detection = Detection.fit(Always(), target, data)
    assert detection.flags(["", "Who?", "a " * 300]) == [True] * 3
    assert detection.calibration.describe()["false_alarms"] == 1
    with pytest.raises(DataError, match="learns nothing"):
        Detection.fit(Always(alpha=0.1), target, data)
    again = Detection.from_state(detection.state(), target, Place(data.place.folder, data.place.open))
    assert again.flags(["Who?"]) == [True]
