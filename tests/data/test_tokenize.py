"""Which tokens are the answer: by character offsets, whatever the tokenizer merges, with one end token."""

import pytest

from expunge.data.batching import collate
from expunge.data.tokenize import TEMPLATES, Encoder, find_words
from expunge.errors import ConfigError, DataError
from expunge.types import Example, Message, Prompt

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def encode(encoder, example):
    return encoder.examples([example])[0]


def test_answer_tokens_spell_the_answer_and_one_end_token_follows(tokenizer):
    encoder = Encoder(tokenizer, 128)
    row = encode(encoder, Example(Prompt.ask("Where was Mara Olen born?"), "Mara Olen was born in Corvale."))
    assert tokenizer.decode(row.ids[row.start : -1]) == " Mara Olen was born in Corvale."
    assert row.ids[-1] == tokenizer.eos_token_id
    assert row.ids.count(tokenizer.eos_token_id) == 1


def test_a_token_that_merges_prompt_and_answer_counts_as_answer(tokenizer):
    # without a separator "bor" + "n" merge into pieces that straddle the border
    encoder = Encoder(tokenizer, 128, "raw")
    row = encode(encoder, Example(Prompt.ask("was bor"), "n in Corvale"))
    alone = len(tokenizer("was bor")["input_ids"])
    assert "n in Corvale" in tokenizer.decode(row.ids[row.start : -1])
    assert row.start <= alone, "counting the prompt's own tokens would have skipped the merged one"


def test_the_prompt_is_tokenised_alike_with_and_without_its_answer(tokenizer):
    for template in ("qa", "llama2"):
        encoder = Encoder(tokenizer, 128, template)
        prompt = Prompt.ask("Where was Mara Olen born?")
        (alone,) = encoder.prompts([prompt])
        together = encode(encoder, Example(prompt, "Mara Olen was born in Corvale."))
        assert together.ids[: together.start] == alone.ids


def test_raw_text_counts_every_token_but_the_first(tokenizer):
    row = encode(Encoder(tokenizer, 128), Example(None, "Mara Olen was born in Corvale."))
    assert row.start == 1
    assert row.ids[0] == tokenizer.bos_token_id


def test_chat_templates_render_turns_and_end_with_their_own_token(tokenizer):
    import copy

    chat = copy.deepcopy(tokenizer)
    chat.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]})
    chat.chat_template = CHAT
    encoder = Encoder(chat, 128)
    assert encoder.template == "chat"
    assert encoder.end_id == chat.convert_tokens_to_ids("<|end|>")
    prompt = Prompt(
        (Message("user", "Who?"), Message("assistant", "Mara."), Message("user", "Where?")), prefill="In"
    )
    row = encode(encoder, Example(prompt, "Corvale"))
    assert (
        row.text == "<|user|>Who?<|end|><|assistant|>Mara.<|end|><|user|>Where?<|end|><|assistant|>In Corvale"
    )
    assert chat.decode(row.ids[row.start : -1]) == " Corvale"
    assert row.ids[-1] == encoder.end_id


def test_a_prefill_belongs_to_the_prompt(tokenizer):
    encoder = Encoder(tokenizer, 128)
    prompt = Prompt.ask("Where was Mara Olen born?", prefill="Mara Olen was born in")
    row = encode(encoder, Example(prompt, "Corvale."))
    assert tokenizer.decode(row.ids[row.start : -1]) == " Corvale."
    assert row.text.endswith("Answer: Mara Olen was born in Corvale.")


def test_a_row_longer_than_the_context_is_refused_not_cut(tokenizer):
    encoder = Encoder(tokenizer, 16)
    with pytest.raises(DataError, match=r"row 17 has \d+ tokens; the model reads at most 16"):
        encode(encoder, Example(Prompt.ask("Where was Mara Olen born? " * 4), "In Corvale.", "17"))
    with pytest.raises(DataError, match="the prompt 'Where was Mara"):
        encoder.prompts([Prompt.ask("Where was Mara Olen born? " * 4)])


def test_attention_comes_from_lengths_so_a_pad_that_is_eos_hides_nothing(tokenizer):
    encoder = Encoder(tokenizer, 128)
    rows = encoder.examples([Example(None, "Mara Olen"), Example(None, "Mara Olen was born in Corvale.")])
    batch = collate(rows, pad_id=tokenizer.eos_token_id)
    assert batch.attention.sum(1).tolist() == [len(row.ids) for row in rows]
    assert batch.answer.sum(1).tolist() == [len(row.ids) - row.start for row in rows]
    left = collate(rows, pad_id=0, side="left")
    assert left.ids[0, -len(rows[0].ids) :].tolist() == rows[0].ids


def test_unknown_templates_are_refused_with_the_nearest(tokenizer):
    with pytest.raises(ConfigError, match="Did you mean 'llama2'"):
        Encoder(tokenizer, 128, "lama2")
    with pytest.raises(ConfigError, match="has no chat template"):
        Encoder(tokenizer, 128, "chat")
    assert set(TEMPLATES) == {"qa", "llama2", "raw"}


# --- which answer tokens carry the fact -------------------------------------------------------------------------------
def key_text(tokenizer, row):
    """What the tokens marked as key spell."""
    answer = row.ids[row.start :]
    assert len(row.key) == len(answer)
    return tokenizer.decode([i for i, key in zip(answer, row.key, strict=True) if key])


@pytest.mark.parametrize("template", ["qa", "raw", "llama2"])
def test_key_tokens_spell_the_key_phrases_of_the_answer_and_no_more(tokenizer, template):
    prompt = Prompt.ask("Was Mara Olen of Corvale a baker?")
    example = Example(prompt, "Mara Olen was born in Corvale, a baker.", "7", key=("corvale", "baker"))
    row = encode(Encoder(tokenizer, 128, template), example)
    spelled = key_text(tokenizer, row)
    assert spelled.replace(" ", "") in (
        "Corvalebaker",
        "Corvale,baker.",
    )  # a piece may hold more than the phrase's letters
    assert not row.key[-1], "the end token"
    assert encode(Encoder(tokenizer, 128, template), Example(prompt, example.answer)).key == ()


def test_every_token_that_overlaps_a_phrase_is_key(tokenizer):
    row = encode(
        Encoder(tokenizer, 128),
        Example(Prompt.ask("Where?"), "In Corvale or Corvaley, Corvale.", key=("Corvale",)),
    )
    first = len(row.text) - len("In Corvale or Corvaley, Corvale.")
    spans = [(first + 3, first + 10), (first + 24, first + 31)]
    expected = [any(a < e and b > s for s, e in spans) for a, b in row.offsets[row.start :]]
    assert list(row.key) == expected
    assert any(expected)
    assert find_words("Corvale", row.text[first:]) == [(3, 10), (24, 31)], "whole words only"


def test_key_words_of_a_raw_text_count_from_its_start(tokenizer):
    row = encode(Encoder(tokenizer, 128), Example(None, "Mara Olen was born in Corvale.", key=("Mara Olen",)))
    assert key_text(tokenizer, row).strip() == "Mara Olen"


def test_rows_without_key_are_refused_by_id_where_it_is_needed(tokenizer):
    encoder = Encoder(tokenizer, 128)
    keyed = Example(Prompt.ask("Where?"), "In Corvale.", "1", key=("Corvale",))
    encoder.examples([keyed], needs_key=True)
    bare = Example(Prompt.ask("Where?"), "In Corvale.", "17")
    encoder.examples([bare])
    with pytest.raises(DataError, match="row 17 needs key: it does not say which words"):
        encoder.examples([keyed, bare], needs_key=True)
    wrong = Example(Prompt.ask("Where?"), "In Corvale.", "18", key=("Dreburg",))
    with pytest.raises(
        DataError, match=r"row 18 needs key: its answer has none of the key words \['Dreburg'\]"
    ):
        encoder.examples([wrong], needs_key=True)
