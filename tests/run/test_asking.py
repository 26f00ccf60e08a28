"""Replies on disk: under the content of weights and question, exact, and shared by every benchmark that asks the same."""

import json
import shutil

import numpy as np
import pytest
import torch

from expunge.artifacts import store
from expunge.benchmarks._asks import Asks
from expunge.errors import CapabilityError
from expunge.models.load import save_model
from expunge.run.asking import Judge, ReplyStore, replies_of
from expunge.types import Example, Generation, GenerationParams, Prompt, Score
from tests.conftest import make_model

PROMPT = Prompt.ask("Where was Mara Olen born?")
EXAMPLE = Example(PROMPT, "In Corvale.")
PARAMS = GenerationParams(max_new_tokens=3)


def test_replies_come_back_exactly(tmp_path):
    kept_store = ReplyStore(tmp_path / "r.sqlite")
    score = Score(
        np.array([-0.1, -2.7182817], np.float32),
        np.array([True, False]),
        True,
        np.array([0.3, -1.1], np.float32),
        np.array([0, 17]),
    )
    held = {
        ("score", PROMPT, "x"): score,
        ("answer", PROMPT, PARAMS): [Generation("é\n", 2, True)],
        ("gradient", None, "x"): 0.1,
    }
    kept_store.put(held)
    found = ReplyStore(tmp_path / "r.sqlite").get([*held, ("score", None, "x")])
    assert found.keys() == held.keys()
    again = found[("score", PROMPT, "x")]
    for name in ("token_logprobs", "hits", "z", "ranks"):
        assert np.array_equal(getattr(again, name), getattr(score, name))
        assert getattr(again, name).dtype == getattr(score, name).dtype
    assert again.floored
    assert found[("answer", PROMPT, PARAMS)] == held[("answer", PROMPT, PARAMS)]
    assert found[("gradient", None, "x")] == 0.1


def test_other_weights_in_the_same_folder_are_another_model(tokenizer, tmp_path):
    """What a result is kept under is the content, never the folder's name."""
    folder = tmp_path / "model"
    model = make_model(tokenizer)
    save_model(model, tokenizer, folder)
    first = replies_of(folder, Asks([EXAMPLE])).score(EXAMPLE)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.5)
    save_model(model, tokenizer, folder)
    second = replies_of(folder, Asks([EXAMPLE])).score(EXAMPLE)
    assert first.logprob != second.logprob
    copy = tmp_path / "another name"
    shutil.copytree(folder, copy)
    found = replies_of(copy, Asks([EXAMPLE]), open_model=lambda *a, **k: pytest.fail("asked again"))
    assert found.score(EXAMPLE).logprob == second.logprob


def test_a_template_is_part_of_what_was_asked(model_folder):
    plain, raw = (
        replies_of(model_folder, Asks([EXAMPLE]), template=name).score(EXAMPLE) for name in ("qa", "raw")
    )
    assert plain.logprob != raw.logprob


def test_a_judge_scores_as_the_model_itself(model_folder):
    from expunge.run import load

    judge, model = Judge(model_folder), load(model_folder)
    assert judge.score([EXAMPLE])[0].logprob == pytest.approx(model.score([EXAMPLE])[0].logprob, abs=1e-5)
    assert judge.generate([PROMPT], PARAMS) == model.generate([PROMPT], PARAMS)


def test_an_image_counts_by_its_content(tmp_path):
    kept_store = ReplyStore(tmp_path / "r.sqlite")
    image = tmp_path / "a.png"
    image.write_bytes(b"one")
    key = ("score", Prompt(PROMPT.messages, images=(str(image),)), "x")
    kept_store.put({key: Score(np.zeros(1, np.float32), np.ones(1, bool))})
    assert kept_store.get([key])
    image.write_bytes(b"two")
    assert not kept_store.get([key])


def test_every_parameter_of_an_answer_is_part_of_what_was_asked(model_folder):
    from dataclasses import replace

    first = GenerationParams(max_new_tokens=3, sample=True)
    others = [
        first,
        replace(first, max_new_tokens=2),
        replace(first, seed=1),
        replace(first, copies=2),
        replace(first, temperature=0.5),
        replace(first, top_p=0.5),
        replace(first, sample=False),
        replace(first, sample=False, beams=2),
        replace(first, bias=(("Corvale", 100.0),)),
        replace(first, bias=(("Corvale", -100.0),)),
    ]
    kept = ReplyStore(store.cache_folder() / "all.sqlite")
    kept.put({("answer", PROMPT, params): [Generation(str(i), 1, True)] for i, params in enumerate(others)})
    found = kept.get([("answer", PROMPT, params) for params in others])
    assert [answer[0].text for answer in found.values()] == [str(i) for i in range(len(others))]


def test_nothing_of_an_endpoint_is_kept(monkeypatch):
    said = []

    class Mouth:
        capabilities = frozenset()

        def generate(self, prompts, params):
            said.append(len(prompts))
            return [[Generation(f"answer {len(said)}", 1, True)] for _ in prompts]

    texts = [
        replies_of(
            "http://127.0.0.1:9/v1#m", Asks(answers=[(PROMPT, PARAMS)]), open_model=lambda *a, **k: Mouth()
        )
        .answer(PROMPT, PARAMS)[0]
        .text
        for _ in range(2)
    ]
    assert texts == ["answer 1", "answer 2"]


def test_a_guard_that_asks_an_endpoint_is_asked_anew_and_one_under_another_template_is_another(tmp_path):
    from expunge.run.asking import _identity

    def folder(name, template="qa", agents="self", base="models/x"):
        place = tmp_path / name
        (place / "guard").mkdir(parents=True)
        (place / "guard" / "state.json").write_text("{}")
        recipe = {"method": "alu", "source": "https://paper", "action": {"name": "alu", "agents": agents}}
        facts = {"schema": 1, "kind": "guard", "template": template, "base": {"name": base, "sha256": "b"}, "recipe": recipe}  # fmt: skip
        (place / "manifest.json").write_text(json.dumps(facts))
        return place

    plain, other = folder("plain"), folder("other", template="raw")
    assert _identity(plain, "auto", "cpu") == _identity(plain, "qa", "cpu") != _identity(other, "auto", "cpu")
    assert _identity(plain, "auto", "cpu") != _identity(plain, "auto", "cuda:0")
    assert _identity(folder("agents", agents="http://there/v1#m"), "auto", "cpu") is None
    assert _identity(folder("base", base="http://there/v1#m"), "auto", "cpu") is None


def test_a_judge_without_likelihoods_says_so(monkeypatch):
    with pytest.raises(CapabilityError, match="the judge gives no likelihoods"):
        Judge("http://127.0.0.1:9/v1#m").score([EXAMPLE])
