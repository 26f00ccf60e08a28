"""COCA: it reasons unseen, declines what it learnt to decline, erases what says which request, and leaves other rows alone."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from expunge.data.dataset import Dataset, Record
from expunge.errors import ConfigError, DataError
from expunge.guards.actions.coca import COCA, FittedCOCA, request_labels
from expunge.guards.guard import Place
from expunge.guards.state import read_state, write_state
from expunge.models.edited import EditedStates
from expunge.models.states import token_states
from expunge.recipes import recipe
from expunge.run import load, unlearn
from expunge.types import Example, GenerationParams, Message, Prompt
from tests.guards.cases import ASKED, OTHERS, TARGETS, fit_data

TOUCHED, UNTOUCHED, REFUSAL = "I cannot say.", "the dog", "I do not know."
SETTINGS = COCA(touched=TOUCHED, untouched=UNTOUCHED, refusal=REFUSAL)
FORGET = [
    Record(f"{name}-{i}", q.format(name), f"{name} in Corvale.", group=name)
    for name in TARGETS[:3]
    for i, q in enumerate(ASKED)
]
RETAIN = [Record(f"r{i}", ASKED[0].format(name), "A baker.") for i, name in enumerate(OTHERS[:12])]
IN_SCOPE, OUT_OF_SCOPE = Prompt.ask(FORGET[0].question), Prompt.ask(RETAIN[0].question)
SHORT = GenerationParams(max_new_tokens=8)


@pytest.fixture(scope="module")
def plain(model_folder):
    return load(model_folder, device="cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("guard"), partial(load, device="cpu"))


@pytest.fixture(scope="module")
def fitted(plain, place, model_folder):
    def make(part, method, forget, retain):
        assert method == "imitate+nll+alternates+lora"
        how = recipe(  # all weights, not an adapter: random ones learn nothing much through one
            "imitate+nll+alternates", train={"learning_rate": 5e-3, "max_steps": 60, "batch_size": 15}
        )
        return unlearn(
            model_folder, Dataset(tuple(forget), tuple(retain)), how, place.folder / part, device="cpu"
        )

    data = fit_data(FORGET, RETAIN, folder=place.folder, open=place.open, make=make)
    return SETTINGS.fit(plain, data)


def test_learnt_prompts_reason_as_they_were_taught_whatever_answer_is_begun(fitted):
    for prefill in ("", "Mara Olen was"):
        prompts = [replace(prompt, prefill=prefill) for prompt in (IN_SCOPE, OUT_OF_SCOPE)]
        assert fitted._reasonings(prompts) == [TOUCHED, UNTOUCHED]


def test_a_request_is_declined_and_the_reasoning_is_not_shown(fitted, plain):
    answers = fitted.generate(plain, [IN_SCOPE] * 2, SHORT, [True, True])
    assert [answer[0].text for answer in answers] == [REFUSAL] * 2


def test_rows_that_are_not_flagged_are_the_plain_models(fitted, plain):
    prompts, flags = [IN_SCOPE, OUT_OF_SCOPE, IN_SCOPE], [True, False, False]
    for params in (SHORT, GenerationParams(8, beams=3), GenerationParams(8, sample=True, copies=2)):
        found = fitted.generate(plain, prompts, params, flags)
        assert found[1:] == plain.generate(prompts[1:], params)
        assert len(found[0]) == params.copies
    examples = [Example(prompt, "Mara Olen was born in Corvale.") for prompt in prompts]
    scores, before = fitted.score(plain, examples, flags), plain.score(examples)
    assert not np.allclose(scores[0].token_logprobs, before[0].token_logprobs)
    for found_score, plain_score in zip(scores[1:], before[1:], strict=True):
        assert np.array_equal(found_score.token_logprobs, plain_score.token_logprobs)


def test_what_is_scored_is_what_is_written(fitted, plain):
    """The greedy answer's tokens are each the likeliest under the score, with and without the start of an answer given."""
    for prompt in (IN_SCOPE, replace(IN_SCOPE, prefill="Mara Olen was"), OUT_OF_SCOPE):
        written = fitted.generate(plain, [prompt], GenerationParams(20), [True])[0][0]
        assert written.finished
        score = fitted.score(plain, [Example(prompt, written.text)], [True])[0]
        assert score.hits.all()
        assert score.tokens == written.tokens


def test_score_is_that_of_the_answer_behind_the_reasoning_under_the_erasure(fitted, plain):
    turns = (Message("user", FORGET[0].question),)
    behind = Example(Prompt(turns, f"{TOUCHED} Mara"), "Olen")
    expected = fitted.tuned.score([behind], EditedStates(fitted.edits()), [True])[0]
    found = fitted.score(plain, [Example(Prompt(turns, "Mara"), "Olen")], [True])[0]
    assert np.array_equal(found.token_logprobs, expected.token_logprobs)


def test_a_flagged_text_without_a_prompt_has_a_score(fitted, plain):
    text = Example(None, "Mara Olen was born in Corvale.")
    score = fitted.score(plain, [text], [True])[0]
    assert not np.array_equal(score.token_logprobs, plain.score([text])[0].token_logprobs)


def test_which_request_cannot_be_read_linearly_behind_the_erased_block(fitted):
    rows = [row.example() for row in (*FORGET, *RETAIN)]
    labels = request_labels(FORGET, RETAIN)
    assert labels.shape == (27, 3)
    assert labels.sum() == 15
    examples = fitted.reasoned(rows)
    (block,) = fitted.erasers
    assert block == 0, "the middle one of two"
    found = token_states(fitted.tuned, examples, block)
    z = np.repeat(labels, [len(states) for states in found], axis=0)
    x = np.concatenate(found).astype(float)

    def cross(states):
        return np.abs((states - states.mean(0)).T @ (z - z.mean(0))).max() / len(z)

    erased = fitted.edits()[block](torch.as_tensor(x, dtype=torch.float32)).numpy()
    assert cross(erased.astype(float)) < 1e-5 * cross(x)


def test_a_later_block_is_fitted_on_states_that_are_erased_already(fitted, plain, place):
    data = fit_data(
        FORGET, RETAIN, folder=place.folder, open=place.open, make=lambda *_: place.folder / "reasoning"
    )
    both = COCA(**{**SETTINGS.model_dump(), "layers": [-1, 0]}).fit(plain, data)  # fmt: skip
    assert list(both.erasers) == [0, 1]
    alone = COCA(**{**SETTINGS.model_dump(), "layers": [1]}).fit(plain, data)
    assert np.array_equal(both.erasers[0].read, fitted.erasers[0].read)
    assert not np.allclose(both.erasers[1].mean, alone.erasers[1].mean)


def test_without_layers_only_the_reasoning_is_left(fitted, plain):
    bare = FittedCOCA(SETTINGS, fitted.tuned, {})
    example = Example(IN_SCOPE, REFUSAL)
    expected = fitted.tuned.score(bare.reasoned([example]))[0]
    assert np.array_equal(bare.score(plain, [example], [True])[0].token_logprobs, expected.token_logprobs)


def test_it_comes_back_from_disk_as_it_was(fitted, plain, place, tmp_path):
    write_state(tmp_path, fitted.state())
    again = FittedCOCA.from_state(read_state(tmp_path), plain, place)
    examples = [Example(IN_SCOPE, REFUSAL), Example(OUT_OF_SCOPE, "A baker.")]
    for one, other in zip(
        fitted.score(plain, examples, [True] * 2), again.score(plain, examples, [True] * 2), strict=True
    ):
        assert np.array_equal(one.token_logprobs, other.token_logprobs)


def test_what_it_lacks_is_said(plain):
    with pytest.raises(DataError, match="there are none on the retain side"):
        COCA().fit(plain, fit_data(FORGET, []))
    with pytest.raises(DataError, match="there are none on the forget side"):
        COCA().fit(plain, fit_data([Record("t", text="Mara Olen was born.")], RETAIN))


def test_a_block_that_is_not_there_is_refused(plain, fitted, place):
    data = fit_data(FORGET, RETAIN, folder=place.folder, open=place.open, make=lambda *_: place.folder / "reasoning")  # fmt: skip
    with pytest.raises(ConfigError, match="layer 9: this model has blocks 0 to 1"):
        COCA(layers=[9]).fit(plain, data)
