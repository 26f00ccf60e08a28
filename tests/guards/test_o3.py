"""O3: weights by their golden values, which request's adapter acts, and that nobody in scope runs clean."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from expunge import catalog
from expunge.data.dataset import Record
from expunge.errors import ConfigError, DataError
from expunge.guards.actions.o3 import (
    METHOD,
    O3,
    FittedO3,
    agreement,
    cut,
    fit_request,
    raw_weight,
    share,
    soft_weight,
)
from expunge.guards.guard import Place
from expunge.guards.state import read_state, write_state
from expunge.methods.adapters._peft import load_adapters
from expunge.methods.adapters.orthogonal import Orthogonal
from expunge.models.fresh import train_tokenizer
from expunge.models.language_model import TransformerLM
from expunge.types import Course, Example, GenerationParams, Prompt
from tests.conftest import TEXTS, make_model
from tests.guards.cases import ASKED, OTHERS, TARGETS, fit_data, nothing_to_open

GOLDEN = [(0.5, 0.658655, 0.989915), (1, 0.375345, 0.852387), (2, 0.073017, 0.219286), (3, 0.006442, 0.126135), (4, 0.000236, 0.119451)]  # fmt: skip
ROWS = [
    Record(f"f-{name}-{i}", question=q.format(name), answer="In Corvale.", subject=name, group=name)
    for name in TARGETS
    for i, q in enumerate(ASKED)
]
FIRST, SECOND = ROWS[:15], ROWS[15:]
BY_NAME = {"name": "aliases"}


def stand_in(folder):
    """In place of training: adapters with random halves, saved as a run of the recipe leaves them."""

    def make(part, method, forget=None, retain=None, *, procedure, adapter):
        assert method == METHOD
        one = Orthogonal(**{"rank": 4, "alpha": 8, **adapter})
        adapted = one.attach(make_model(train_tokenizer(TEXTS * 4, 400)), 0)
        for number in range(2, procedure["requests"] + 1):
            one.attach_next(adapted, number, 0)
        torch.manual_seed(3)
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p.data, std=0.2)
        adapted.save_pretrained(str(folder / part / "adapter"))
        return folder / part

    return make


def data_in(folder, rows=ROWS):
    return fit_data(rows, [], TARGETS, folder=folder, make=stand_in(folder))


@pytest.fixture
def by_name(lm, tmp_path):
    return O3(requests=2, detector=BY_NAME).fit(lm, data_in(tmp_path))


# --- the weight ------------------------------------------------------------------------------------------------------------------
def test_agreement_and_raw_weight_have_their_golden_values():
    assert agreement(np.array([0.0]), -0.5, 0.5, 1.0) == 1
    assert raw_weight(1.0) == pytest.approx(0.999665, abs=1e-6)
    for x, c, w in GOLDEN:
        for side in (x, -x):
            found = agreement(np.array([float(side)]), -0.5, 0.5, 1.0)[0]
            assert found == pytest.approx(c, abs=1e-6)
            assert raw_weight(found) == pytest.approx(w, abs=1e-6)


def test_the_deployed_weight_is_the_rescaled_one_below_the_centre_and_whole_above_it():
    x = np.array([x for x, _, _ in GOLDEN])
    floor, top = 1 / (1 + np.exp(2)), 1 / (1 + np.exp(-8))
    expected = (np.array([w for _, _, w in GOLDEN]) - floor) / (top - floor)
    assert np.allclose(soft_weight(-x, -0.5, 0.5, 1.0), expected, atol=2e-6)
    assert (soft_weight(x, -0.5, 0.5, 1.0) == 1).all()


@pytest.mark.parametrize(("m1", "m2"), [(0.5, -0.5), (-0.5, 0.5), (9.0, -9.0), (2.0, 2.0)])
def test_the_weight_is_largest_at_the_centre_never_falls_with_q_and_ends_at_nothing(m1, m2):
    q = np.linspace(-60, 60, 4001)
    found = soft_weight(q, m1, m2, 1.3)
    assert soft_weight(np.array([(m1 + m2) / 2]), m1, m2, 1.3)[0] == found.max() == 1
    assert (np.diff(found) >= 0).all()
    assert found[0] == 0
    assert found.min() >= 0


# --- requests --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("requests", [1, 2, 4, 6])
def test_rows_are_cut_as_the_training_cuts_them(requests):
    course = Course(None, ROWS, [], list, None, None, {})
    continual = catalog.load("procedure", "continual")(requests=requests)
    assert cut(ROWS, requests) == [continual.stage(number, course).shown for number in range(requests)]
    with pytest.raises(DataError, match="belong to 6 groups"):
        cut(ROWS, 7)


def test_a_prompt_meets_its_own_requests_adapter_and_no_other(by_name):
    asked = [row.question for row in (*FIRST, *SECOND)]
    expected = np.repeat(np.eye(2), 15, axis=0)
    assert np.array_equal(by_name.weights(asked), expected)


def test_a_flagged_prompt_that_no_request_claims_meets_all_adapters(by_name):
    stranger = ASKED[0].format(OTHERS[0])
    assert by_name.requests[0].weights(by_name.requests[0].detection.scores([stranger]), "soft") == 0
    assert by_name.weights([stranger]).tolist() == [[1, 1]]


@pytest.mark.parametrize("mixing", ["soft", "hard"])
def test_a_score_that_is_no_number_counts_in_full_and_a_low_one_not_at_all(lm, tmp_path, mixing):
    request = O3(requests=2, mixing=mixing).fit(lm, data_in(tmp_path)).requests[0]
    centre = (request.learnt + request.kept) / 2
    scores = np.array([np.nan, centre, request.least, np.nextafter(request.least, -np.inf)])
    found = request.weights(scores, mixing)
    assert found[:2].tolist() == [1, 1]
    assert found[3] == 0
    assert found[2] == (1 if mixing == "hard" else soft_weight(scores[2:3], *request[1:4])[0]) > 0


def test_the_cut_off_misses_no_more_kept_prompts_than_promised(lm, tmp_path):
    data = data_in(tmp_path)
    settings = catalog.load("detector", "contrastive_entropy")(alpha=0.2)
    request = fit_request(settings, lm, data)
    learn, keep = data.split(settings.calibration_share)
    kept = request.detection.scores(keep.forget_prompts)
    assert len(kept) == 10
    assert (kept < request.least).sum() == 1  # the second lowest of ten: floor(0.2 * 11)
    assert request.kept == pytest.approx(kept.mean())
    assert request.spread == pytest.approx(kept.std(ddof=1))
    assert request.learnt == pytest.approx(request.detection.scores(learn.forget_prompts).mean())


class Fickle:
    """A detector that can tell nothing of one prompt."""

    calibration_share, alpha, raw = 1 / 3, None, True
    threshold = 0.5

    def fit(self, model, data):
        return self

    def scores(self, texts):
        return np.array([np.nan if text == ROWS[self.lost].question else float(len(text)) for text in texts])


def test_a_kept_prompt_that_cannot_be_told_leaves_the_numbers_to_the_others(lm, tmp_path):
    data = data_in(tmp_path)
    _, keep = data.split(1 / 3)
    fickle = Fickle()
    fickle.lost = next(i for i, row in enumerate(ROWS) if row.question == keep.forget_prompts[0])
    request = fit_request(fickle, lm, data)
    lengths = [len(text) for text in keep.forget_prompts[1:]]
    assert request.kept == pytest.approx(np.mean(lengths))
    assert np.isfinite(request[1:]).all()


def test_what_a_requests_detector_trains_lies_in_the_requests_own_folder(tmp_path):
    data = replace(data_in(tmp_path), make=lambda *asked, **settings: (asked, settings))
    own = share(data, SECOND, 2)
    assert own.make("part", "npo", SECOND, rank=1) == (("request-2/part", "npo", SECOND), {"rank": 1})
    assert own.place.folder == tmp_path / "request-2"
    assert own.names == TARGETS[3:]


def test_a_second_request_changes_nothing_for_the_first_ones_detector(lm, tmp_path):
    alone = O3(requests=1).fit(lm, data_in(tmp_path / "a", FIRST)).requests[0]
    first, second = O3(requests=2).fit(lm, data_in(tmp_path / "b")).requests
    asked = [*(row.question for row in ROWS), *(ASKED[0].format(name) for name in OTHERS)]
    scores = [request.detection.scores(asked) for request in (alone, first, second)]
    assert np.abs(scores[0] - scores[1]).max() == 0
    assert alone[1:] == first[1:]
    assert np.abs(scores[1] - scores[2]).max() > 1


# --- the guard's action ----------------------------------------------------------------------------------------------------------
def test_flagged_rows_are_pefts_own_adapted_model_and_the_others_the_plain_one_bit_for_bit(
    lm, by_name, tmp_path, tokenizer
):
    prompts = [Prompt.ask(row.question) for row in (FIRST[0], SECOND[0], FIRST[1])]
    examples = [Example(prompt, "In Corvale.") for prompt in prompts]
    flagged = [True, True, False]
    found, plain = by_name.score(lm, examples, flagged), lm.score(examples)
    for row, name in enumerate(("default", "request-2")):
        adapted = load_adapters(make_model(tokenizer), tmp_path / "adapters" / "adapter")
        adapted.base_model.set_adapter([name], inference_mode=True)
        theirs = TransformerLM(adapted.get_base_model(), tokenizer).score(examples)[row]
        assert np.abs(found[row].token_logprobs - theirs.token_logprobs).max() < 1e-5
        assert np.abs(found[row].token_logprobs - plain[row].token_logprobs).max() > 0.1
    assert np.array_equal(found[2].token_logprobs, plain[2].token_logprobs)
    params = GenerationParams(max_new_tokens=8, copies=2, beams=2)
    written, as_before = by_name.generate(lm, prompts, params, flagged), lm.generate(prompts, params)
    assert written[2] == as_before[2]
    assert written[0] != as_before[0]
    assert by_name.generate(lm, prompts, params, [False] * 3) == as_before


def test_the_state_brings_the_guard_back(lm, tmp_path):
    fitted = O3(requests=2).fit(lm, data_in(tmp_path))
    write_state(tmp_path, fitted.state())
    again = FittedO3.from_state(read_state(tmp_path), lm, Place(tmp_path, nothing_to_open))
    asked = [row.question for row in ROWS]
    assert np.array_equal(again.weights(asked), fitted.weights(asked))
    examples = [Example(Prompt.ask(text), "In Corvale.") for text in asked[:4]]
    for a, b in zip(
        again.score(lm, examples, [True] * 4), fitted.score(lm, examples, [True] * 4), strict=True
    ):
        assert np.array_equal(a.token_logprobs, b.token_logprobs)


# --- what is refused before anything is trained ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "rows", "said"),
    [
        (dict(detector={"name": "contrastiv_entropy"}), ROWS, "contrastive_entropy"),
        (dict(detector={"gama": 1}), ROWS, "detector has no name"),
        (dict(detector={"name": "contrastive_entropy", "gama": 1}), ROWS, "gamma"),
        (dict(requests=7), ROWS, "belong to 6 groups"),
        (dict(requests=2), ROWS[3:7], "at least two have to be kept"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(lm, settings, rows, said):
    with pytest.raises((ConfigError, DataError), match=said):
        O3(**settings).fit(lm, fit_data(rows, [], TARGETS))
