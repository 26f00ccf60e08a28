"""The likelihood ratio: trained prompts stand out, an adapter that is off scores exactly 0, and parts add up."""

import math
from functools import partial

import numpy as np
import pytest

from expunge.data.dataset import Dataset
from expunge.errors import DataError
from expunge.guards.detection import Detection
from expunge.guards.detectors.likelihood_ratio import FittedLikelihoodRatio, LikelihoodRatio
from expunge.guards.guard import Place
from expunge.models.language_model import TransformerLM
from expunge.recipes import recipe
from expunge.run import load, unlearn
from expunge.types import Score
from tests.conftest import TEXTS
from tests.guards.cases import FORGET, RETAIN, fit_data

QUICK = LikelihoodRatio(learning_rate=1e-2, epochs=10)


@pytest.fixture(scope="module")
def plain(model_folder):
    return load(model_folder, device="cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("guard"), partial(load, device="cpu"))


@pytest.fixture(scope="module")
def data(model_folder, place):
    def make(part, method, forget, retain, **settings):
        rows = Dataset(tuple(forget), tuple(retain))
        return unlearn(model_folder, rows, recipe(method, **settings), place.folder / part, device="cpu")

    return fit_data(folder=place.folder, open=place.open, make=make)


@pytest.fixture(scope="module")
def fitted(plain, data):
    return QUICK.fit(plain, data)


def test_trained_prompts_score_above_others_in_at_least_95_of_100(fitted):
    rng, words = np.random.default_rng(0), " ".join(TEXTS).split()
    random = [" ".join(rng.choice(words, 6)) for _ in range(100)]
    trained, others, namesakes = (fitted.scores(texts) for texts in (FORGET, random, RETAIN))
    assert (trained[:, None] > others).mean() >= 0.95
    assert (trained[:, None] > namesakes).mean() >= 0.8, (
        "the same questions about people who share half a name"
    )


def test_with_the_adapter_off_the_score_is_exactly_zero(fitted, plain):
    from peft.tuners.lora import LoraLayer

    layers = [module for module in fitted.tuned.model.modules() if isinstance(module, LoraLayer)]
    assert layers
    assert fitted.scores(FORGET[:3]).min() > 0.1
    for layer in layers:
        layer.enable_adapters(False)
    assert (fitted.scores(FORGET + RETAIN[:20]) == 0).all()
    for layer in layers:
        layer.enable_adapters(True)


def test_it_is_the_mean_over_predicted_tokens_and_no_end_token(fitted, plain):
    import torch

    text = FORGET[0]
    ids = plain.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        both = [
            lm.model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0].double()
            for lm in (fitted.tuned, plain)
        ]
    assert len(fitted.ratios([text])[0]) == ids.shape[1] - 1
    assert math.isclose(fitted.scores([text])[0], float((both[0] - both[1]).mean()), abs_tol=1e-4)


def test_a_texts_ratio_is_its_beginnings_ratio_and_what_the_rest_adds(fitted):
    for first, rest in zip(FORGET[:10], RETAIN[:10], strict=True):
        alone, whole = fitted.ratios([first, f"{first} {rest}"])
        assert len(whole) > len(alone)
        assert abs(whole[: len(alone)].sum() - alone.sum()) < 1e-3
        assert abs(whole.sum() - alone.sum() - whole[len(alone) :].sum()) < 1


def test_a_likelihood_that_is_no_number_is_in_scope(plain, lm):
    class Broken:
        def score(self, examples):
            found = lm.score(examples)
            return [Score(score.token_logprobs * np.nan, score.hits) for score in found]

    broken = FittedLikelihoodRatio(lm, Broken())
    assert np.isnan(broken.scores(["Who taught Mara Brask?"])).all()
    assert Detection.uncalibrated(QUICK, broken).flags(["Who taught Mara Brask?"]) == [True]


def test_it_comes_back_from_the_guards_folder(fitted, plain, place):
    detection = Detection.uncalibrated(QUICK, fitted)
    again = Detection.from_state(detection.state(), plain, place)
    assert isinstance(again.fitted.tuned, TransformerLM)
    assert np.array_equal(again.scores(FORGET), detection.scores(FORGET))


def test_without_retain_rows_it_says_what_to_do(plain):
    with pytest.raises(DataError, match="Give --retain rows"):
        Detection.fit(QUICK, plain, fit_data(retain=[]))
