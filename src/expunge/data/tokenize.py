"""The only place where text becomes tokens: templates, which tokens are the answer, and where a row ends.

One rule each:
* an answer token is one that ends after the answer's first character (offset mapping; the question is never counted);
* the space between prompt and answer belongs to the answer, so the prompt's tokens are the same with and without it;
* one end token follows the answer and counts as an answer token: the token that ends a turn in the chat template, else eos.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from expunge.errors import ConfigError, DataError, ModelError, did_you_mean
from expunge.types import Example, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Template(NamedTuple):
    """How turns become text when the tokenizer has no chat template (or is not to use it)."""

    user: str
    """One user turn, with {content}, up to where the answer starts."""
    separator: str = " "
    between: str = "\n"
    """Between an answer and the next user turn."""


TEMPLATES = {
    "qa": Template("Question: {content}\nAnswer:"),
    "llama2": Template("[INST] {content} [/INST]", separator=""),
    "raw": Template("{content}", separator=""),
}
"""Named templates beside "chat" (the tokenizer's own). "llama2" is what TOFU's Llama-2 runs used."""


WITHOUT_CHAT = {"auto": "qa", "chat-or-raw": "raw"}
"""Templates that are "chat" where the tokenizer has one, and what they are where it has none."""


class Encoded(NamedTuple):
    """One row of tokens; `ids[start:]` are the answer's, end token included."""

    ids: list[int]
    start: int
    text: str
    offsets: list[tuple[int, int]]
    """Character span of each token in `text`; (0, 0) for tokens that stand for no text."""
    head: int
    """Characters of `text` that are the prompt's."""
    key: tuple[bool, ...] = ()
    """Which of `ids[start:]` carry the fact; empty where the row does not say."""


class Encoder:
    """Turns prompts and examples into tokens for one model."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int, template: str = "auto"):
        """`template`: "chat", a name of TEMPLATES, "auto" (the tokenizer's chat template, else "qa"), or "chat-or-raw" (else the prompt as it
        stands, for benchmarks that bring whole prompts).
        """
        if not tokenizer.is_fast:
            raise ModelError(
                "the tokenizer is a slow one and gives no character offsets. Save the model with a fast tokenizer (tokenizer.json)."
            )
        if template in WITHOUT_CHAT:
            template = "chat" if tokenizer.chat_template else WITHOUT_CHAT[template]
        if template == "chat" and not tokenizer.chat_template:
            raise ConfigError("--template chat: this tokenizer has no chat template. Use --template qa.")
        if template != "chat" and template not in TEMPLATES:
            raise ConfigError(
                f"--template {template}: no such template.{did_you_mean(template, [*TEMPLATES, 'chat'])}"
            )
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.template = template
        self.end_id = self._end_id()

    def examples(self, examples: Sequence[Example], *, needs_key: bool = False) -> list[Encoded]:
        """Prompt, answer and end token of each. Raises DataError when a row is longer than the model's context, or with `needs_key`
        when it does not say which words of its answer carry the fact.
        """
        heads = [self.render(example.prompt) if example.prompt else "" for example in examples]
        texts = [
            head + self._separator(example.prompt, example.answer) + example.answer
            for head, example in zip(heads, examples, strict=True)
        ]
        rows = []
        plain = [not (example.prompt and example.prompt.messages) for example in examples]
        for example, head, text, (ids, offsets) in zip(
            examples, heads, texts, self._tokens(texts, plain), strict=True
        ):
            start = next((i for i, (_, end) in enumerate(offsets) if end > len(head)), len(ids))
            row = Encoded([*ids, self.end_id], max(start, 1), text, [*offsets, (0, 0)], len(head))
            name = f"row {example.id or repr(example.text[:40])}"
            row = row._replace(key=_key_tokens(row, len(text) - len(example.answer), example.key))
            if needs_key and not any(row.key):
                raise DataError(
                    f"{name} needs key: {_why_no_key(example)}.\n"
                    "Give its words or phrases as they stand in the answer, in the field 'key': a list of texts."
                )
            rows.append(self._fitting(row, name))
        return rows

    def prompts(self, prompts: Sequence[Prompt]) -> list[Encoded]:
        """The tokens after which the model writes. A space at the end of a chat template's opening is left to the answer, as where one is
        scored. Raises DataError when they do not fit the model's context.
        """
        texts = [
            self.render(prompt) if prompt.prefill else self.render(prompt).rstrip(" ") for prompt in prompts
        ]
        rows = [
            Encoded(ids, len(ids), text, offsets, len(text))
            for text, (ids, offsets) in zip(
                texts, self._tokens(texts, [not prompt.messages for prompt in prompts]), strict=True
            )
        ]
        return [
            self._fitting(row, f"the prompt {prompt.text[:40]!r}")
            for row, prompt in zip(rows, prompts, strict=True)
        ]

    def render(self, prompt: Prompt) -> str:
        """The prompt as text, up to and including the prefilled start of the answer."""
        if not prompt.messages:
            return prompt.prefill
        if self.template == "chat":
            turns = [message._asdict() for message in prompt.messages]
            return self._chat_text(turns, add_generation_prompt=True) + prompt.prefill
        template = TEMPLATES[self.template]
        text = ""
        for message in prompt.messages:
            if message.role == "assistant":
                text += template.separator + message.content + template.between
            else:
                text += template.user.format(content=message.content)
        return text + (template.separator + prompt.prefill if prompt.prefill else "")

    def decode(self, ids: list[int]) -> str:
        """Text of generated ids, without special tokens and surrounding space."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _chat_text(self, turns: list[dict[str, str]], *, add_generation_prompt: bool = False) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                turns, add_generation_prompt=add_generation_prompt, tokenize=False
            )
        )

    def _separator(self, prompt: Prompt | None, answer: str) -> str:
        """A space, unless the prompt ends in one (or a line break), the answer starts with one, or the template has none there."""
        if prompt is None:
            return ""
        if prompt.prefill:
            return "" if prompt.prefill[-1].isspace() or answer[:1].isspace() else " "
        return "" if self.template == "chat" else TEMPLATES[self.template].separator

    def _tokens(
        self, texts: Sequence[str], plain: Sequence[bool]
    ) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Ids and offsets of each text, without an end token. The tokenizer's own start token stands before a `plain` text, one that no
        chat template has been laid around, and before named templates.
        """
        if self.template == "chat" and len(set(plain)) > 1:
            parts = {
                which: iter(
                    self._tokens([t for t, p in zip(texts, plain, strict=True) if p is which], [which])
                )
                for which in (True, False)
            }
            return [next(parts[which]) for which in plain]
        if not texts:
            return []
        encoding = self.tokenizer(
            list(texts),
            add_special_tokens=plain[0] or self.template != "chat",
            return_offsets_mapping=True,
        )
        rows = []
        for ids, spans in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
            offsets = [tuple(span) for span in spans]
            ends = bool(ids) and ids[-1] == self.tokenizer.eos_token_id and offsets[-1] == (0, 0)
            rows.append((list(ids[:-1]), offsets[:-1]) if ends else (list(ids), offsets))
        return rows

    def _fitting(self, encoded: Encoded, what: str) -> Encoded:
        if len(encoded.ids) > self.max_tokens:
            raise DataError(
                f"{what} has {len(encoded.ids)} tokens; the model reads at most {self.max_tokens}.\n"
                "Nothing is cut silently: split the row into shorter ones, or use a model with a longer context."
            )
        return encoded

    def _end_id(self) -> int:
        """The token that ends an answer."""
        if self.template == "chat":
            turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "expunge"}]
            tail = self._chat_text(turns).rsplit("expunge", 1)[-1]
            ids = self.tokenizer(tail, add_special_tokens=False)["input_ids"]
            ends = [i for i in ids if i in self.tokenizer.all_special_ids]
            if ends:
                return ends[0]
        return self.tokenizer.eos_token_id


def pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The tokens of a raw text as pieces of it, in order; joined they are the text. A character that several tokens make stands in the last."""
    ends = [
        end
        for _, end in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    ]
    if ends:
        ends[-1] = len(text)
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def find_words(phrase: str, text: str) -> list[tuple[int, int]]:
    """Character spans at which a phrase stands in a text as whole words, whatever its capitals."""
    pattern = rf"(?<!\w){re.escape(phrase.strip())}(?!\w)"
    return [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)] if phrase.strip() else []


def _key_tokens(row: Encoded, first: int, key: Sequence[str]) -> tuple[bool, ...]:
    """Which answer tokens overlap an occurrence of a key phrase in the text from character `first` on."""
    if not key:
        return ()
    spans = [(first + a, first + b) for phrase in key for a, b in find_words(phrase, row.text[first:])]
    return tuple(
        any(start < b and end > a for a, b in spans) for start, end in row.offsets[row.start : len(row.ids)]
    )


def _why_no_key(example: Example) -> str:
    if example.key:
        return f"its answer has none of the key words {list(example.key)}"
    return "it does not say which words of its answer carry the fact"
