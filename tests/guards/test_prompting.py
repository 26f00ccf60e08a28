"""What guards on text share: where an instruction goes, how much room is left, and how texts are read."""

import pytest

from expunge.guards.prompting import instructed, phrases, readings, room
from expunge.models.endpoint import Endpoint
from expunge.models.language_model import TransformerLM
from expunge.types import Message, Prompt

NAMED = Prompt.ask("Where was Mara Olen born?")
CHATML = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
DROPS_SYSTEM = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")


@pytest.mark.parametrize(
    "template", [CHATML, NO_SYSTEM, DROPS_SYSTEM, None], ids=["chat", "raises", "drops", "qa"]
)
def test_every_template_shows_the_instruction_once(tokenizer, model, template, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", template)
    lm = TransformerLM(model, tokenizer)
    text = lm.encoder.render(instructed(lm, NAMED, "Never heard."))
    assert text.count("Never heard.") == 1
    assert text.index("Never heard.") < text.index("Where was")
    assert ("<system>Never heard." in text) == (template == CHATML)


def test_turns_without_a_question_get_the_instruction_as_one(lm):
    only = Prompt((Message("assistant", "Mara Olen was born in Corvale."),), prefill="And")
    assert instructed(lm, only, "Never heard.") == Prompt(
        (*only.messages, Message("user", "Never heard.")), prefill="And"
    )


def test_room_is_what_the_context_has_left(lm):
    used = len(lm.encoder.prompts([NAMED])[0].ids)
    assert room(lm, NAMED) == lm.encoder.max_tokens - used
    assert room(lm, Prompt.ask("dog " * 500)) == 0
    assert room(Endpoint("http://host/v1", "m"), NAMED) is None


def test_phrases_are_found_whole_in_every_reading():
    found = phrases(["Mara Olen", "\uff23orvale", "..."])
    assert any(map(found.mentions, readings("Who is MARA  olen?")))
    assert any(map(found.mentions, readings("in Corvale")))
    assert not any(map(found.mentions, readings("Mara from Olenburg ...")))
