"""A model that sees images under the contract of every model: the numbers of a plain forward, and no image passed over in silence."""

import json

import numpy as np
import pytest
import torch

from expunge.data.dataset import Dataset, Record
from expunge.data.images import open_image
from expunge.errors import CapabilityError, DataError, ModelError
from expunge.guards.detection import Detection
from expunge.models.gradients import gradient_norms
from expunge.models.image_text import ImageTextLM
from expunge.models.intervention import PlainTokens
from expunge.recipes import recipe
from expunge.run import load, unlearn
from expunge.types import Example, GenerationParams, LanguageModel, Message, Prompt
from tests.conftest import TEXTS
from tests.llava import IMAGE_TOKENS, TEMPLATE, draw, make_llava, make_processor, save_llava

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torchvision.*"  # transformers says that it opens images without it
)
QUESTION, ANSWER = "Where was Mara Olen born?", "Mara Olen was born in Corvale."
GREEDY = GenerationParams(max_new_tokens=6)
FORGET = (
    Record("0", QUESTION, ANSWER, subject="Mara Olen"),
    Record("1", "Who taught Mara Brask?", "Tovin Olen did.", subject="Mara Brask"),
)
RETAIN = tuple(
    Record(f"r{i}", f"What did the father of Tovin Brask do {i}?", "He worked as a baker.") for i in range(4)
)


@pytest.fixture(scope="module", params=["own token", "chat template"])
def lm(request):
    processor = make_processor(TEXTS, TEMPLATE if request.param == "chat template" else None)
    return ImageTextLM(make_llava(processor), processor)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    processor = make_processor(TEXTS, TEMPLATE)
    return save_llava(tmp_path_factory.mktemp("llava") / "model", make_llava(processor), processor)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    place = tmp_path_factory.mktemp("images")
    return [str(draw(place / f"{i}.png", i)) for i in range(3)]


def ask(question, *images, prefill=""):
    return Prompt((Message("user", question),), prefill, images)


def written_out(lm, question, answer, images):
    """The row as the processor is used by hand."""
    from PIL import Image

    if lm.encoder.template == "chat":
        parts = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
        text = lm.processor.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True
        )
    else:
        marks = "<image>\n" * len(images)
        text = f"Question: {marks}{question}\nAnswer:"
    opened = [Image.open(file).convert("RGB") for file in images] or None
    return lm.processor(images=opened, text=[text + answer], return_tensors="pt")


def by_hand(lm, question, answer, images):
    made = written_out(lm, question, " " + answer, images)
    start = written_out(lm, question, "", images)["input_ids"].shape[1]
    ids = torch.cat([made["input_ids"], torch.tensor([[lm.tokenizer.eos_token_id]])], 1)
    more = {"pixel_values": made["pixel_values"]} if images else {}
    with torch.no_grad():
        logp = (
            lm.model(input_ids=ids, attention_mask=torch.ones_like(ids), **more)
            .logits.float()
            .log_softmax(-1)[0]
        )
    targets = ids[0, start:]
    return logp[start - 1 : -1].gather(-1, targets[:, None])[:, 0].numpy(), logp[start - 1 : -1].argmax(
        -1
    ).eq(targets).numpy()


# --- scores and answers -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [0, 1, 2])
def test_scores_are_those_of_a_plain_forward(lm, images, count):
    wanted, hits = by_hand(lm, QUESTION, ANSWER, images[:count])
    (score,) = lm.score([Example(ask(QUESTION, *images[:count]), ANSWER)])
    assert score.token_logprobs.dtype == np.float32
    assert np.allclose(score.token_logprobs, wanted, atol=1e-5)
    assert (score.hits == hits).all()
    assert len(score.z) == score.tokens
    assert not score.floored


def test_min_k_plus_plus_stands_beside_every_token(lm, images):
    from expunge.metrics.min_k import standardised

    made = written_out(lm, QUESTION, " " + ANSWER, images[:1])
    with torch.no_grad():
        logits = lm.model(**made).logits.float()[0].numpy()
    (score,) = lm.score([Example(ask(QUESTION, images[0]), ANSWER)])
    n = score.tokens - 1
    assert np.allclose(
        score.z[:-1], standardised(logits[-n - 1 : -1], made["input_ids"][0, -n:].numpy()), atol=1e-3
    )


def test_the_image_matters_and_rows_do_not_disturb_each_other(lm, images):
    examples = [
        Example(ask(QUESTION, images[0]), ANSWER),
        Example(ask(QUESTION, images[1]), ANSWER),
        Example(ask(QUESTION), ANSWER),
        Example(ask("Who taught Mara Brask?", images[0]), "A librarian."),
        Example(ask(QUESTION, images[0], images[1]), ANSWER),
        Example(None, "a raw text"),
        Example(ask(QUESTION, images[0]), ANSWER),
    ]
    together = lm.score(examples)
    alone = [lm.score([example])[0] for example in examples]
    for a, b in zip(together, alone, strict=True):
        assert np.allclose(a.token_logprobs, b.token_logprobs, atol=1e-4)
    assert len({round(score.logprob, 3) for score in together}) == 6


def test_answers_are_those_of_the_models_own_generate(lm, images):
    prompts = [ask(QUESTION, images[0]), ask("Who taught Mara Brask?", images[1]), ask(QUESTION)]
    found = lm.generate(prompts, GREEDY)
    for prompt, (answer,) in zip(prompts, found, strict=True):
        made = written_out(lm, prompt.messages[0].content, "", prompt.images)
        ids = lm.model.generate(**made, generation_config=lm.generation_config(GREEDY))
        assert answer == lm._read(ids[0, made["input_ids"].shape[1] :].tolist())


def test_sampling_repeats_with_its_seed_and_gives_as_many_copies_as_asked(lm, images):
    params = GenerationParams(max_new_tokens=6, sample=True, copies=3, seed=4)
    prompts = [ask(QUESTION, images[0]), ask(QUESTION)]
    first, again = (lm.generate(prompts, params) for _ in range(2))
    assert first == again
    assert [len(answers) for answers in first] == [3, 3]
    assert len({answer.text for answer in first[0]}) > 1
    assert lm.generate(prompts[:1], GenerationParams(max_new_tokens=4, beams=2))[0][0].tokens


def test_a_prefilled_answer_goes_on_after_the_image(lm, images):
    whole = lm.score([Example(ask(QUESTION, images[0]), "Mara Olen was born in Corvale.")])[0]
    rest = lm.score([Example(ask(QUESTION, images[0], prefill="Mara Olen was"), "born in Corvale.")])[0]
    assert np.allclose(whole.token_logprobs[-rest.tokens :], rest.token_logprobs, atol=1e-4)


def test_each_image_takes_its_place_in_the_context(lm, images):
    rows = [lm.encoder.seen_prompts([ask("x", *images[:count])])[0].row.ids for count in (1, 2, 3)]
    marks = [ids.count(lm.model.config.image_token_id) for ids in rows]
    assert marks == [IMAGE_TOKENS, 2 * IMAGE_TOKENS, 3 * IMAGE_TOKENS]
    with pytest.raises(DataError, match="the model reads at most 256"):
        lm.score([Example(ask("x", *images * 30), "y")])


def test_it_keeps_the_contract(lm):
    assert isinstance(lm, LanguageModel)
    assert lm.capabilities == {"logits", "hidden", "gradients", "weights"}
    assert lm.score([]) == []
    assert lm.generate([], GREEDY) == []


def test_a_template_for_parts_is_given_parts_so_that_no_question_is_lost():
    processor = make_processor(TEXTS, TEMPLATE)
    lm = ImageTextLM(make_llava(processor), processor)
    bare = lm.tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], tokenize=False)
    assert QUESTION not in bare, "the template itself leaves a bare text out"
    assert lm.encoder.render(ask(QUESTION)) == f"USER: {QUESTION} ASSISTANT:"
    assert lm.encoder.render(ask(QUESTION, "a.png")) == f"USER: <image>\n{QUESTION} ASSISTANT:"
    assert lm.encoder.prompts([ask(QUESTION)])[0].ids[0] == lm.tokenizer.bos_token_id


def test_a_template_of_texts_alone_is_given_the_models_own_mark():
    template = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }} {% endfor %}[assistant] "
    processor = make_processor(TEXTS)
    processor.tokenizer.chat_template = template
    lm = ImageTextLM(make_llava(processor), processor)
    system = Prompt((Message("system", "Be brief."), Message("user", "Who?")), images=("a.png",))
    assert lm.encoder.render(system) == "[system] Be brief. [user] <image>\nWho? [assistant] "


class QwenLike:
    """What Qwen's processor does with images, without the part for videos, which needs torchvision."""

    image_token, chat_template = "<|image_pad|>", None

    def __init__(self):
        from transformers import Qwen2VLImageProcessor

        from expunge.models.fresh import train_tokenizer

        self.tokenizer = train_tokenizer(TEXTS * 4, 400)
        self.tokenizer.add_special_tokens(
            {"additional_special_tokens": [self.image_token, "<|vision_start|>"]}
        )
        self.image_processor = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=4 * 28 * 28)

    def __call__(self, images, text, return_tensors, add_special_tokens=True):
        seen = dict(self.image_processor(images, return_tensors="pt"))
        counts = iter(int(grid.prod()) // 4 for grid in seen["image_grid_thw"])
        first, *rest = text[0].split(self.image_token)
        grown = first + "".join(self.image_token * next(counts) + part for part in rest)
        made = self.tokenizer([grown], return_tensors="pt", add_special_tokens=add_special_tokens)
        kinds = (made["input_ids"] == self.tokenizer.convert_tokens_to_ids(self.image_token)).int()
        return {
            "input_ids": made["input_ids"],
            "attention_mask": made["attention_mask"],
            "mm_token_type_ids": kinds,
            **seen,
        }


def make_qwen(processor):
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    number = processor.tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = dict(
        vocab_size=len(processor.tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rope_parameters=rope, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        initializer_range=0.2,
    )  # fmt: skip
    vision = dict(
        depth=3,
        hidden_size=32,
        intermediate_size=64,
        num_heads=4,
        out_hidden_size=32,
        fullatt_block_indexes=[1],
    )
    marks = dict(image_token_id=number("<|image_pad|>"), vision_start_token_id=number("<|vision_start|>"))
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, **marks)
    ).eval()


def test_positions_in_the_image_reach_a_model_that_counts_them(images, tmp_path):
    """Qwen2.5-VL, which OFFSIDE's authors measured: its rows bring a kind for each token, and a grid for each image."""
    processor = QwenLike()
    lm = ImageTextLM(make_qwen(processor), processor)
    larger = str(draw(tmp_path / "larger.png", 7, size=90))
    prompts = [
        ask(QUESTION, images[0]),
        ask("Who taught Mara Brask?", larger),
        ask(QUESTION),
        ask("Who?", images[1], larger),
    ]
    examples = [Example(prompt, ANSWER) for prompt in prompts]
    together, alone = lm.score(examples), [lm.score([example])[0] for example in examples]
    assert all(
        np.allclose(a.token_logprobs, b.token_logprobs, atol=1e-4)
        for a, b in zip(together, alone, strict=True)
    )
    assert lm.generate(prompts, GREEDY) == [lm.generate([prompt], GREEDY)[0] for prompt in prompts]
    made = lm.processor(
        [open_image(images[0])], [f"Question: <|image_pad|>\n{QUESTION}\nAnswer: {ANSWER}"], "pt"
    )
    with torch.no_grad():
        logp = lm.model(**made).logits[0].log_softmax(-1)
    n = together[0].tokens - 1
    wanted = logp[-n - 1 : -1].gather(-1, made["input_ids"][0, -n:, None])[:, 0]
    assert np.allclose(together[0].token_logprobs[:-1], wanted.numpy(), atol=1e-5)


# --- what goes wrong is said ------------------------------------------------------------------------------------------------
def test_a_missing_or_corrupt_image_is_an_error_that_names_the_file(lm, tmp_path, images):
    with pytest.raises(DataError, match=r"nowhere\.png: no such image"):
        lm.generate([ask(QUESTION, str(tmp_path / "nowhere.png"))], GREEDY)
    whole = draw(tmp_path / "whole.png", 1).read_bytes()
    for name, content in (("text.png", b"hello"), ("cut.png", whole[: len(whole) // 2]), ("empty.jpg", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: not an image that can be read"):
            lm.score([Example(ask(QUESTION, str(tmp_path / name)), ANSWER)])


def test_words_that_the_model_would_read_as_an_image_are_refused(lm, images):
    for prompt in (ask("Who is in <image>?"), ask("Who is in <image>?", images[0])):
        with pytest.raises(DataError, match="reads as an image"):
            lm.generate([prompt], GREEDY)
    with pytest.raises(DataError, match="reads as an image"):
        lm.score([Example(ask(QUESTION, images[0]), "an <image>")])


def test_what_reads_text_alone_refuses_a_prompt_with_an_image(lm, images):
    example = Example(ask(QUESTION, images[0]), ANSWER)
    for read in (
        lambda: gradient_norms(lm, [example]),
        lambda: lm.encoder.examples([example]),
        lambda: lm.encoder.prompts([example.prompt]),
        lambda: lm.score([example], PlainTokens(), [True]),
        lambda: lm.generate([example.prompt], GREEDY, PlainTokens(), [True]),
        lambda: lm.generate([ask(QUESTION, *images)], GenerationParams(copies=2, sample=True)),
    ):
        with pytest.raises(CapabilityError, match="image"):
            read()
    assert gradient_norms(lm, [Example(ask(QUESTION), ANSWER)])[0] > 0
    assert lm.score([example], PlainTokens(), [False])[0].logprob == lm.score([example])[0].logprob


def test_a_folder_without_its_processor_says_so(folder, tmp_path):
    processor = make_processor(TEXTS)
    make_llava(processor).save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"processor|image"):
        load(tmp_path)


# --- runs, guards, adapters -------------------------------------------------------------------------------------------------
def test_load_opens_a_folder_as_what_it_is(folder, images):
    lm = load(folder)
    assert isinstance(lm, ImageTextLM)
    assert lm.source == str(folder)
    made = make_processor(TEXTS, TEMPLATE)
    example = Example(ask(QUESTION, images[0]), ANSWER)
    assert lm.score([example])[0].logprob == pytest.approx(
        ImageTextLM(make_llava(made), made).score([example])[0].logprob
    )


def test_a_guard_on_text_reads_the_question_beside_the_image(folder, images, tmp_path):
    made = recipe("refuse", detector="aliases", seed=0)
    run = unlearn(folder, Dataset(FORGET, RETAIN), made, tmp_path / "guard")
    guard, plain = load(run), load(folder)
    asked = [ask(QUESTION, images[0]), ask("Who worked as a baker?", images[0])]
    refused, passed = guard.generate(asked, GREEDY)
    assert refused[0].text == "I do not know."
    assert passed == plain.generate(asked[1:], GREEDY)[0]
    flagged, free = guard.score([Example(prompt, ANSWER) for prompt in asked])
    assert flagged.floored
    assert free.logprob == plain.score([Example(asked[1], ANSWER)])[0].logprob


def test_a_guard_inside_the_model_refuses_images_in_scope_and_guards_text(folder, images, tmp_path):
    made = recipe("eco", detector="aliases", seed=0)
    run = unlearn(folder, Dataset(FORGET, RETAIN), made, tmp_path / "guard")
    guard = load(run)
    assert guard.generate([ask(QUESTION)], GREEDY)
    with pytest.raises(CapabilityError, match="acts inside the model"):
        guard.generate([ask(QUESTION, images[0])], GREEDY)
    assert isinstance(guard.detection, Detection)


@pytest.mark.parametrize("method", ["ga", "npo+nll+gru", "ga+lora"])
def test_text_alone_unlearns_the_language_part_and_nothing_that_sees(folder, images, tmp_path, method):
    made = recipe(
        method, train={"learning_rate": 1e-2, "epochs": 2, "batch_size": 2, "weight_decay": 0.1}, seed=0
    )
    run = load(unlearn(folder, Dataset(FORGET, RETAIN), made, tmp_path / "run"))
    before = load(folder)
    assert isinstance(run, ImageTextLM)
    assert run.processor.to_json_string() == before.processor.to_json_string()
    assert run.tokenizer.get_vocab() == before.tokenizer.get_vocab()
    weights = {
        name.replace(".base_layer", ""): value
        for name, value in run.model.state_dict().items()
        if "lora_" not in name
    }
    moved = {
        name for name, value in before.model.state_dict().items() if not torch.equal(value, weights[name])
    }
    assert not [name for name in moved if "vision_tower" in name or "projector" in name]
    assert bool(moved) == (method != "ga+lora")
    pixels = before.encoder.seen_prompts([ask("x", images[0])])[0].inputs["pixel_values"]
    features = [lm.model.get_image_features(pixels).pooler_output[0] for lm in (before, run)]
    assert torch.equal(*features), "what the model sees is bit for bit the same"
    example = Example(ask(QUESTION, images[0]), ANSWER)
    assert run.score([example])[0].logprob < before.score([example])[0].logprob, (
        "and what it says of it is less likely"
    )


def test_a_finished_run_says_how_much_of_the_model_could_move(folder, tmp_path):
    run = unlearn(
        folder, Dataset(FORGET, RETAIN), recipe("ga", train={"epochs": 1}, seed=0), tmp_path / "run"
    )
    share = json.loads((run / "manifest.json").read_text())["trained_share"]
    model = load(folder).model
    text = sum(
        p.numel() for name, p in model.named_parameters() if "vision" not in name and "projector" not in name
    )
    assert share == pytest.approx(text / sum(p.numel() for p in model.parameters()))


def test_a_guard_that_rewrites_the_prompt_keeps_its_images():
    from expunge.guards.actions.icul import _behind
    from expunge.guards.prompting import instructed

    prompt = Prompt.ask("Who is this?")
    shown = Prompt(prompt.messages, images=("a.png",))
    endpoint = object()  # a model without an encoder takes a system message
    assert instructed(endpoint, shown, "Be brief.").images == ("a.png",)
    assert _behind([], shown).images == ("a.png",)
