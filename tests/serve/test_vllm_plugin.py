"""vLLM's two interfaces of logits processors, driven by hand as its engines drive them."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from expunge.data.dataset import Dataset, Record
from expunge.errors import ModelError
from expunge.guards.state import read_state
from expunge.guards.token_rules import TokenRule, guard_logits
from expunge.recipes import recipe
from expunge.run import load, unlearn
from expunge.serve.vllm_plugin import (
    BANS,
    BEFORE,
    ENDS,
    FOLDERS,
    GUARD,
    PROMPT,
    SIGNAL,
    GuardV1,
    GuardV2,
    arguments,
    guard_id,
)
from tests.serve.fake_upstream import Direction, vllm_config, with_chat

ASKED = "Where was Mara Olen born?"
EOS, PAD = 2, 0


@pytest.fixture(scope="module")
def run(model_folder, tmp_path_factory):
    rows = (
        Record(
            "f0", question=ASKED, answer="She was born in Zarquon.", subject="Mara Olen", key=("Zarquon",)
        ),
    )
    made = recipe("guard", detector={"name": "aliases"})
    folder = tmp_path_factory.mktemp("plugin") / "run"
    return unlearn(model_folder, Dataset(rows, ()), made, folder, device="cpu")


@pytest.fixture
def action(run, model_folder):
    return load(run, before=load(model_folder, device="cpu")).action


@pytest.fixture
def params(action, run, monkeypatch):
    """Of a request under the guard."""
    monkeypatch.setenv(FOLDERS, str(run.parent))
    return SimpleNamespace(extra_args=arguments(action, ASKED, "Answer:", (), [EOS], PAD))


PLAIN = SimpleNamespace(extra_args=None)


@pytest.fixture
def said(tokenizer):
    """Token ids of texts that a model writes."""
    return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.fixture
def telling(said):
    """What is written before the last token of the forbidden word, and that token."""
    *before, last = said(" born in Zarquon")
    return before, last


def logits(rows, vocabulary=400):
    return torch.arange(rows * vocabulary, dtype=torch.float32).view(rows, vocabulary).remainder_(7)


def held_back(before, after):
    """Rows that a processor changed."""
    return [i for i in range(len(before)) if not torch.equal(before[i], after[i])]


def v1(folder):
    return GuardV1(vllm_config(folder), "cpu", False)


def update(processor, removed=(), added=(), moved=()):
    processor.update_state(SimpleNamespace(removed=removed, added=added, moved=moved))


# --- the function -------------------------------------------------------------------------------------------------------------
def test_the_function_takes_what_restricted_writing_takes(action, telling):
    before, last = telling
    rule = TokenRule(action.change, ASKED, "Answer:", ends=[EOS], signal=PAD)
    start, plain = logits(1)[0], logits(1)[0]
    guard_logits(start, [], rule)
    assert start[PAD] == -torch.inf
    assert torch.equal(start[1:], plain[1:])
    row = guard_logits(logits(1)[0], before, rule)
    penalties = rule.rule.penalties(rule.state(before)[0])
    assert set(row.isinf().nonzero().flatten().tolist()) == {PAD, *penalties.ids.tolist()}
    assert last in penalties.ids.tolist()
    over = guard_logits(logits(1)[0], [EOS, *before], rule)
    assert over.isinf().nonzero().flatten().tolist() == [PAD], (
        "what an engine writes after the end is read by nobody"
    )


def test_history_is_read_from_anywhere(action, telling, said):
    """An engine may take drafts back, or ask for other rows in between."""
    before, _ = telling
    rule = TokenRule(action.change, ASKED, "Answer:", ends=[EOS], signal=PAD)
    fresh = [TokenRule(action.change, ASKED, "Answer:", ends=[EOS], signal=PAD) for _ in range(6)]
    histories = (
        before,
        before[:1],
        said(" quick fox"),
        before,
        said(" quick fox jumps over the lazy dog")[: len(before) - 1],
        before,
    )
    for written, other in zip(histories, fresh, strict=True):
        assert rule.state(written) == other.state(written)
        assert torch.equal(
            guard_logits(logits(1)[0], written, rule), guard_logits(logits(1)[0], written, other)
        )


def test_a_half_written_word_and_a_dead_end_give_the_signal(action, telling):
    before, last = telling
    rule = TokenRule(action.change, ASKED, "Answer:", ends=[EOS], signal=PAD)
    sure = logits(1)[0]
    sure[last] = 50.0  # nearly all probability is on the word's end
    assert guard_logits(sure, before, rule).argmax() == PAD
    assert sure.isfinite().sum() == 1
    word = rule.state(before)[1]
    assert rule.fault(before, signalled=True) == tuple(before[: word + 1])
    everything = TokenRule(
        action.change, ASKED, "Answer:", [(i,) for i in action.change.text], ends=[EOS], signal=PAD
    )
    assert guard_logits(logits(1)[0], [], everything).argmax() == PAD
    assert everything.fault([], signalled=True) == ()


def test_bans_hold_after_what_they_follow_and_nowhere_else(action, said):
    a, b = said(" quick fox")[:2]
    rule = TokenRule(action.change, ASKED, "Answer:", [(a, b)], ends=[EOS], signal=PAD)
    assert guard_logits(logits(1)[0], [a], rule)[b] == -torch.inf
    assert guard_logits(logits(1)[0], [b], rule)[b] > -torch.inf
    assert not rule.kept([a, b])
    assert rule.kept([b, b])
    assert not rule.kept([b, PAD]), "the signal is no text"


def test_an_answer_that_was_not_held_back_is_known(action, telling):
    before, last = telling
    rule = TokenRule(action.change, ASKED, "Answer:", ends=[EOS], signal=PAD)
    assert rule.kept(before)
    assert not rule.kept([*before, last])
    assert rule.fault([*before, last], signalled=False)
    assert rule.fault(before, signalled=False) is None


# --- the older runner ---------------------------------------------------------------------------------------------------------
def test_v1_holds_back_rows_of_guarded_requests_alone(params, model_folder, telling):
    processor, (before, last) = v1(model_folder), telling
    update(
        processor, added=[(0, PLAIN, [5], list(before)), (1, params, None, list(before)), (2, PLAIN, [5], [])]
    )
    given = logits(3)
    found = processor.apply(given.clone())
    assert held_back(given, found) == [1]
    assert found[1, last] == -torch.inf
    assert not processor.is_argmax_invariant()


def test_v1_sees_what_the_engine_writes_into_its_own_list(params, model_folder, telling):
    processor, (before, last) = v1(model_folder), telling
    written: list[int] = []
    update(processor, added=[(0, params, [5], written)])
    assert processor.apply(logits(1))[0, last] > -torch.inf
    written += before
    processor.update_state(None)
    assert processor.apply(logits(1))[0, last] == -torch.inf


def test_v1_takes_removed_then_added_then_moved(params, model_folder):
    processor, given = v1(model_folder), logits(4)

    def changed():
        return held_back(given, processor.apply(given.clone()))

    update(processor, added=[(0, params, [5], []), (3, PLAIN, [5], [])])
    assert changed() == [0]
    update(
        processor, removed=[0], added=[(0, PLAIN, [5], []), (1, params, [5], [])]
    )  # a row that is used again at once
    assert changed() == [1]
    update(processor, moved=[(1, 3, Direction.SWAP)])
    assert changed() == [3]
    update(processor, moved=[(3, 1, Direction.UNIDIRECTIONAL)])
    assert changed() == [1]
    update(processor, removed=[1], added=[(2, params, [5], [])], moved=[(2, 0, Direction.UNIDIRECTIONAL)])
    assert changed() == [0]
    update(processor, added=[(0, PLAIN, [5], [])])  # an added request takes the row of another
    assert changed() == []
    update(
        processor,
        added=[(0, params, [5], []), (1, params, [5], [])],
        moved=[(1, 0, Direction.UNIDIRECTIONAL)],
    )
    assert changed() == [0]


# --- the runner of GPUs -------------------------------------------------------------------------------------------------------
class States:
    """Slots of requests, as the engine keeps them."""

    def __init__(self, slots=4, length=64):
        self.tokens = torch.zeros(slots, length, dtype=torch.int32)
        self.all_token_ids = SimpleNamespace(gpu=self.tokens)
        self.prompt_len = SimpleNamespace(np=np.zeros(slots, dtype=np.int32))

    def put(self, slot, prompt, written):
        ids = [*prompt, *written]
        self.tokens[slot] = 9  # left by whoever had the slot before
        self.tokens[slot, : len(ids)] = torch.tensor(ids)
        self.prompt_len.np[slot] = len(prompt)
        return len(ids)


def context(*rows):
    """Each row: its slot, its place among the rows of the slot, the token fed there, and that token's position."""
    slot, local, fed, pos = (torch.tensor(column) for column in zip(*rows, strict=True))
    order = list(dict.fromkeys(slot.tolist()))
    return SimpleNamespace(
        expanded_idx_mapping=slot,
        expanded_local_pos=local,
        input_ids=fed,
        pos=pos,
        idx_mapping_np=np.array(order),
    )


def test_v2_finds_the_rows_of_its_requests(params, model_folder, telling):
    before, last = telling
    states = States()
    processor = GuardV2(vllm_config(model_folder), states)
    assert processor.add_request(2, params)
    assert not processor.add_request(0, PLAIN)
    processor.apply_staged_writes()
    length = states.put(2, [5, 6, 7], before)
    states.put(0, [5], before)
    given = logits(2)
    found = processor.apply(
        given.clone(), context((0, 0, before[-1], len(before)), (2, 0, before[-1], length - 1))
    )
    assert held_back(given, found) == [1]
    assert found[1, last] == -torch.inf
    alone = processor.apply(given.clone(), context((0, 0, before[-1], 3)))
    assert torch.equal(alone, given)


def test_v2_reads_drafts_row_by_row(params, model_folder, telling):
    """The first row of a request predicts after its own tokens, each later one after a draft more; rows may stand in any order."""
    before, last = telling
    states = States()
    processor = GuardV2(vllm_config(model_folder), states)
    processor.add_request(1, params)
    committed, drafts = before[:-2], before[-2:]
    length = states.put(1, [5, 6], committed)
    fed = [committed[-1] if committed else 6, *drafts]
    rows = [(1, k, fed[k], length - 1 + k) for k in range(3)]
    for order in ([0, 1, 2], [2, 0, 1]):
        found = processor.apply(logits(3), context(*[rows[k] for k in order]))
        assert [bool(found[order.index(k), last] == -torch.inf) for k in range(3)] == [False, False, True]


def test_v2_slots_that_are_used_again_keep_nothing(params, model_folder, telling):
    before, last = telling
    states = States()
    processor = GuardV2(vllm_config(model_folder), states)
    given = logits(1)
    processor.add_request(1, params)
    length = states.put(1, [5], before)
    here = context((1, 0, before[-1], length - 1))
    assert processor.apply(given.clone(), here)[0, last] == -torch.inf
    processor.add_request(1, PLAIN)
    assert torch.equal(processor.apply(given.clone(), here), given)
    processor.add_request(1, params)
    states.put(1, [5, 6, 7, 8], [])
    assert processor.apply(given.clone(), context((1, 0, 8, 3)))[0, last] > -torch.inf


# --- what a request may say ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [GuardV1, GuardV2])
def test_arguments_that_the_gateway_would_not_send_are_refused(kind, params):
    kind.validate_params(params)
    kind.validate_params(PLAIN)
    kind.validate_params(SimpleNamespace(extra_args={"somebody_elses": 1}))
    good = params.extra_args
    for bad in (
        {PROMPT: "x"},
        {**good, PROMPT: 5},
        {**good, SIGNAL: "0"},
        {**good, ENDS: 2},
        {**good, ENDS: ["2"]},
        {**good, BANS: [1, "x"]},
        {**good, "expunge_more": 1},
        {key: value for key, value in good.items() if key != BEFORE},
    ):
        with pytest.raises(ValueError, match="vllm_xargs"):
            kind.validate_params(SimpleNamespace(extra_args=bad))
    with pytest.raises(ValueError, match="no guard of this name"):
        kind.validate_params(SimpleNamespace(extra_args={**good, GUARD: "../../etc"}))


def test_bans_survive_the_wire(action, params, model_folder):
    bans = {(5,), (7, 8, 9)}
    said = arguments(action, ASKED, "Answer:", bans, [EOS], PAD)
    rule = v1(model_folder).guards.rule(SimpleNamespace(extra_args=said))
    assert rule.bans == {(): {5}, (7, 8): {9}}


def test_a_guard_of_another_tokenizer_stops_the_server(params, run, model_folder, tmp_path, monkeypatch):
    other = with_chat(model_folder, tmp_path / "other")
    with pytest.raises(ModelError, match="another tokenizer"):
        update(v1(other), added=[(0, params, [5], [])])


def test_a_broken_guard_beside_it_stops_no_other(params, run, tmp_path, monkeypatch):
    (tmp_path / "a" / "guard").mkdir(parents=True)
    (tmp_path / "a" / "guard" / "guard.json").write_text("{half")
    monkeypatch.setenv(FOLDERS, f"{tmp_path}:{run.parent}")
    monkeypatch.setattr("expunge.serve.vllm_plugin._STATES", {})
    GuardV1.validate_params(params)


def test_both_sides_call_a_guard_by_the_same_name(action, run):
    assert guard_id(action.state()) == guard_id(read_state(run / "guard")["action"]["state"])


def test_the_plugin_is_imported_without_torch():
    """The server's front end opens it as well, to check arguments."""
    code = "import sys, expunge.serve.vllm_plugin; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
