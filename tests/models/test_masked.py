"""Logits at a hidden word, from a tiny masked model with random weights."""

import pytest
import torch

from expunge.errors import DataError, ModelError
from expunge.models.masked import MaskedLM


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return masked_folder(tmp_path_factory.mktemp("masked"))


def masked_folder(folder):
    """A saved BertForMaskedLM over a handful of words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "##s"]
    vocabulary += "mara olen was born in corvale dreburg baker he as a worked is the of town".split()
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = dict(pad="[PAD]", unk="[UNK]", cls="[CLS]", sep="[SEP]", mask="[MASK]")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=40, **{f"{k}_token": v for k, v in names.items()}
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=40, initializer_range=0.5,
    )  # fmt: skip
    BertForMaskedLM(config).eval().save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


TEXT = "Mara Olen was born in Corvale."


def test_only_words_can_be_drawn(folder):
    words = MaskedLM.open(folder).words
    assert words[:8] == ("", "", "", "", "", "", "", "s")
    assert "corvale" in words
    assert len(words) == 24


def test_logits_are_those_of_the_gap_with_the_whole_text_in_view(folder):
    model = MaskedLM.open(folder)
    start = TEXT.index("Corvale")
    (found,) = model.logits([(TEXT, start, start + 7)])
    inputs = model.tokenizer(TEXT, "Mara Olen was born in [MASK].", return_tensors="pt")
    at = inputs["input_ids"][0].tolist().index(4)
    with torch.no_grad():
        expected = model.model(**inputs).logits[0, at]
    assert torch.allclose(found[0], expected, atol=1e-6)
    assert found.dtype == torch.float32


def test_batches_do_not_change_the_logits(folder):
    model = MaskedLM.open(folder)
    places = [(TEXT, 0, 4), ("He worked as a baker in the town of Corvale.", 15, 20), ("Born.", 0, 4)]
    together = torch.cat(list(model.logits(places)))
    model.batch_size = 1
    alone = list(model.logits(places))
    assert [len(part) for part in alone] == [1, 1, 1]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_a_text_that_does_not_fit_twice_is_refused_not_cut(folder):
    with pytest.raises(DataError, match=r"has to fit the masked model twice: \d+ tokens, it reads 40"):
        list(MaskedLM.open(folder).logits([("born " * 30, 0, 4)]))


def test_what_is_no_masked_model_is_refused(model_folder, tmp_path):
    with pytest.raises(ModelError):
        MaskedLM.open(model_folder)
    with pytest.raises(ModelError, match="no such model folder"):
        MaskedLM.open(tmp_path / "none")
