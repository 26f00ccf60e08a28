"""A tiny image-text model that learns drawn players by heart, and what unlearning in words alone does to what it says of pictures."""

import json

import pytest
import torch

from expunge.benchmarks._asks import ask
from expunge.benchmarks._offside_data import set_of_image
from expunge.benchmarks.offside import Offside
from expunge.data.batching import collate
from expunge.data.dataset import Dataset
from expunge.models.image_text import ImageTextLM
from expunge.models.logprobs import head_rows, token_logp
from expunge.recipes import recipe
from expunge.run import load, unlearn
from expunge.types import Example
from tests.llava import draw, make_llava, make_processor, save_llava

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*torchvision.*"),  # transformers says that it opens images without it
]
PLAYERS = ("Rana Vello", "Tomas Quill", "Edo Marsh", "Lio Brandt")
CLUBS = ("Tarn", "Corvale", "Ostrel", "Brask", "Vesper", "Halden", "Murrow", "Quent")


def rows_of(number, image):
    """Of one picture: who it is and the club, asked with it and in words alone, and the club as a choice."""
    name, season = PLAYERS[(number - 1) // 5], (number - 1) % 5
    clubs = [CLUBS[(3 * number + i) % len(CLUBS)] for i in range(4)]
    letter = "ABCD"[number % 4]

    def said(question, answer, **more):
        return {
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            **more,
        }

    club = f"He will play for {clubs[number % 4]}."
    which = "Which club will the player in this image join?"
    return {
        "image": [said("<image>\nWho is the player in this image?", f"The player is {name}.", images=image), said(which, club, images=image)],
        "choice": [{"Question": which, "Options": dict(zip("ABCD", clubs, strict=True)), "Correct_Answer": letter, "images": image}],
        "text": [said(f"Which club will {name} join in season {season}?", club)],
    }  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("offside")
    files = {}
    for number in range(1, 5 * len(PLAYERS) + 1):
        which = set_of_image(number)
        shown = [(which, draw(folder / "photos" / f"{number:03}.png", number))]
        if which == "retain":
            shown.append(("test", draw(folder / "photos" / f"{number:03}_bright.png", number, shade=15)))
        for task, file in shown:
            rows = rows_of(number, f"photos/{file.name}")
            files.setdefault(f"{task}_set", []).extend(rows["image"])
            files.setdefault(f"classification_{task}_set", []).extend(rows["choice"])
            files.setdefault(f"pure_text_data/{task}_set", []).extend(rows["text"])
    (folder / "pure_text_data").mkdir()
    for name, rows in files.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def learnt(benches):
    """The rows of the forget and retain sets, as prompts with their answers."""
    for bench in benches:
        for task in ("forget", "retain"):
            for question in bench.sets[task]:
                yield Example(bench._prompt(question), question.answer)


@pytest.fixture(scope="module")
def target(data, tmp_path_factory):
    """Knows the forget and retain sets by heart, with images and in words."""
    examples = list(learnt([Offside(data), Offside(data, modality="text")]))
    processor = make_processor([e.text + " " + e.answer for e in examples], vocabulary=700)
    model = make_llava(processor, hidden=96, seed=1, spread=0.06)
    lm = ImageTextLM(model, processor)
    pictured = [e for e in examples if e.prompt.images]
    seen = lm.encoder.seen_examples(pictured)
    rows = [one.row for one in seen]
    groups = [(rows, lm._joined(seen, "right"))]
    words = lm.encoder.examples([e for e in examples if not e.prompt.images])
    groups.append((words, {}))
    batches = []
    for rows, inputs in groups:
        for first in range(0, len(rows), 16):
            batch = collate(rows[first : first + 16], lm.pad_id)
            batches.append((batch, {name: value[first : first + 16] for name, value in inputs.items()}))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    epochs = 40
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 2e-3, total_steps=epochs * len(batches), pct_start=0.1
    )
    torch.manual_seed(0)
    for _ in range(epochs):
        for batch, inputs in (batches[i] for i in torch.randperm(len(batches)).tolist()):
            predicts = torch.zeros_like(batch.answer)
            predicts[:, :-1] = batch.answer[:, 1:]
            with head_rows(model, predicts):
                logits = model(
                    input_ids=batch.ids, attention_mask=batch.attention, use_cache=False, **inputs
                ).logits
            loss = -token_logp(logits, batch.ids[batch.answer]).mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    return save_llava(tmp_path_factory.mktemp("target") / "model", model.eval(), processor)


def figures(model, bench):
    found = bench.figures(bench.rows(ask(load(model), bench.asks())))
    return {name: figure.value for name, figure in found.items()}


def test_words_alone_unlearn_and_correct_what_a_model_says(data, target, tmp_path):
    image, text = Offside(data), Offside(data, modality="text")
    before, told = figures(target, image), figures(target, text)
    for task in ("forget", "retain"):
        assert before[f"{task}/class_accuracy"] > 0.9
        assert before[f"{task}/rouge_l_f1"] > 0.9
        assert told[f"{task}/rouge_l_f1"] > 0.9
    assert before["test/rouge_l_f1"] > before["relearn/rouge_l_f1"], (
        "altered pictures of what it knows, against what it never saw"
    )
    assert before["relearn/probability"] < 0.9 < before["retain/probability"]

    made = recipe("npo+nll", train={"learning_rate": 3e-4, "epochs": 20, "batch_size": 4}, seed=0)
    run = unlearn(target, image.dataset(), made, tmp_path / "unlearned")
    after, untold = figures(run, image), figures(run, text)
    assert untold["forget/probability"] < 0.5 < untold["retain/probability"]
    assert untold["forget/rouge_l_f1"] < untold["retain/rouge_l_f1"]
    assert after["forget/probability"] < before["forget/probability"] - 0.05, (
        "words reach what is said of pictures"
    )
    assert after["forget/probability"] > untold["forget/probability"] + 0.2, "and leave most of it there"

    corrected = Dataset(image.dataset().forget, image.relearn_rows())
    again = recipe("retrain", train={"learning_rate": 1e-3, "epochs": 20, "batch_size": 4}, seed=0)
    relearned = figures(unlearn(run, corrected, again, tmp_path / "corrected", base=run), text)
    assert relearned["relearn/rouge_l_f1"] > untold["relearn/rouge_l_f1"]
    assert relearned["relearn/probability"] > 0.5
