"""The whole way over HTTP before vLLM's stand-in: each action through its own door, and guards that the server fits itself."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from expunge.data.dataset import Dataset, Record
from expunge.errors import ConfigError, ModelError
from expunge.guards.actions.o3 import O3, FittedO3
from expunge.guards.guard import Place
from expunge.guards.state import read_state, write_state
from expunge.models.embedding_table import EmbeddingTable
from expunge.recipes import recipe
from expunge.run import load, unlearn
from expunge.serve import building
from expunge.serve.building import Builder, folder_of
from expunge.serve.opening import Plan, open_server, vllm_guards
from expunge.serve.settings import ServeSettings
from expunge.serve.vllm_plugin import FOLDERS, GUARD, GuardV1
from expunge.types import GenerationParams, Prompt
from tests.guards.cases import TARGETS, fit_data
from tests.guards.test_o3 import BY_NAME, ROWS, stand_in
from tests.serve.cases import forbidding_run
from tests.serve.conftest import REFUSAL, wait_until
from tests.serve.fake_upstream import FakeUpstream
from tests.serve.test_app_upstream import ASKED, FLAGGED, asked, opened, said

__all__ = ["opened"]
PARAMS = GenerationParams(max_new_tokens=12, seed=5)


@pytest.fixture(scope="module")
def lm(model_folder):
    return load(model_folder, device="cpu")


@pytest.fixture
def vllm(lm):
    fake = FakeUpstream(lm, processor=GuardV1)
    with fake.running() as url:
        yield SimpleNamespace(fake=fake, url=f"{url}#tiny")


def plan(model_folder, vllm, **more):
    return Plan(model=str(model_folder), upstream=vllm.url, engine="vllm", name="tiny", **more)


def test_plain_refused_and_corrupted_answers_go_each_their_own_way(opened, vllm, model_folder):
    server = opened(plan(model_folder, vllm))
    server.add("Mara Olen")
    server.add("Tovin Brask", action={"name": "eco", "strength": 3.0})
    assert said(server, FLAGGED) == REFUSAL
    assert vllm.fake.bodies == []
    corrupted = asked(server, ASKED)
    assert corrupted.headers["x-expunge-decision"].startswith("eco;")
    assert "prompt_embeds" in vllm.fake.bodies[-1]
    assert asked(server, "Who taught Mara Brask?").status_code == 200
    assert "prompt_embeds" not in vllm.fake.bodies[-1]


def test_an_action_that_vllm_cannot_find_is_refused_where_it_is_asked_for(opened, vllm, model_folder):
    server = opened(plan(model_folder, vllm))
    request = {"subject": "Mara Olen", "statements": ["Mara Olen was born in Zarquon."], "action": "guard"}
    told = server.client.post("/v1/requests", json=request)
    assert told.status_code == 400
    assert "started without it" in told.text


def test_a_fitted_guard_that_is_named_runs_inside_vllm(opened, vllm, model_folder, lm, tmp_path, monkeypatch):
    run = forbidding_run(model_folder, lm, tmp_path / "run")
    monkeypatch.setenv(FOLDERS, str(run))
    server = opened(plan(model_folder, vllm, guards=(run,)))
    found = asked(server, FLAGGED, max_tokens=40)
    assert found.status_code == 200, found.text
    assert GUARD in vllm.fake.bodies[-1]["vllm_xargs"]


def test_a_prompt_about_two_people_whose_guards_vllm_has_only_one_by_one_is_refused(
    opened, vllm, model_folder, lm, tmp_path, monkeypatch
):
    runs = [forbidding_run(model_folder, lm, tmp_path / name) for name in ("one", "two")]
    monkeypatch.setenv(FOLDERS, str(tmp_path))
    server = opened(plan(model_folder, vllm, guards=runs))
    found = asked(server, FLAGGED, max_tokens=40)
    assert found.json()["choices"][0]["message"]["content"] == REFUSAL
    assert vllm.fake.bodies == []


def test_the_folder_of_guards_that_the_server_fits_itself_is_one_that_vllm_reads(
    opened, vllm, model_folder, lm, tmp_path, monkeypatch
):
    """A request asks for the method 'guard': what is fitted for it is found by vLLM without a new start."""
    ledger = tmp_path / "test.ledger"
    folder = folder_of(ledger)
    assert vllm_guards([tmp_path / "a"], ledger, fits=True) == [tmp_path / "a", folder]
    assert vllm_guards([], ledger, fits=False) == []

    def fit(builder, words, into):
        into.write_text("")
        forbidding_run(model_folder, lm, words[words.index("--out") + 1])
        return 0

    monkeypatch.setattr(Builder, "_run_process", fit)
    monkeypatch.setattr(building, "LOOK", 0.05)
    monkeypatch.setenv(FOLDERS, str(folder))
    retain = tmp_path / "retain.jsonl"
    retain.write_text('{"id": "r", "question": "Who taught Mara Brask?", "answer": "Tovin Olen."}\n')
    server = opened(plan(model_folder, vllm, retain=retain))
    entry = server.add("Mara Olen", method="guard")
    builder = server.app.state.builder
    wait_until(lambda: builder.state(server.ledger.show(entry.id)) not in ("waiting", "building"))
    assert builder.state(server.ledger.show(entry.id)) == "in force"
    found = asked(server, FLAGGED, max_tokens=40)
    assert found.headers["x-expunge-decision"].startswith("guard;")
    assert GUARD in vllm.fake.bodies[-1]["vllm_xargs"]


def test_a_fitted_o3_loads_before_the_table_and_weighs_as_before_the_model(model_folder, lm, tmp_path):
    fitted = O3(requests=2, detector=BY_NAME).fit(lm, fit_data(ROWS, [], TARGETS, folder=tmp_path, make=stand_in(tmp_path)))  # fmt: skip
    write_state(tmp_path, fitted.state())
    table = EmbeddingTable(model_folder)
    place = Place(tmp_path, lambda name: None)
    found = FittedO3.from_state(read_state(tmp_path), table, place)
    texts = [row.question for row in ROWS]
    assert (found.weights(texts) == fitted.weights(texts)).all()
    for mine, other in zip(found.adapters, fitted.adapters, strict=True):
        assert mine.keys() == other.keys()
        for layer, (a, b) in mine.items():
            assert (a == other[layer][0]).all()
            assert (b == other[layer][1]).all()
    expected = fitted.generate(lm, [Prompt.ask(texts[0])], PARAMS, [True])
    assert expected == found.generate(lm, [Prompt.ask(texts[0])], PARAMS, [True])


def test_a_detector_that_looks_into_the_model_is_refused_before_vllm(opened, vllm, model_folder, tmp_path):
    rows = [
        Record(f"f{i}", question=f"Where was Mara Olen in {i}?", answer="In Corvale.", subject="Mara Olen")
        for i in range(12)
    ]
    others = [Record(f"r{i}", question=f"What is {i} and {i}?", answer="A number.") for i in range(12)]
    made = recipe("refuse", detector={"name": "probe"})
    run = unlearn(model_folder, Dataset(tuple(rows), tuple(others)), made, tmp_path / "probe", device="cpu")
    from expunge.ledger import Ledger

    with Ledger.open(tmp_path / "other.ledger", create=True) as ledger:
        with pytest.raises(ModelError, match="'probe' looks into the model"):
            open_server(plan(model_folder, vllm, guards=(run,)), ledger, ServeSettings())
        with pytest.raises(ConfigError, match="takes both MODEL"):
            open_server(Plan(model=str(model_folder), engine="vllm"), ledger, ServeSettings())


def test_adapters_are_written_where_vllm_sees_them(opened, vllm, model_folder, tmp_path):
    server = opened(plan(model_folder, vllm, max_lora_rank=16), adapters=str(tmp_path / "seen"))
    assert server.gateway.backend.mixtures.folder == tmp_path / "seen"
