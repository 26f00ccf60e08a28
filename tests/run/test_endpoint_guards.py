"""Guards in front of a chat endpoint, from the command line: every action on text works, and what cannot is said."""

import json

import pytest
from typer.testing import CliRunner

from expunge import catalog
from expunge.cli import app
from expunge.data.pocket.world import SIZES, VERSION
from expunge.errors import ModelError
from expunge.run import load
from expunge.run.make import model_hash
from expunge.types import GenerationParams, Prompt
from tests.guards.cases import ASKED, OTHERS, TARGETS
from tests.models import test_endpoint

server = test_endpoint.server

ON_TEXT = [
    name for name, entry in catalog.entries("action").items() if "weights" not in entry.declared["needs"]
]
IN_MODEL = [name for name in catalog.entries("action") if name not in ON_TEXT]
IN_SCOPE, OUTSIDE = f"Where was {TARGETS[0]} born?", f"Where was {OTHERS[3]} born?"
PARAMS = GenerationParams(max_new_tokens=8)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A forget and a retain file about the little world of names."""
    folder = tmp_path_factory.mktemp("rows")
    for part, names in (("forget", TARGETS), ("retain", OTHERS[:20])):
        lines = [
            json.dumps({"question": q.format(name), "answer": f"It is Prize{name.replace(' ', '')}{i}.", "subject": name if part == "forget" else ""})
            for name in names
            for i, q in enumerate(ASKED)
        ]  # fmt: skip
        (folder / f"{part}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def unlearn(model, rows, out, method, *more):
    return CliRunner().invoke(
        app,
        ["unlearn", model, "--forget", str(rows / "forget.jsonl"), "--retain", str(rows / "retain.jsonl"),
         "--method", method, "--out", str(out), "--json", *more],
    )  # fmt: skip


def name_of(server):
    return f"{server.url}#m"


def questions(server):
    """The last message of every request."""
    return [body["messages"][-1]["content"] for _, body in server.seen]


@pytest.mark.parametrize("method", ON_TEXT)
def test_a_guard_on_text_is_fitted_loaded_and_answers_over_an_endpoint(method, rows, tmp_path, server):
    done = unlearn(name_of(server), rows, tmp_path / "run", method)
    assert done.exit_code == 0, done.output
    manifest = json.loads(done.stdout)
    assert manifest["kind"] == "guard"
    assert manifest["claim"] == "suppression"
    assert manifest["base"] == {"name": name_of(server), "sha256": f"endpoint:{name_of(server)}"}
    assert not server.seen  # fitting asks nobody

    guard = load(tmp_path / "run")
    changed, plain = guard.generate([Prompt.ask(IN_SCOPE), Prompt.ask(OUTSIDE)], PARAMS)
    assert plain[0].text == f"to {OUTSIDE}"
    assert questions(server).count(OUTSIDE) == 1
    untouched = [{"role": "user", "content": IN_SCOPE}] in [body["messages"] for _, body in server.seen]
    if method == "ununlearning":  # it holds back what says a fact, and the echo of a question says none
        assert changed[0].text == f"to {IN_SCOPE}"
        told = guard.generate([Prompt.ask(f"{IN_SCOPE} Is it Prize{TARGETS[0].replace(' ', '')}1?")], PARAMS)
        assert told[0][0].text.endswith("1?"), "weak: what the user supplied may be said back"
    else:
        assert not (untouched and changed[0].text == f"to {IN_SCOPE}")


def test_the_instruction_travels_as_a_system_message(rows, tmp_path, server):
    assert unlearn(name_of(server), rows, tmp_path / "run", "guard_prompt").exit_code == 0
    load(tmp_path / "run").generate([Prompt.ask(IN_SCOPE)], PARAMS)
    ((_, body),) = server.seen
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert TARGETS[0] in body["messages"][0]["content"]


def test_examples_travel_as_turns(rows, tmp_path, server):
    assert unlearn(name_of(server), rows, tmp_path / "run", "icul").exit_code == 0
    load(tmp_path / "run").generate([Prompt.ask(IN_SCOPE)], PARAMS)
    ((_, body),) = server.seen
    assert [message["role"] for message in body["messages"]] == [*["user", "assistant"] * 9, "user"]


def test_agents_at_another_address_are_opened_again_with_the_run(rows, tmp_path, server):
    agents = f"{server.url}#agent"
    done = unlearn(name_of(server), rows, tmp_path / "run", "alu", "--set", f"action.agents={agents}")
    assert done.exit_code == 0, done.output
    ((answer,),) = load(tmp_path / "run").generate([Prompt.ask(IN_SCOPE)], PARAMS)
    assert (
        answer.text == "I do not know."
    )  # the stub only repeats what it hears, and that is no list of numbers
    assert [body["model"] for _, body in server.seen] == ["m", "agent", "agent"]


@pytest.mark.parametrize("method", IN_MODEL)
def test_an_action_inside_the_model_is_refused_with_what_to_take_instead(method, rows, tmp_path, server):
    done = unlearn(name_of(server), rows, tmp_path / "run", method)
    assert isinstance(done.exception, ModelError)
    assert "an endpoint only answers" in str(done.exception)
    assert "guard_prompt" in str(done.exception)
    assert not server.seen
    assert not (tmp_path / "run").exists()


def test_an_endpoint_is_evaluated_on_what_it_writes_and_likelihoods_have_a_reason(rows, tmp_path, server):
    world = {"version": VERSION, "settings": SIZES["tiny"].model_dump(), "seed": 0}
    (tmp_path / "world.json").write_text(json.dumps(world), encoding="utf-8")
    assert unlearn(name_of(server), rows, tmp_path / "run", "refuse").exit_code == 0
    for subject in (str(tmp_path / "run"), name_of(server)):
        done = CliRunner().invoke(
            app, ["evaluate", subject, "--benchmark", "pocket", "--data", str(tmp_path), "--json"]
        )
        assert done.exit_code == 0, done.output
        figures = json.loads(done.stdout)["figures"]
        assert figures["forget/accuracy"]["value"] is not None
        for name in ("forget/probability", "model_utility", "forget_quality/ks_p"):
            assert figures[name]["value"] is None
            assert "Scores need the weights" in figures[name]["why"]


def test_a_run_for_one_address_is_not_loaded_for_another(rows, tmp_path, server):
    assert unlearn(name_of(server), rows, tmp_path / "run", "refuse").exit_code == 0
    first = model_hash(tmp_path / "run")
    assert unlearn(f"{server.url}#other", rows, tmp_path / "other", "refuse").exit_code == 0
    assert model_hash(tmp_path / "other") != first
