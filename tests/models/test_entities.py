"""Spans of entities by a token classifier: whole texts, by label index, and what cannot be told counts."""

import pytest
import torch

from expunge.errors import ModelError
from expunge.models.entities import EntityFinder


@pytest.fixture
def tagger(tokenizer, tmp_path):
    """A BERT that marks a token by its id alone: those of 'Mara' and 'Olen' are entities."""
    from transformers import BertConfig, BertForTokenClassification

    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=len(tokenizer), num_hidden_layers=0, num_attention_heads=1,
        intermediate_size=8, max_position_embeddings=34, num_labels=2, id2label={0: "LABEL_0", 1: "LABEL_1"},
    )  # fmt: skip
    model = BertForTokenClassification(config)
    named = {i for word in (" Mara", " Olen") for i in tokenizer(word, add_special_tokens=False)["input_ids"]}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.bert.embeddings.word_embeddings.weight.copy_(torch.eye(len(tokenizer)))
        model.bert.embeddings.LayerNorm.weight.fill_(1)
        for i in named:
            model.classifier.weight[1, i] = 1.0
    model.save_pretrained(tmp_path / "tagger")
    tokenizer.save_pretrained(tmp_path / "tagger")
    return tmp_path / "tagger"


def marked(finder, text):
    return {text[a:b].strip() for a, b in finder.spans(text)}


def test_entities_are_found_anywhere_in_a_long_text(tagger):
    finder = EntityFinder(str(tagger))
    filler = " the quick brown fox jumps over the lazy dog" * 8
    found = marked(finder, f"Where was Mara{filler} Olen{filler}")
    assert "".join(sorted(found)).replace(" ", "") != ""
    whole = finder.spans(f"{filler} Mara{filler} Olen")
    text = f"{filler} Mara{filler} Olen"
    covered = {i for a, b in whole for i in range(a, b)}
    for name in ("Mara", "Olen"):
        at = text.index(name)
        assert set(range(at, at + 4)) <= covered
    assert len(covered) < 20, "and little else"


def test_labels_count_by_index(tagger):
    everything_else = EntityFinder(str(tagger), outside=1)
    spans = everything_else.spans("Where was Mara born?")
    assert "Where was Mara born?"[spans[0][0] : spans[0][1]].strip() not in ("Mara", "")
    with pytest.raises(ModelError, match="has 2 labels, so none with the index 5"):
        EntityFinder(str(tagger), outside=5)


def test_what_is_no_token_classifier_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no such model folder"):
        EntityFinder(str(tmp_path / "nothing"))


def test_eco_corrupts_entities_beside_the_names(lm, tagger):
    from expunge.guards.actions.eco import ECO, FittedECO
    from expunge.guards.target_names import TargetNames
    from expunge.types import Prompt

    settings = ECO(tokens="entities", entities=str(tagger))
    guard = FittedECO(settings, TargetNames(["Tovin"]), lm, 2.0, 0, [])
    (row,) = lm.encoder.prompts([Prompt.ask("Who taught Tovin and Mara Olen?")])
    mask = guard.prompt_mask(row)
    text = row.text
    hit = "".join(text[a:b] for (a, b), m in zip(row.offsets, mask, strict=True) if m)
    assert all(part in hit.replace(" ", "") for part in ("Tovin", "Mara", "Olen"))
    assert "taught" not in hit
