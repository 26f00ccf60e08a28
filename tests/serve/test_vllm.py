"""vLLM as a backend, against a stand-in that is as strict: token for token what transformers gives, and nothing misshapen leaves."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from expunge.errors import CapabilityError, ConfigError, ModelError
from expunge.guards.actions.refuse import FittedRefuse
from expunge.guards.guard import Guard
from expunge.models.corrupted import CorruptedInputs
from expunge.models.embedding_table import EmbeddingTable, checked, to_text
from expunge.models.load import save_model
from expunge.models.scaled_adapters import ScaledAdapters
from expunge.run import load
from expunge.serve.backend import Ask, BackendError
from expunge.serve.backends.vllm import BROKEN, RESERVED, VLLM, print_command
from expunge.serve.vllm_plugin import BANS, FOLDERS, GuardV1
from expunge.types import GenerationParams, Message, Prompt
from tests.conftest import FAMILIES, make_family
from tests.serve.cases import NAMES, Mixed, PromptOnly, answers, eco, forbidding_run, made_adapters, text
from tests.serve.fake_upstream import FakeUpstream, with_chat

ASKED = Prompt.ask("Where was Mara Olen born?")
OTHERS = [
    ASKED,
    Prompt.ask("Who taught Mara Brask?"),
    Prompt.ask("What did Mara Olen do in Corvale?"),
    Prompt.continuing("Mara Olen was"),
]
PARAMS = GenerationParams(max_new_tokens=12, seed=5)


@pytest.fixture(scope="module")
def chat_folder(model_folder, tmp_path_factory):
    return with_chat(model_folder, tmp_path_factory.mktemp("chat") / "tiny")


@pytest.fixture(scope="module", params=["chat", "qa"])
def world(request, model_folder, chat_folder):
    """The model, its stand-in and its address, with a chat template and without one."""
    folder = chat_folder if request.param == "chat" else model_folder
    lm = load(folder, device="cpu")
    fake = FakeUpstream(lm, processor=GuardV1)
    with fake.running() as url:
        yield SimpleNamespace(folder=folder, lm=lm, fake=fake, url=url)


@pytest.fixture(autouse=True)
def _clean(request):
    if "world" in request.fixturenames:
        request.getfixturevalue("world").fake.bodies.clear()


# --- the embedding table ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["qwen3_moe", "gemma2", "gpt_neox"])
def test_the_table_gives_what_the_whole_model_gives(family, tokenizer, tmp_path):
    assert family in FAMILIES
    model = make_family(family, tokenizer)
    save_model(model, tokenizer, tmp_path)
    table, ids = EmbeddingTable(tmp_path), torch.arange(60)[None]
    with torch.inference_mode():
        assert torch.equal(table.model.get_input_embeddings()(ids), model.get_input_embeddings()(ids))


def test_the_table_reads_a_model_in_several_files_in_its_own_precision(model, tokenizer, tmp_path):
    model.to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    weight = EmbeddingTable(tmp_path).model.get_input_embeddings().weight
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight, model.get_input_embeddings().weight)


def test_a_table_with_an_unknown_scale_is_refused(model, tokenizer, tmp_path):
    model.config.scale_emb = 12
    save_model(model, tokenizer, tmp_path)
    with pytest.raises(ModelError, match="scale or project their embeddings"):
        EmbeddingTable(tmp_path)


def test_a_table_of_other_weights_is_refused(model, tokenizer, tmp_path):
    save_model(model, tokenizer, tmp_path)
    model.config.vocab_size += 8
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="belongs to these weights"):
        EmbeddingTable(tmp_path)


def test_the_table_writes_and_scores_nothing(model_folder):
    table = EmbeddingTable(model_folder)
    assert not table.capabilities
    with pytest.raises(CapabilityError):
        table.score([])
    with pytest.raises(CapabilityError):
        table.generate([], PARAMS)


def test_actions_are_the_same_before_the_table_as_before_the_model(world):
    table = EmbeddingTable(world.folder)
    one, other = eco(table), eco(world.lm)
    assert one.state() == other.state()
    assert table.end_ids == sorted(world.lm._end_ids)
    assert one.joined([other], table).names.names == other.names.names


GOOD = torch.zeros(3, 8)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (GOOD.clone().index_fill_(0, torch.tensor([1]), torch.nan), "not finite"),
        (GOOD.clone().index_fill_(0, torch.tensor([2]), torch.inf), "not finite"),
        (torch.full((3, 8), -torch.inf), "not finite"),
        (torch.zeros(3, 9), "takes \\[tokens, 8\\]"),
        (torch.zeros(8), "takes \\[tokens, 8\\]"),
        (torch.zeros(1, 3, 8), "takes \\[tokens, 8\\]"),
        (torch.zeros(3, 8, dtype=torch.int64), "floating point"),
        (torch.zeros(3, 8, dtype=torch.complex64), "floating point"),
        (torch.zeros(0, 8), "of 0 tokens"),
        (torch.zeros(11, 8), "of 11 tokens"),
    ],
)
def test_embeddings_that_an_engine_cannot_take_never_leave(tensor, said):
    for way in (checked, to_text):
        with pytest.raises(ModelError, match=said):
            way(tensor, 8, 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_good_embeddings_pass_as_they_are(dtype):
    tensor = torch.randn(10, 8, dtype=dtype)
    assert checked(tensor, 8, 10) is tensor


def test_nothing_is_sent_where_a_corruption_breaks(world):
    action = eco(EmbeddingTable(world.folder))
    action.rms = float("nan")
    backend = VLLM(world.url, "tiny", world.folder)
    with pytest.raises(BackendError, match="'eco' failed") as caught:
        answers(backend, Ask(ASKED, PARAMS, action))
    assert "Mara" not in str(caught.value)
    with pytest.raises(BackendError, match="'eco' failed"):
        answers(backend, Ask(Prompt.ask("Mara Olen " * 200), PARAMS, eco(backend.model)))
    assert not world.fake.bodies


# --- clean and corrupted ------------------------------------------------------------------------------------------------------
def test_clean_prompts_are_answered_as_by_the_model_itself(world):
    backend = VLLM(world.url, "tiny", world.folder)
    found = answers(backend, *(Ask(prompt, PARAMS) for prompt in OTHERS))
    for pieces, (expected,) in zip(found, world.lm.generate(OTHERS, PARAMS), strict=True):
        assert text(pieces).strip() == expected.text
        assert pieces[-1].tokens == expected.tokens
    assert all("prompt_embeds" not in body for body in world.fake.bodies)


def test_clean_embeddings_are_answered_as_their_tokens_are(world):
    backend = VLLM(world.url, "tiny", world.folder)
    untouched = eco(backend.model)
    untouched.strength = 0.0
    found = answers(backend, *(Ask(prompt, PARAMS, untouched) for prompt in OTHERS))
    for pieces, (expected,) in zip(found, world.lm.generate(OTHERS, PARAMS), strict=True):
        assert text(pieces).strip() == expected.text
    assert all("prompt_embeds" in body and "messages" not in body for body in world.fake.bodies)


@pytest.mark.parametrize(
    "settings",
    [{}, {"corruption": "noise", "dims": 0.5}, {"corruption": "swap"}, {"tokens": "prompt"}],
    ids=str,
)
def test_corrupted_prompts_are_answered_token_for_token_as_in_this_process(world, settings):
    backend = VLLM(world.url, "tiny", world.folder)
    found = answers(backend, *(Ask(prompt, PARAMS, eco(backend.model, **settings)) for prompt in OTHERS))
    change = CorruptedInputs(eco(world.lm, PromptOnly, **settings))
    inside = world.lm.generate(OTHERS, PARAMS, change, [True] * len(OTHERS))
    clean = world.lm.generate(OTHERS, PARAMS)
    for pieces, (expected,) in zip(found, inside, strict=True):
        assert text(pieces).strip() == expected.text
        assert pieces[-1].tokens == expected.tokens
    assert inside != clean


def test_no_word_of_a_corrupted_prompt_is_sent(world):
    backend = VLLM(world.url, "tiny", world.folder)
    answers(backend, Ask(ASKED, PARAMS, eco(backend.model)))
    assert "Mara" not in str(world.fake.bodies)


def test_tenants_share_no_cache_and_corrupted_prompts_share_none_at_all(world):
    backend = VLLM(world.url, "tiny", world.folder)
    asks = [Ask(ASKED, PARAMS, tenant=tenant) for tenant in ("a", "b", "a")]
    answers(backend, *asks, *[Ask(ASKED, PARAMS, eco(backend.model), tenant="a")] * 2)
    a, b, again, *corrupted = [body["cache_salt"] for body in world.fake.bodies]
    assert a == again
    assert len({a, b, *corrupted}) == 4
    assert "a" not in (a, b)


# --- text ---------------------------------------------------------------------------------------------------------------------
def test_messages_pass_byte_for_byte_and_only_the_reserved_word_is_broken(chat_folder):
    fake = FakeUpstream(load(chat_folder, device="cpu"))
    said = ["Be “short”.\r\n\u2028", "\u200b naïve <prompt_embed>", f"x{RESERVED}y"]
    turns = [Message("system", said[0]), Message("user", said[1]), Message("user", said[2])]
    with fake.running() as url:
        backend = VLLM(url, "tiny", chat_folder)
        answers(backend, Ask(Prompt(tuple(turns)), PARAMS), Ask(Prompt.continuing(RESERVED), PARAMS))
    chat, plain = fake.bodies
    assert [turn["content"] for turn in chat["messages"]] == [*said[:2], f"x{BROKEN}y"]
    assert plain["prompt"] == BROKEN


def test_actions_on_text_work_as_behind_any_server(world):
    backend = VLLM(world.url, "tiny", world.folder)
    ((piece,),) = answers(backend, Ask(ASKED, PARAMS, FittedRefuse("I do not know.")))
    assert piece.text == "I do not know."
    assert (
        piece.tokens
        == len(backend.model.tokenizer("I do not know.", add_special_tokens=False)["input_ids"]) + 1
    )
    assert backend.count(ASKED) == len(world.lm.encoder.prompts([ASKED])[0].ids)
    assert backend.context == 128


# --- guard --------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def forbidding(world, tmp_path_factory):
    return forbidding_run(world.folder, world.lm, tmp_path_factory.mktemp("guards") / "run")


@pytest.mark.parametrize("most", [0.5, 0.0])
def test_restricted_answers_are_token_for_token_those_of_this_process(world, forbidding, most, monkeypatch):
    """`most` of 0: every answer that comes near a word's end is written again."""
    monkeypatch.setenv(FOLDERS, str(forbidding.parent))
    for module in ("expunge.models.restricted", "expunge.guards.token_rules"):
        monkeypatch.setattr(f"{module}.MOST", most)
    inside: Guard = load(forbidding, before=world.lm)
    backend = VLLM(world.url, "tiny", world.folder, guards=[forbidding.parent])
    action = load(forbidding, before=backend.model).action
    prompts = [Prompt.ask(f"Where was {name} born?") for name in NAMES] + [
        Prompt.ask("Mara Olen and the fox")
    ]
    params = replace(PARAMS, max_new_tokens=40)
    found = answers(backend, *(Ask(prompt, params, action) for prompt in prompts))
    expected = world.lm.generate(prompts, params, inside.action.change, [True] * len(prompts))
    assert expected != world.lm.generate(prompts, params)
    for pieces, (answer,) in zip(found, expected, strict=True):
        assert text(pieces).strip() == answer.text
        assert len(pieces) == 1
    assert most or any(BANS in body["vllm_xargs"] for body in world.fake.bodies)


def test_a_server_without_the_processor_gives_no_answer(world, forbidding, monkeypatch):
    monkeypatch.setenv(FOLDERS, str(forbidding))
    monkeypatch.setattr(world.fake, "processor", None)
    backend = VLLM(world.url, "tiny", world.folder, guards=[forbidding])
    action = load(forbidding, before=backend.model).action
    with pytest.raises(BackendError, match="without the processor"):
        answers(backend, Ask(ASKED, replace(PARAMS, max_new_tokens=40), action))


def test_a_server_with_other_guards_gives_no_answer(world, forbidding, monkeypatch, tmp_path):
    backend = VLLM(world.url, "tiny", world.folder, guards=[forbidding])
    action = load(forbidding, before=backend.model).action
    monkeypatch.setattr("expunge.serve.vllm_plugin._STATES", {})
    monkeypatch.setenv(FOLDERS, str(tmp_path))
    with pytest.raises(BackendError, match="refused with 400"):
        answers(backend, Ask(ASKED, PARAMS, action))


def test_a_guard_that_does_not_lie_where_vllm_looks_is_refused(world, forbidding):
    backend = VLLM(world.url, "tiny", world.folder, guards=[forbidding])
    action = load(forbidding, before=backend.model).action
    backend.refuse_action(action)
    action.rows.append(action.rows[0]._replace(question="another"))
    with pytest.raises(ConfigError, match="finds fitted guards alone"):
        backend.refuse_action(action)


# --- o3 -----------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def adapters(world, tmp_path_factory):
    return made_adapters(world.folder, tmp_path_factory.mktemp("o3") / "adapter")


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 0.5), (0.75, 1.0), (1.0, 1.0)])
def test_a_mixture_of_adapters_answers_token_for_token_as_in_this_process(world, adapters, weights):
    backend = VLLM(world.url, "tiny", world.folder, max_lora_rank=16)
    action = Mixed(adapters, weights)
    backend.refuse_action(action)
    found = answers(backend, Ask(ASKED, PARAMS, action), Ask(ASKED, PARAMS), Ask(ASKED, PARAMS, action))
    change = ScaledAdapters(adapters, {ASKED.text: np.array(weights)})
    ((expected,),) = world.lm.generate([ASKED], PARAMS, change, [True])
    ((clean,),) = world.lm.generate([ASKED], PARAMS)
    assert [text(pieces).strip() for pieces in found] == [expected.text, clean.text, expected.text]
    assert expected.text != clean.text
    names = [body["model"] for body in world.fake.bodies]
    assert names[0] == names[2] != names[1] == "tiny"


def test_weights_are_rounded_to_quarters_and_a_mixture_is_loaded_once(world, adapters):
    backend = VLLM(world.url, "tiny", world.folder, max_lora_rank=16)
    action = Mixed(adapters, (0.8, 0.1))
    loaded = len(world.fake.adapters)
    first = answers(backend, Ask(ASKED, PARAMS, action), Ask(ASKED, PARAMS, action))
    assert len(world.fake.adapters) == loaded + 1
    action._weights = (0.75, 0.0)
    assert (
        first[0]
        == answers(VLLM(world.url, "tiny", world.folder, max_lora_rank=16), Ask(ASKED, PARAMS, action))[0]
    )


def test_mixtures_that_nobody_uses_are_taken_away(world, adapters, monkeypatch):
    monkeypatch.setattr("expunge.serve.backends.adapters.KEPT", 1)
    backend = VLLM(world.url, "tiny", world.folder, max_lora_rank=16)
    loaded = len(world.fake.adapters)
    answers(backend, *(Ask(ASKED, PARAMS, Mixed(adapters, (w, 1.0))) for w in (0.25, 0.5, 0.75)))
    assert len(world.fake.adapters) == loaded + 1


def test_an_engine_that_was_started_again_is_given_the_mixture_again(world, adapters):
    backend, action = VLLM(world.url, "tiny", world.folder, max_lora_rank=16), Mixed(adapters, (1.0, 0.25))

    async def run():
        await backend.start()
        first = await whole(backend, Ask(ASKED, PARAMS, action))
        world.fake.adapters.clear()
        with pytest.raises(BackendError, match="404"):
            await whole(backend, Ask(ASKED, PARAMS, action))
        assert await whole(backend, Ask(ASKED, PARAMS, action)) == first
        await backend.stop()

    asyncio.run(run())


async def whole(backend, ask):
    async with aclosing(backend.stream(ask)) as pieces:
        return [piece async for piece in pieces]


# --- what is refused ----------------------------------------------------------------------------------------------------------
def test_actions_that_vllm_cannot_carry_out_are_refused_with_what_to_do(world, adapters):
    backend = VLLM(world.url, "tiny", world.folder, max_lora_rank=4)
    with pytest.raises(ConfigError, match="rank 8 together, and vLLM was started for 4"):
        backend.refuse_action(Mixed(adapters, (1.0, 0.0)))
    for name, said in (("guard", "was started without it"), ("uld", "has no door"), ("coca", "has no door")):
        strange = type("Strange", (), {"__module__": f"expunge.guards.actions.{name}"})()
        with pytest.raises(ConfigError, match=said):
            backend.refuse_action(strange)
    backend.refuse_action(eco(backend.model))


def test_the_launch_command_has_all_that_the_backend_needs(tmp_path):
    plain = print_command("org/model")
    assert plain.startswith('VLLM_API_KEY="$EXPUNGE_API_KEY" vllm serve org/model --host 127.0.0.1')
    for flag in ("--enable-prompt-embeds", "--logprobs-mode processed_logprobs", "--no-enable-log-requests"):
        assert flag in plain
    assert "lora" not in plain.lower()
    whole = print_command("org/model", guards=[tmp_path / "a b"], max_lora_rank=16, runner="v1")
    assert f"{FOLDERS}='{tmp_path}/a b'" in whole
    assert "--logits-processors expunge.serve.vllm_plugin:GuardV1" in whole
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1" in whole
    assert "--enable-lora --max-lora-rank 16" in whole
    with pytest.raises(ConfigError, match="vLLM takes 8, 16"):
        print_command("org/model", max_lora_rank=12)
