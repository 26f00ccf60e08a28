"""L1 and L2: unflagged rows are bit-identical to the plain model, and no flagged row runs clean, however generation is driven.

What each forward feeds into the first layer is recorded and compared, token by token and row by row, with what the rule
demands.
"""

import re
import threading

import pytest
import torch
from transformers import TextStreamer

from expunge.data.batching import collate
from expunge.guards.actions.eco import ECO, FittedECO
from expunge.guards.target_names import TargetNames
from expunge.models.corrupted import CorruptedInputs, corrupted_inputs, prompt_enters
from expunge.models.kv_cache import cache_name
from expunge.models.language_model import TransformerLM
from expunge.types import Example, GenerationParams, Prompt
from tests.conftest import make_model

ASKED = [
    "Where was Mara Olen born?",
    "What did the father of Tovin Brask do?",
    "Who taught Mara Olen and Tovin Brask in Corvale?",
]
FLAGGED = [True, False, True]
NAMES = ["Mara Olen", "lazy dog", "quick"]


@pytest.fixture
def guard(lm):
    return FittedECO(ECO(), TargetNames(NAMES), lm, 3.0, 0, [])


@pytest.fixture
def prompts(lm):
    return lm.encoder.prompts([Prompt.ask(text) for text in ASKED])


def shell_of(lm, guard, prompts, flagged=FLAGGED, side="left"):
    batch = collate(prompts, 0, side=side)
    entering = [
        prompt_enters(guard, row) if flag else None for row, flag in zip(prompts, flagged, strict=True)
    ]
    return corrupted_inputs(lm.model, batch, entering, guard), batch


class FirstLayer:
    """Records the hidden states that enter the first layer, forward by forward."""

    def __init__(self, model):
        self.seen = []
        self.handle = model.model.layers[0].register_forward_pre_hook(
            lambda module, args, kwargs: self.seen.append(
                (args[0] if args else kwargs["hidden_states"]).detach().clone()
            ),
            with_kwargs=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.handle.remove()

    def inputs(self):
        """[rows, all tokens fed, hidden]; valid where every forward feeds new tokens of the same rows."""
        return torch.cat(self.seen, dim=1)


def expected_inputs(lm, guard, prompts, batch, sequences, copies):
    """What the rule demands for whole sequences: clean rows clean, names of flagged rows corrupted wherever they stand."""
    table = lm.model.get_input_embeddings()
    width = batch.ids.shape[1]
    with torch.no_grad():
        clean = table(sequences)
        found = clean.clone()
        for row in range(len(sequences)):
            prompt = row // copies
            if not FLAGGED[prompt]:
                continue
            mask = torch.zeros(sequences.shape[1], dtype=torch.bool)
            mask[:width][batch.attention[prompt].bool()] = torch.from_numpy(
                guard.prompt_mask(prompts[prompt])
            )
            mask[width:] = torch.from_numpy(guard.written_mask(sequences[row, width:].tolist(), 0))
            found[row][mask] = guard.apply(clean[row][mask], sequences[row][mask].tolist())
    return found


def generate(model, batch, **options):
    settings = dict(max_new_tokens=10, do_sample=False, pad_token_id=0, eos_token_id=None, **options)
    with torch.no_grad():
        return model.generate(batch.ids, attention_mask=batch.attention, **settings)


@pytest.mark.parametrize("copies", [1, 3])
def test_sampled_copies_follow_their_prompt_token_by_token(lm, guard, prompts, copies):
    shell, batch = shell_of(lm, guard, prompts)
    with FirstLayer(lm.model) as layer:
        torch.manual_seed(1)
        with torch.no_grad():
            out = shell.generate(
                batch.ids,
                attention_mask=batch.attention,
                max_new_tokens=60,
                do_sample=True,
                num_return_sequences=copies,
                pad_token_id=0,
                eos_token_id=None,
            )
    fed = layer.inputs()
    expected = expected_inputs(lm, guard, prompts, batch, out[:, :-1], copies)
    assert torch.equal(fed, expected)
    written = out[:, batch.ids.shape[1] :]
    masked = [
        guard.written_mask(row.tolist(), 0).any()
        for row, flag in zip(written, torch.tensor(FLAGGED).repeat_interleave(copies), strict=True)
        if flag
    ]
    assert any(masked), "no target name was written, so this run shows nothing about written names"


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_unflagged_rows_are_bit_identical_on_both_padding_sides(lm, guard, prompts, side):
    shell, batch = shell_of(lm, guard, prompts, side=side)
    options = dict(return_dict_in_generate=True, output_logits=True)
    plain, guarded = generate(lm.model, batch, **options), generate(shell, batch, **options)
    for a, b in zip(plain.logits, guarded.logits, strict=True):
        assert torch.equal(a[1], b[1])
    assert torch.equal(plain.sequences[1], guarded.sequences[1])
    for row in (0, 2):
        assert not torch.equal(plain.logits[0][row], guarded.logits[0][row])


def test_unflagged_rows_keep_their_beams_and_samples(lm, guard, prompts):
    shell, batch = shell_of(lm, guard, prompts)
    for options in (dict(num_beams=3, num_return_sequences=2), dict(num_beams=4)):
        n = options.get("num_return_sequences", 1)
        plain, guarded = generate(lm.model, batch, **options), generate(shell, batch, **options)
        assert torch.equal(plain[n : 2 * n], guarded[n : 2 * n])
    found = []
    for model in (lm.model, shell):
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(
                model.generate(
                    batch.ids,
                    attention_mask=batch.attention,
                    max_new_tokens=10,
                    do_sample=True,
                    pad_token_id=0,
                    eos_token_id=None,
                )[1]
            )
    assert torch.equal(*found)


def test_beams_of_flagged_rows_are_corrupted_and_never_those_of_their_neighbours(lm, guard, prompts):
    """Every vector that enters the first layer is either the clean or the corrupted form of its token; in unflagged beams
    all are clean, in flagged prompts no target name is."""
    shell, batch = shell_of(lm, guard, prompts)
    table = lm.model.get_input_embeddings().weight.detach()
    with FirstLayer(lm.model) as layer:
        generate(shell, batch, num_beams=3)
    prefill = layer.seen[0]
    assert prefill.shape[0] == 9
    for row in range(9):
        ids = batch.ids[row // 3]
        same = (prefill[row] == table[ids]).all(-1)
        mask = torch.zeros(len(ids), dtype=torch.bool)
        if FLAGGED[row // 3]:
            mask[batch.attention[row // 3].bool()] = torch.from_numpy(guard.prompt_mask(prompts[row // 3]))
            assert mask.any()
        assert torch.equal(~same, mask)
    for step in layer.seen[1:]:
        clean = (step[3:6, 0, None] == table[None]).all(-1).any(-1)
        assert clean.all()


@pytest.mark.parametrize("options", [{"prefill_chunk_size": 3}, {"use_cache": False}])
def test_chunked_prefill_and_no_cache_give_the_same_answers(lm, guard, prompts, options):
    shell, batch = shell_of(lm, guard, prompts)
    assert torch.equal(generate(shell, batch), generate(shell, batch, **options))


def test_assisted_decoding_gives_the_same_answer(lm, guard, tokenizer):
    """The assistant drafts from the clean prompt; every token is still the corrupted model's choice."""
    (row,) = lm.encoder.prompts([Prompt.ask(ASKED[0])])
    shell, batch = shell_of(lm, guard, [row], [True])
    assistant = make_model(tokenizer)
    plain = generate(shell, batch)
    assert torch.equal(generate(shell, batch, assistant_model=assistant), plain)
    assert torch.equal(generate(shell, batch, prompt_lookup_num_tokens=3), plain)
    assert not torch.equal(plain, generate(lm.model, batch))


def test_a_cache_from_an_earlier_turn_is_gone_on_from_correctly(lm, guard, prompts):
    """The second turn feeds only new tokens; their positions decide, not their place in the block."""
    text = ASKED[0] + "\nAnswer: in Corvale\nQuestion: " + ASKED[2]
    (first,) = lm.encoder.prompts([Prompt.ask(ASKED[0])])
    (both,) = lm.encoder.prompts([Prompt.ask(text)])
    shell, batch = shell_of(lm, guard, [first], [True])
    turn = generate(shell, batch, return_dict_in_generate=True)
    cache = turn[cache_name()]
    common = len(first.ids)
    assert both.ids[:common] == first.ids
    cache.crop(common - cache.get_seq_length())
    shell, batch = shell_of(lm, guard, [both], [True])
    with FirstLayer(lm.model) as layer:
        reused = generate(shell, batch, **{cache_name(): cache})
    assert layer.seen[0].shape[1] == len(both.ids) - common
    assert torch.equal(reused, generate(shell, batch))


def test_streaming_tells_the_same_text(lm, guard, capsys):
    (row,) = lm.encoder.prompts([Prompt.ask(ASKED[0])])
    shell, batch = shell_of(lm, guard, [row], [True])
    out = generate(shell, batch, streamer=TextStreamer(lm.tokenizer, skip_prompt=True))
    assert capsys.readouterr().out.strip() == lm.tokenizer.decode(out[0, batch.ids.shape[1] :]).strip()


def test_threads_with_different_guards_do_not_meet(lm, prompts):
    """Two guards and the plain model at once, over the same weights."""
    guards = [FittedECO(ECO(), TargetNames([name]), lm, 3.0, 0, []) for name in ("Mara Olen", "Tovin Brask")]
    jobs = [
        *(shell_of(lm, g, prompts, [True] * 3) for g in guards),
        (lm.model, collate(prompts, 0, side="left")),
    ]
    alone = [generate(model, batch) for model, batch in jobs]
    found = [[] for _ in jobs]

    def work(i):
        for _ in range(5):
            found[i].append(generate(*jobs[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, expected in zip(found, alone, strict=True):
        assert len(results) == 5
        assert all(torch.equal(result, expected) for result in results)
    assert not torch.equal(alone[0], alone[1])


def test_a_prompt_of_one_token_is_not_let_through(lm, guard):
    lm.encoder.template = "raw"
    (row,) = lm.encoder.prompts([Prompt.ask(" Mara")])
    row = row._replace(ids=row.ids[1:], offsets=row.offsets[1:], start=1)  # not even a start token
    assert len(row.ids) == 1
    shell, batch = shell_of(lm, guard, [row], [True])
    with FirstLayer(lm.model) as layer:
        generate(shell, batch)
    table = lm.model.get_input_embeddings().weight
    assert not torch.equal(layer.seen[0][0, 0], table[row.ids[0]])


def test_the_plain_model_is_untouched_before_during_and_after(lm, guard, prompts):
    batch = collate(prompts, 0, side="left")
    before = generate(lm.model, batch)
    shell, _ = shell_of(lm, guard, prompts)
    generate(shell, batch)
    assert torch.equal(generate(lm.model, batch), before)
    assert "prepare_inputs_for_generation" not in vars(lm.model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())
    out = generate(shell, batch, return_dict_in_generate=True, output_hidden_states=True)
    assert len(out.hidden_states[0]) == 3


def test_scores_of_unflagged_examples_are_bit_identical_in_mixed_lists(lm, guard):
    examples = [
        Example(Prompt.ask(q), a)
        for q in ASKED
        for a in ("Mara Olen was born in Corvale.", "He worked as a baker.")
    ]
    flagged = [flag for flag in FLAGGED for _ in range(2)]
    plain, guarded = lm.score(examples), lm.score(examples, CorruptedInputs(guard), flagged)
    for a, b, flag in zip(plain, guarded, flagged, strict=True):
        assert (a.token_logprobs == b.token_logprobs).all() != flag


def test_what_is_scored_is_what_is_written(lm):
    """The guard's greedy answer, scored by the guard: every token is its own likeliest one, with the written names corrupted.

    The targets are words that this model likes to write.
    """
    plain = lm.generate([Prompt.ask(q) for q in ASKED], GenerationParams(max_new_tokens=10))
    liked = [word for (answer,) in plain for word in re.findall(r"[a-z]{2,}", answer.text.casefold())]
    weak = FittedECO(ECO(), TargetNames(liked), lm, 0.05, 0, [])
    shown = False
    for question in ASKED:
        prompt = Prompt.ask(question)
        (row,) = lm.encoder.prompts([prompt])
        shell, batch = shell_of(lm, weak, [row], [True])
        out = generate(shell, batch, return_dict_in_generate=True, output_logits=True)
        ids = out.sequences[0, batch.ids.shape[1] :].tolist()
        logp = [step[0].log_softmax(-1)[token].item() for step, token in zip(out.logits, ids, strict=True)]
        from expunge.data.tokenize import Encoded
        from expunge.models.intervention import Asked
        from expunge.models.tree import build_tree

        whole = Encoded([*row.ids, *ids], row.start, row.text, [*row.offsets, *[(0, 0)] * len(ids)], row.head)
        change = CorruptedInputs(weak)
        (score,) = lm._score_trees(
            [build_tree([(whole.ids, whole.start, change.enters(whole))])],
            [Asked(whole, question, True)],
            change,
            packed=True,
        )[0]
        assert score.hits.all()
        assert score.token_logprobs.tolist() == pytest.approx(logp, abs=1e-4)
        shown |= bool(weak.written_mask(ids, 0).any())
    assert shown, "no target name was written, so this run shows nothing about written names"


def test_an_overlong_prompt_is_refused_not_cut(lm, guard):
    from expunge.errors import DataError

    with pytest.raises(DataError, match="Nothing is cut silently"):
        lm.generate(
            [Prompt.ask("Where was Mara Olen born? " * 60)],
            GenerationParams(),
            CorruptedInputs(guard),
            [True],
        )


def test_guards_work_on_a_mixture_of_experts(tokenizer):
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, pad_token_id=0,
        max_position_embeddings=128, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    lm = TransformerLM(Qwen3MoeForCausalLM(config).eval(), tokenizer)
    guard = FittedECO(ECO(), TargetNames(NAMES), lm, 3.0, 0, [])
    shell, batch = shell_of(lm, guard, lm.encoder.prompts([Prompt.ask(text) for text in ASKED]))
    assert torch.equal(generate(lm.model, batch)[1], generate(shell, batch)[1])


@pytest.mark.parametrize("kind", ["reverse", "shuffle"])
def test_a_reordering_is_the_same_as_asking_with_the_tokens_in_that_order(lm, kind):
    """An independent way to the same answer: the plain model with the moved token ids."""
    guard = FittedECO(ECO(corruption=kind, tokens="prompt"), TargetNames(["nobody"]), lm, 0.0, 0, [])
    (row,) = lm.encoder.prompts([Prompt.ask(ASKED[0])])
    shell, batch = shell_of(lm, guard, [row], [True])
    moved = torch.tensor([guard.entering(row, guard.prompt_mask(row))])
    assert not torch.equal(moved, batch.ids)
    assert sorted(moved[0].tolist()) == sorted(row.ids)
    expected = generate(lm.model, batch._replace(ids=moved))
    start = len(row.ids)
    assert torch.equal(generate(shell, batch)[:, start:], expected[:, start:])
