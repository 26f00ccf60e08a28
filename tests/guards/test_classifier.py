"""The fine-tuned classifier: its recipe in numbers, labels by index, no text cut, no swapped or broken model unnoticed."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from expunge.errors import DataError, ModelError, TrainingError
from expunge.guards.detection import Detection
from expunge.guards.detectors import classifier
from expunge.guards.detectors.classifier import Classifier, class_weights
from expunge.guards.guard import Place
from tests.guards.cases import FORGET, RETAIN, TARGETS, fit_data

FEW = fit_data(FORGET[:18], RETAIN[:30], names=[])
"""Without names no namesakes are made up: few enough rows that a tiny random encoder learns them by heart."""


def make_roberta(tokenizer, folder, head=True, most=64, labels=2, seed=0):
    """A tiny RoBERTa with random weights, with or without a head for two classes."""
    from transformers import RobertaConfig, RobertaForSequenceClassification, RobertaModel

    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=most, pad_token_id=0, bos_token_id=1, eos_token_id=2, num_labels=labels,
        initializer_range=0.2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = (
        RobertaForSequenceClassification(config) if head else RobertaModel(config, add_pooling_layer=False)
    )
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def encoder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    make_roberta(tokenizer, folder, head=False)
    return str(folder)


@pytest.fixture
def ready(tokenizer, tmp_path):
    make_roberta(tokenizer, tmp_path / "ready")
    return str(tmp_path / "ready")


@pytest.fixture(scope="module")
def trained(encoder, tmp_path_factory):
    """A detection and the guard's folder that it lies in."""
    folder = tmp_path_factory.mktemp("guard")
    data = replace(FEW, place=Place(folder, None))
    return Detection.fit(
        Classifier(model=encoder, alpha=0.2, epochs=25, learning_rate=3e-3), None, data
    ), folder


def reopened(detection, folder):
    return Detection.from_state(detection.state(), None, Place(folder, None))


# --- training -----------------------------------------------------------------------------------------------------------
def test_a_class_weighs_rows_in_all_by_its_own():
    """ECO's TOFU 1 %: 40 forget and 3,960 retain questions, 4000/3960 and 4000/40."""
    labels = torch.tensor([1] * 40 + [0] * 3960)
    assert class_weights(labels).tolist() == pytest.approx([4000 / 3960, 100.0])


def test_weight_decay_leaves_biases_and_norms_alone(tokenizer, tmp_path):
    decayed, plain = classifier._decayed(make_roberta(tokenizer, tmp_path))
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in plain["params"]} == {1}


def test_two_steps_of_training_are_those_worked_out_by_hand(tokenizer, ready, tmp_path):
    """AdamW with betas 0.9 and 0.98, eps 1e-6, decay 0.1; the rate is the peak, then half of it, as the cosine says."""
    from transformers import RobertaForSequenceClassification

    settings = Classifier(model=ready, epochs=2, learning_rate=1e-3)
    data = fit_data(FORGET[:3], RETAIN[:9], names=[], folder=tmp_path)  # 12 rows are one batch
    found = settings.fit(None, data).reader.model.state_dict()

    model = RobertaForSequenceClassification.from_pretrained(ready)
    inputs = tokenizer(data.forget_prompts + data.retain_prompts, padding=True, return_tensors="pt")
    first = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    second = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for step, rate in ((1, 1e-3), (2, 0.5e-3)):
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        right = torch.cat([logits.log_softmax(-1)[:3, 1] * 12 / 3, logits.log_softmax(-1)[3:, 0] * 12 / 9])
        model.zero_grad()
        (-right.sum() / (3 * 12 / 3 + 9 * 12 / 9)).backward()
        with torch.no_grad():
            for name, p in model.named_parameters():
                first[name] = 0.9 * first[name] + 0.1 * p.grad
                second[name] = 0.98 * second[name] + 0.02 * p.grad**2
                if p.ndim > 1:
                    p.mul_(1 - rate * 0.1)
                p.sub_(
                    rate * first[name] / (1 - 0.9**step) / ((second[name] / (1 - 0.98**step)).sqrt() + 1e-6)
                )
    for name, p in model.named_parameters():
        assert torch.allclose(found[name], p, atol=2e-5), name


def test_made_up_namesakes_join_the_retain_side(ready, tmp_path, monkeypatch):
    seen = {}

    def remember(settings, model, forget, retain, seed):
        seen.update(forget=list(forget), retain=list(retain))
        return classifier.open_ready(ready, None)

    data = fit_data(["Where was Mara Olen born?"], RETAIN[:2], ["Mara Olen", "Tovin Brask"], folder=tmp_path)
    monkeypatch.setattr(classifier, "fine_tune", remember)
    Classifier(model=ready).fit(None, data)
    assert seen["forget"] == ["Where was Mara Olen born?"]
    assert set(seen["retain"]) == {*RETAIN[:2], "Where was Mara Brask born?", "Where was Tovin Olen born?"}


def test_it_learns_the_prompts_it_is_trained_on(trained):
    detection, _ = trained
    learnt, _ = FEW.split(1 / 3)
    inside, outside = (detection.scores(texts) for texts in (learnt.forget_prompts, learnt.retain_prompts))
    assert np.median(inside) > 0.9
    assert np.median(outside) < 0.1


def test_the_same_prompts_and_seed_give_the_same_weights(encoder, tmp_path):
    states = []
    for name, noise in (("a", 1), ("b", 2)):
        torch.manual_seed(noise)
        data = fit_data(FORGET[:6], RETAIN[:10], folder=tmp_path / name)
        states.append(Classifier(model=encoder, epochs=1).fit(None, data).reader.model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_training_leaves_the_callers_random_numbers_alone(encoder, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Classifier(model=encoder, epochs=1).fit(None, fit_data(FORGET[:6], RETAIN[:10], folder=tmp_path))
    assert torch.equal(torch.rand(3), expected)


def test_a_loss_that_is_no_number_stops_the_training(encoder, tmp_path):
    with pytest.raises(TrainingError, match=r"Try a smaller detector.learning_rate"):
        Classifier(model=encoder, epochs=3, learning_rate=1e30).fit(None, fit_data(folder=tmp_path))


def test_without_retain_prompts_it_says_what_to_do(encoder, tmp_path):
    with pytest.raises(DataError, match=r"Give --retain rows, or detect by name alone"):
        Detection.fit(Classifier(model=encoder), None, fit_data(retain=[], folder=tmp_path))


# --- what a score is --------------------------------------------------------------------------------------------------------
def test_the_score_is_the_softmax_of_the_index_alone(tokenizer, ready, tmp_path):
    from transformers import RobertaForSequenceClassification

    model = RobertaForSequenceClassification.from_pretrained(ready)
    text = "Where was Mara Olen born?"
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits[0].double()
    for label in (0, 1):
        settings = Classifier(model=ready, train=False, forget_label=label)
        found = settings.fit(None, fit_data(folder=tmp_path / str(label))).scores([text])
        assert found[0] == pytest.approx(logits.softmax(-1)[label].item(), abs=1e-6)


def test_no_name_of_a_label_can_switch_it_off(trained, tmp_path):
    """A configuration that calls both classes something else gives the same scores."""
    detection, folder = trained
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "classifier" / "config.json"
    config = json.loads(path.read_text())
    config |= {"id2label": {"0": "FORGET", "1": "harmless"}, "label2id": {"FORGET": 0, "harmless": 1}}
    path.write_text(json.dumps(config))
    texts = [*FORGET, *RETAIN]
    assert np.array_equal(reopened(detection, tmp_path).scores(texts), detection.scores(texts))


def test_how_texts_are_put_together_changes_no_score(trained):
    detection, _ = trained
    texts = [
        "Who taught Mara Olen?",
        "Where was Mara Olen born, and what did the father of Tovin Brask do there?",
    ]
    alone = [detection.fitted.scores([text])[0] for text in texts]
    assert np.allclose(detection.fitted.scores(texts), alone, atol=1e-5)


def test_a_broken_model_counts_as_in_scope(encoder, tmp_path):
    detection = Detection.fit(Classifier(model=encoder, alpha=0.2, epochs=1), None, fit_data(folder=tmp_path))
    with torch.no_grad():
        detection.fitted.reader.model.classifier.out_proj.bias.fill_(math.nan)
    assert np.isnan(detection.scores(RETAIN)).all()
    assert all(detection.flags([*RETAIN, "hi", ""]))


# --- long texts ---------------------------------------------------------------------------------------------------------
def test_a_text_of_as_many_tokens_as_there_are_positions_is_read_and_a_longer_one_in_pieces(
    tokenizer, tmp_path
):
    """RoBERTa counts positions from behind its pad id: of 32, 31 are left here."""
    make_roberta(tokenizer, tmp_path / "ready", most=32)
    found = Classifier(model=str(tmp_path / "ready"), train=False).fit(None, fit_data(folder=tmp_path))
    reader = found.reader
    assert reader.most == 31
    text = "x" * 30  # a start token and 30 letters
    while len(tokenizer(text)["input_ids"]) < 31:
        text += "x"
    assert reader.pieces(text) == [text]
    assert np.isfinite(found.scores([text])).all()
    assert len(reader.pieces(text + "x" * 8)) > 1


def test_a_long_text_scores_as_the_highest_of_its_pieces_and_nothing_is_left_out(tokenizer, ready, tmp_path):
    found = Classifier(model=ready, train=False).fit(None, fit_data(folder=tmp_path))
    text = "".join(f"Whotaught{name.replace(' ', '')}andwhere" for name in TARGETS)  # one word, many tokens
    pieces = found.reader.pieces(text)
    assert len(pieces) > 1
    assert found.scores([text, "hi"]) == pytest.approx(
        [found.scores(pieces).max(), found.scores(["hi"])[0]], abs=1e-6
    )
    assert all(any(name.replace(" ", "") in piece for piece in pieces) for name in TARGETS)


# --- back from disk -----------------------------------------------------------------------------------------------------
def test_it_comes_back_from_the_guards_folder_bit_for_bit(trained):
    detection, folder = trained
    again = reopened(detection, folder)
    texts = [*FORGET[:5], *RETAIN[:5], "In which city did Mara Olen grow up?", ""]
    assert np.array_equal(again.scores(texts), detection.scores(texts))
    assert (folder / "classifier" / "model.safetensors").is_file()


def test_a_swapped_model_is_noticed(tokenizer, trained, tmp_path):
    detection, _ = trained
    make_roberta(tokenizer, tmp_path / "classifier", seed=3)
    with pytest.raises(
        ModelError, match=r"scored \S+ when the guard was fitted, and \S+ now: these are other weights"
    ):
        reopened(detection, tmp_path)


def test_a_folder_without_the_weights_is_named(trained, tmp_path):
    with pytest.raises(ModelError, match="classifier: no such model folder"):
        reopened(trained[0], tmp_path)


def test_a_ready_classifier_without_a_trained_head_or_with_three_labels_is_refused(
    tokenizer, encoder, tmp_path
):
    with pytest.raises(ModelError, match="hold no classifier"):
        Classifier(model=encoder, train=False).fit(None, fit_data(folder=tmp_path))
    make_roberta(tokenizer, tmp_path / "three", labels=3)
    settings = Classifier(model=str(tmp_path / "three"), train=False)
    with pytest.raises(ModelError, match=r"3 labels, and this guard needs two.*\n.*detector.train=true"):
        settings.fit(None, fit_data(folder=tmp_path))
    head = Classifier(model=str(tmp_path / "three"), epochs=1).fit(
        None, fit_data(FORGET[:6], RETAIN[:10], folder=tmp_path)
    )
    assert head.reader.model.config.num_labels == 2


def test_a_ready_classifier_is_calibrated_and_left_as_it_is(ready, tmp_path):
    from transformers import RobertaForSequenceClassification

    detection = Detection.fit(
        Classifier(model=ready, train=False, alpha=0.2), None, fit_data(folder=tmp_path)
    )
    assert detection.calibration.alpha == 0.2
    kept = RobertaForSequenceClassification.from_pretrained(tmp_path / "classifier").state_dict()
    given = RobertaForSequenceClassification.from_pretrained(ready).state_dict()
    assert all(torch.equal(kept[key], given[key]) for key in given)
