"""O3's detector: the loss by its golden value, distances against scikit-learn, padding, two topics, and an encoder of its own."""

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.svm import OneClassSVM

from expunge.errors import ConfigError, DataError, ModelError
from expunge.guards.detectors.contrastive_entropy import (
    BATCH,
    HIDDEN,
    ContrastiveEntropy,
    FittedContrastiveEntropy,
    contrastive_entropy,
    fit_shape,
    hide,
    pooled,
)
from expunge.guards.guard import Place
from expunge.guards.state import read_state, write_state
from expunge.models.endpoint import Endpoint
from expunge.models.language_model import TransformerLM
from tests.conftest import make_model
from tests.guards.cases import fit_data, nothing_to_open

WORDS = {
    "cooking": ["bread", "oven", "flour", "salt", "dough", "bake", "sugar", "butter"],
    "sailing": ["boat", "wind", "sail", "mast", "harbour", "rope", "wave", "anchor"],
}


def texts_about(topic, count, seed=0):
    rng = np.random.default_rng([seed, len(topic), ord(topic[0])])
    return list(dict.fromkeys(" ".join(rng.choice(WORDS[topic], 6)) for _ in range(count)))


COOKING, SAILING = texts_about("cooking", 40), texts_about("sailing", 30)
DATA = fit_data(COOKING[:24], [], [])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny RoBERTa with random weights, saved with a tokenizer that knows the words of both topics."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

    known = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *WORDS["cooking"], *WORDS["sailing"]]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = dict(bos="<s>", cls="<s>", pad="<pad>", eos="</s>", sep="</s>", unk="<unk>", mask="<mask>")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=500, **{f"{k}_token": v for k, v in names.items()}
    )
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(known), hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=502, type_vocab_size=1, initializer_range=0.2, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("encoder")
    RobertaForMaskedLM(config).eval().save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def reading():
    """A guarded model with random weights that knows the words of both topics."""
    from expunge.models.fresh import train_tokenizer

    tokenizer = train_tokenizer([*COOKING, *SAILING], 400)
    return TransformerLM(make_model(tokenizer, max_position_embeddings=512), tokenizer)


def placed(folder):
    return fit_data(COOKING[:24], [], [], folder=folder)


# --- the loss -----------------------------------------------------------------------------------------------------------------
def test_the_contrastive_entropy_has_its_golden_value():
    z = 3 * torch.eye(2, dtype=torch.float64)
    assert contrastive_entropy(z, z).item() == pytest.approx(0.001214, abs=5e-7)
    assert contrastive_entropy(0 * z, z).item() == pytest.approx(np.log(2), abs=1e-4)


def test_the_masked_view_hides_a_share_of_the_words_and_one_at_least_in_each_text(encoder):
    from expunge.data.batching import collate
    from expunge.data.tokenize import Encoded
    from expunge.models.masked import MaskedLM

    tokenizer = MaskedLM.open(encoder).tokenizer
    rows = [Encoded(ids, 0, "", [], 0) for ids in tokenizer(["bread", *SAILING * 20])["input_ids"]]
    batch = collate(rows, tokenizer.pad_token_id)
    ids, hidden = hide(batch, tokenizer, torch.Generator().manual_seed(0))
    assert hidden.any(1).all()
    assert not hidden[torch.isin(batch.ids, torch.tensor([0, 1, 2]))].any()
    assert torch.equal(ids[~hidden], batch.ids[~hidden])
    words = (batch.ids > 4)[1:]
    none = (1 - HIDDEN) ** 6  # then one of six words is hidden instead
    expected = HIDDEN + none / 6
    assert hidden[1:][words].float().mean().item() == pytest.approx(expected, abs=0.03)
    assert (ids[hidden] == tokenizer.mask_token_id).float().mean().item() == pytest.approx(0.8, abs=0.05)


# --- distances -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("prompts", [6, 60], ids=["fewer prompts than dimensions", "more"])
def test_distances_are_those_of_scikit_learns_shrunk_covariance_and_of_the_nearest_cosine(prompts):
    rng = np.random.default_rng(0)
    train = rng.normal(size=(prompts, 2, 16)) * rng.uniform(0.3, 3, size=(2, 16))
    new = rng.normal(size=(5, 2, 16))
    found = fit_shape(train, 1000.0, 0.1).distances(new)
    for layer in range(2):
        reference = LedoitWolf().fit(train[:, layer])
        unit = [x[:, layer] / np.linalg.norm(x[:, layer], axis=1, keepdims=True) for x in (new, train)]
        nearest = (unit[0] @ unit[1].T).max(1)
        expected = reference.mahalanobis(new[:, layer]) / 2 + 1000 * (1 - nearest)
        assert np.allclose(found[:, layer], expected, rtol=1e-4)


def test_q_is_the_one_class_svms_score_turned_round_so_that_nearer_is_higher():
    rng = np.random.default_rng(1)
    train, near = rng.normal(size=(40, 3, 8)) + 4, rng.normal(size=(10, 3, 8)) + 4
    shape = fit_shape(train, 1000.0, 0.1)
    assert shape.mix.min() > 0
    assert shape.mix.sum() == pytest.approx(1)
    distances = shape.distances(train)
    svm = OneClassSVM(kernel="linear", nu=0.1).fit(distances / distances.mean())
    far = near * np.linspace(1, -1, 8)
    q = -(shape.distances(np.concatenate([near, far])) @ shape.mix)
    theirs = svm.score_samples(shape.distances(np.concatenate([near, far])))
    assert np.corrcoef(q, theirs)[0, 1] == pytest.approx(-1)
    assert q[:10].min() > q[10:].max()


def test_prompts_that_all_look_alike_are_refused():
    with pytest.raises(DataError, match="look the same"):
        fit_shape(np.ones((5, 2, 8)), 1000.0, 0.1)


# --- the guarded model as encoder ---------------------------------------------------------------------------------------------
def test_the_mean_leaves_padding_out():
    states = torch.tensor([[[1.0], [3.0], [99.0]], [[2.0], [4.0], [6.0]]])
    attention = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pooled([states, 2 * states], attention).squeeze(-1).tolist() == [[2, 4], [4, 8]]


def padded(reader, rows, width):
    """Features of rows beside one long row, which pads all others to `width` tokens."""
    long = rows[0]._replace(ids=(rows[0].ids * width)[:width])
    batch = reader.batch([*rows, long])
    assert batch.ids.shape[1] == width
    with torch.no_grad():
        out = reader.body(input_ids=batch.ids, attention_mask=batch.attention, output_hidden_states=True)
    return pooled(out.hidden_states[1 : reader.layers + 1], batch.attention)[:-1].numpy()


@pytest.mark.parametrize("own", [True, False], ids=["guarded model", "masked model"])
def test_four_hundred_pad_tokens_change_no_score(reading, encoder, tmp_path, own):
    detector = ContrastiveEntropy(encoder=None if own else encoder).fit(reading, placed(tmp_path))
    reader, shape = detector.reader, detector.shape
    texts = [*COOKING[24:30], *SAILING[:6]]
    rows = reader.rows(texts)
    found = -(shape.distances(padded(reader, rows, 400)) @ shape.mix)
    alone = np.concatenate([detector.scores([text]) for text in texts])
    assert np.abs(found - alone).max() < 1e-4
    assert np.abs(alone).max() > 10  # so that this is no more than rounding


@pytest.mark.parametrize("own", [True, False], ids=["guarded model", "masked model"])
def test_two_topics_are_told_apart(reading, encoder, tmp_path, own):
    detector = ContrastiveEntropy(encoder=None if own else encoder).fit(reading, placed(tmp_path))
    inside, outside = detector.scores(COOKING[24:]), detector.scores(SAILING)
    labels = [1] * len(inside) + [0] * len(outside)
    assert roc_auc_score(labels, np.concatenate([inside, outside])) >= 0.9


def test_a_text_that_is_too_long_to_be_read_whole_cannot_be_told(lm):
    detector = ContrastiveEntropy().fit(lm, fit_data(["the quick fox", "a lazy dog", "jumps"], [], []))
    found = detector.scores(["the quick fox", "fox" * 400, "the lazy dog", "the quick fox"])
    assert np.isnan(found).tolist() == [False, True, False, False]


def test_the_state_brings_the_scores_back(reading, tmp_path):
    detector = ContrastiveEntropy(layers=1).fit(reading, DATA)
    write_state(tmp_path, {"it": detector.state()})
    place = Place(tmp_path, nothing_to_open)
    again = FittedContrastiveEntropy.from_state(read_state(tmp_path)["it"], reading, place)
    assert np.array_equal(again.scores(SAILING), detector.scores(SAILING))
    assert again.reader.layers == 1


def test_a_long_text_is_learnt_window_by_window(reading):
    long = " ".join(COOKING[:24])  # 144 words
    detector = ContrastiveEntropy().fit(reading, fit_data([long], [], []))
    assert len(detector.shape.bank) == 7


def test_two_prompts_are_too_few_and_an_endpoint_shows_no_states(reading):
    with pytest.raises(DataError, match="at least three of them, and 2 can"):
        ContrastiveEntropy().fit(reading, fit_data(["bread", "salt"], [], []))
    endpoint = Endpoint("http://127.0.0.1:9/v1", "nobody")
    with pytest.raises(ModelError, match=r"detector\.encoder"):
        ContrastiveEntropy().fit(endpoint, DATA)


# --- an encoder of its own -------------------------------------------------------------------------------------------------------
def test_an_encoder_is_trained_the_same_each_time_and_comes_back_from_the_guards_folder(encoder, tmp_path):
    endpoint = Endpoint("http://127.0.0.1:9/v1", "nobody")  # nothing of the guarded model is asked for
    settings = ContrastiveEntropy(encoder=encoder, learning_rate=1e-2)
    detector, twin = (settings.fit(endpoint, placed(tmp_path / name)) for name in ("a", "b"))
    untrained = ContrastiveEntropy(encoder=encoder, learning_rate=1e-9).fit(endpoint, placed(tmp_path / "c"))
    asked = [*COOKING[24:], *SAILING]
    assert np.array_equal(detector.scores(asked), twin.scores(asked))
    assert np.abs(detector.reader.features(asked) - untrained.reader.features(asked)).max() > 1e-3
    write_state(tmp_path / "a", detector.state())
    place = Place(tmp_path / "a", nothing_to_open)
    again = FittedContrastiveEntropy.from_state(read_state(tmp_path / "a"), endpoint, place)
    assert np.allclose(again.scores(asked), detector.scores(asked), rtol=1e-6)


def test_a_batch_that_is_not_full_is_trained_on_too(encoder, tmp_path):
    few = COOKING[: BATCH - 5]
    settings = ContrastiveEntropy(encoder=encoder, learning_rate=1e-2)
    detector = settings.fit(None, fit_data(few, [], [], folder=tmp_path))
    moved = [p for name, p in detector.reader.body.named_parameters() if "lora_B" in name]
    assert moved
    assert all(p.abs().max() > 0 for p in moved if p.requires_grad)


def test_training_sharpens_which_plain_text_a_masked_one_is_nearest_to(encoder, tmp_path):
    def entropy(learning_rate):
        settings = ContrastiveEntropy(encoder=encoder, learning_rate=learning_rate, epochs=8)
        reader = settings.fit(None, placed(tmp_path / str(learning_rate))).reader
        u = torch.from_numpy(reader.features(COOKING[:24]))
        return [contrastive_entropy(u[:, layer], frozen[:, layer]).item() for layer in range(u.shape[1])]

    plain = ContrastiveEntropy(encoder=encoder, learning_rate=1e-9).fit(None, placed(tmp_path))
    frozen = torch.from_numpy(plain.reader.features(COOKING[:24]))
    assert sum(entropy(1e-2)) < 0.9 * sum(entropy(1e-9))


def test_an_encoder_without_such_modules_is_refused(encoder, tmp_path):
    with pytest.raises(ConfigError, match=r"detector\.targets"):
        ContrastiveEntropy(encoder=encoder, targets=["q_proj"]).fit(None, placed(tmp_path))
