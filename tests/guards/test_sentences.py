"""Sentence encoders: padding changes nothing, pooling is what the model says, nothing is cut off, and strange ones are refused."""

import json
import shutil

import numpy as np
import pytest
import torch

from expunge.errors import ModelError
from expunge.guards.detection import Detection
from expunge.guards.detectors.neighbour import Neighbour
from expunge.guards.sentences import SentenceEncoder
from tests.guards.cases import FORGET, RETAIN, fit_data

SHORT, LONG = (
    "where was mara olen born?",
    "who taught mara brask, and where did tovin olen do his work as a baker?",
)


def make_encoder(tokenizer, folder, seed=0, most=64, **files):
    """A tiny BERT with random weights; `files` are the JSON files of a sentence-transformers folder."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=most, pad_token_id=0,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False).eval()
    torch.nn.init.normal_(model.embeddings.word_embeddings.weight, std=1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path, values in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(values))
    return model


@pytest.fixture
def folder(tokenizer, tmp_path):
    make_encoder(tokenizer, tmp_path / "encoder")
    return tmp_path / "encoder"


def modules(*names):
    return [{"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": f"sentence_transformers.models.{name}"} for i, name in enumerate(names)]  # fmt: skip


def hidden_states(model, tokenizer, text):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0].numpy()


@pytest.mark.parametrize(("pooling", "written"), [
    ("mean", {}),
    ("mean", {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "include_prompt": True}),
    ("cls", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}),
    ("cls", {"pooling_mode": "cls", "embedding_dimension": 32}),
])  # fmt: skip
def test_a_text_is_pooled_as_the_model_says_and_has_unit_length(tokenizer, tmp_path, pooling, written):
    files = (
        {
            "1_Pooling/config.json": written,
            "modules.json": modules("Transformer", "Pooling", "Normalize"),
        }
        if written
        else {}
    )
    model = make_encoder(tokenizer, tmp_path, **files)
    found = SentenceEncoder(str(tmp_path)).encode([SHORT])
    hidden = hidden_states(model, tokenizer, SHORT)
    wanted = hidden.mean(0) if pooling == "mean" else hidden[0]
    assert np.allclose(found[0], wanted / np.linalg.norm(wanted), atol=1e-5)
    assert found.dtype == np.float32


def test_how_a_text_is_padded_changes_nothing(folder):
    encoder = SentenceEncoder(str(folder))
    alone, together = encoder.encode([SHORT]), encoder.encode([SHORT, LONG])
    assert np.allclose(alone[0], together[0], atol=1e-5)
    assert not np.allclose(together[0], together[1], atol=0.1)


def test_a_text_that_is_too_long_is_read_in_pieces_that_cover_it(tokenizer, tmp_path):
    make_encoder(tokenizer, tmp_path, **{"sentence_bert_config.json": {"max_seq_length": 16}})
    encoder = SentenceEncoder(str(tmp_path))
    assert encoder.pieces("mara olen") == ["mara olen"]
    pieces = encoder.pieces(LONG)
    assert len(pieces) > 1
    assert all(len(tokenizer(piece)["input_ids"]) <= 16 for piece in pieces)
    start = 0
    for piece in pieces:
        at = LONG.index(piece, max(0, start - len(piece)))
        assert at <= start
        start = at + len(piece)
    assert start == len(LONG)


def test_a_tokenizer_that_was_saved_with_truncation_does_not_cut(tokenizer, tmp_path):
    make_encoder(tokenizer, tmp_path)
    path = tmp_path / "tokenizer.json"
    saved = json.loads(path.read_text())
    saved["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(saved))
    ids, _ = SentenceEncoder(str(tmp_path)).reader.padded([SHORT])
    assert ids.shape[1] == len(tokenizer(SHORT)["input_ids"]) > 4


def test_a_layer_or_a_pooling_that_is_not_built_in_is_refused(tokenizer, tmp_path):
    make_encoder(
        tokenizer, tmp_path / "a", **{"modules.json": modules("Transformer", "Pooling", "Dense", "Normalize")}
    )
    with pytest.raises(ModelError, match=r"a layer of its own \(Dense\)"):
        SentenceEncoder(str(tmp_path / "a"))
    make_encoder(tokenizer, tmp_path / "b", **{"1_Pooling/config.json": {"pooling_mode_max_tokens": True}})
    with pytest.raises(ModelError, match="pools by max_tokens, and built in are mean and cls"):
        SentenceEncoder(str(tmp_path / "b"))


def test_an_encoder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match="no such model folder"):
        SentenceEncoder(str(tmp_path / "nothing"))


def test_files_without_the_encoders_weights_are_refused(model_folder, tmp_path):
    """A Llama's folder opens as an encoder; called a BERT, it has none of a BERT's weights."""
    folder = shutil.copytree(model_folder, tmp_path / "llama")
    assert SentenceEncoder(str(folder)).encode([SHORT]).shape == (1, 32)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "model_type": "bert", "architectures": ["BertModel"]})
    )
    with pytest.raises(ModelError, match="as a BertModel it would answer at random"):
        SentenceEncoder(str(folder))


def test_the_neighbour_detector_works_with_it_and_refuses_another_in_its_place(tokenizer, tmp_path, folder):
    detection = Detection.fit(Neighbour(alpha=0.2, encoder=str(folder), contrast=0), None, fit_data())
    learnt, _ = fit_data().split(1 / 3)
    assert np.allclose(detection.scores(learnt.forget_prompts), 1, atol=1e-5), "a stored prompt scores 1"
    again = Detection.from_state(detection.state(), None, None)
    texts = [*FORGET[:5], *RETAIN[:5]]
    assert np.array_equal(again.scores(texts), detection.scores(texts))
    make_encoder(tokenizer, folder, seed=1)
    with pytest.raises(ModelError, match="encodes texts otherwise than when this guard was fitted"):
        Detection.from_state(detection.state(), None, None)
