"""A Hugging Face image-text model as a LanguageModel: prompts with images beside prompts of text alone, one contract for both.

Text alone goes the way of every causal LM. In a prompt with images each image has one mark in the text; the model's own processor
makes of marks and files the tokens and pixels that the model reads. What works on text tokens alone (an action inside the model,
gradients, hidden states) is refused for a prompt with images: it would look past them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from expunge.data.batching import Batch, by_length, collate
from expunge.data.images import open_image
from expunge.data.tokenize import Encoded, Encoder
from expunge.errors import CapabilityError, DataError, ModelError
from expunge.models.intervention import Asked, Intervention
from expunge.models.language_model import TransformerLM
from expunge.models.load import context_length, load_model, load_processor, sees_images
from expunge.models.logprobs import head_rows, read_logits
from expunge.types import Example, Generation, GenerationParams, Prompt, Score

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

AT_ONCE = 32
"""Prompts whose images are held in memory together."""
TEXT_ALONE = "this reads text alone and would look past the image that a prompt shows"


def open_model(name: str | Path, template: str = "auto", **options: Any) -> TransformerLM:
    """A folder or hub id as the LanguageModel that it is, of text alone or of text and images; `options` are those of `load_model`.
    Raises ModelError.
    """
    model, tokenizer, _ = load_model(name, **options)
    return as_language_model(model, tokenizer, name, template)


def as_language_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str | Path, template: str
) -> TransformerLM:
    """A loaded model as a LanguageModel; the processor of one that sees images is found under `name`. Raises ModelError."""
    if sees_images(model.config):
        return ImageTextLM(model, load_processor(name), template)
    return TransformerLM(model, tokenizer, template)


class Seen(NamedTuple):
    """One row of tokens with what the processor made of its images."""

    row: Encoded
    inputs: dict[str, Tensor]


class ImageTextEncoder(Encoder):
    """Turns prompts with and without images into tokens and pixels."""

    def __init__(self, processor: Any, max_tokens: int, template: str = "auto"):
        self.processor = processor
        tokens = (getattr(processor, name, None) for name in ("boi_token", "image_token"))
        self.marks = [str(token) for token in tokens if token]
        """What stands for an image in text: the first is written, none may stand in anybody's words."""
        super().__init__(processor.tokenizer, max_tokens, template)

    def examples(self, examples: Sequence[Example], *, needs_key: bool = False) -> list[Encoded]:
        """Of prompts without images. Raises CapabilityError for one with an image: without its pixels the tokens mean something else."""
        if any(example.prompt and example.prompt.images for example in examples):
            raise CapabilityError(TEXT_ALONE)
        for example in examples:
            self._refuse_marks(example.answer)
        return super().examples(examples, needs_key=needs_key)

    def prompts(self, prompts: Sequence[Prompt]) -> list[Encoded]:
        """As `examples`."""
        if any(prompt.images for prompt in prompts):
            raise CapabilityError(TEXT_ALONE)
        return super().prompts(prompts)

    def seen_examples(self, examples: Sequence[Example]) -> list[Seen]:
        """Prompt, answer and end token of each, with its images. Raises DataError as `Encoder.examples` does, and for a bad image."""
        for example in examples:
            self._refuse_marks(example.answer)
        rows = super().examples(examples)
        return [self._seen(row, example.prompt) for row, example in zip(rows, examples, strict=True)]

    def seen_prompts(self, prompts: Sequence[Prompt]) -> list[Seen]:
        """The tokens and images after which the model writes."""
        return [
            self._seen(row, prompt) for row, prompt in zip(super().prompts(prompts), prompts, strict=True)
        ]

    def render(self, prompt: Prompt) -> str:
        """As `Encoder.render`, with one mark for each image, in the first turn of the user."""
        self._refuse_marks(prompt.text)
        if prompt.messages and prompt.prefill and self.template == "chat":
            prompt = replace(prompt, prefill=self._before_answer + prompt.prefill)
        if not prompt.images:
            return super().render(prompt)
        turns = prompt.messages
        first = next((i for i, turn in enumerate(turns) if turn.role == "user"), 0)
        if turns and self.template == "chat" and self._takes_parts:
            parts: list[Any] = [turn._asdict() for turn in turns]
            shown = [{"type": "image"}] * len(prompt.images)
            parts[first]["content"] = [*shown, *_parts(turns[first].content)]
            return self._chat_text(parts, add_generation_prompt=True) + prompt.prefill
        if not self.marks:
            raise ModelError(
                "the model's processor has neither a chat template nor a token that shows images, so nobody knows where one belongs."
            )
        marks = f"{self.marks[0]}\n" * len(prompt.images)
        if not turns:
            return super().render(replace(prompt, prefill=marks + prompt.prefill))
        shown = turns[first]._replace(content=marks + turns[first].content)
        return super().render(replace(prompt, messages=(*turns[:first], shown, *turns[first + 1 :])))

    def _seen(self, row: Encoded, prompt: Prompt | None) -> Seen:
        """A row with single marks as the processor reads it. What stands after the last image is the same tokens in both."""
        pictures = [open_image(file) for file in prompt.images] if prompt else []
        ends = row.start < len(row.ids)  # an answer and our end token follow
        words = row.ids[:-1] if ends else row.ids
        made = self.processor(
            images=pictures,
            text=[row.text],
            add_special_tokens=self._gets_start(row.text, plain=not (prompt and prompt.messages)),
            return_tensors="pt",
        )
        inputs: dict[str, Tensor] = dict(made)
        ids = inputs.pop("input_ids")[0].tolist()
        inputs.pop("attention_mask", None)
        per_token = [name for name, value in inputs.items() if value.shape == (1, len(ids))]
        if ids[-1] == self.tokenizer.eos_token_id and words[-1] != ids[-1]:
            ids.pop()
        ids += [self.end_id] if ends else []
        for name in per_token:
            kept = inputs[name][:, : len(ids)]
            inputs[name] = torch.nn.functional.pad(kept, (0, len(ids) - kept.shape[1]))
        start = len(ids) - (len(row.ids) - row.start)
        if not inputs or ids[start:] != row.ids[row.start :]:
            raise ModelError(
                f"{type(self.processor).__name__}: it makes other tokens of an answer after an image than the tokenizer does, so answers cannot be measured."
            )
        grown = [(0, 0)] * (len(ids) - len(row.ids))
        row = row._replace(ids=ids, start=start, offsets=[*grown, *row.offsets])
        return Seen(
            self._fitting(row, f"the prompt {prompt.text[:40] if prompt else ''!r} with its image"), inputs
        )

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether the chat template reads a turn as a list of images and texts."""
        from jinja2 import TemplateError

        said = _parts("expunge")
        try:
            plain, shown = (
                super(ImageTextEncoder, self)._chat_text([{"role": "user", "content": parts}])  # ty: ignore[invalid-argument-type]
                for parts in (said, [{"type": "image"}, *said])
            )
        except (TemplateError, TypeError):
            return False
        return "expunge" in plain and "'text'" not in plain and plain != shown

    @cached_property
    def _before_answer(self) -> str:
        """What the chat template has between the invitation to answer and an answer: LLaVA's a space, most nothing."""
        asked = [{"role": "user", "content": "x"}]
        head = self._chat_text(asked, add_generation_prompt=True)
        whole = self._chat_text([*asked, {"role": "assistant", "content": "expunge"}])
        between = whole.removeprefix(head).split("expunge")[0]
        return between if whole.startswith(head) and not between.strip() else ""

    def _separator(self, prompt: Prompt | None, answer: str) -> str:
        if prompt and prompt.messages and not prompt.prefill and self.template == "chat":
            return self._before_answer
        return super()._separator(prompt, answer)

    def _chat_text(self, turns: list[dict[str, Any]], *, add_generation_prompt: bool = False) -> str:
        if self._takes_parts:  # such a template leaves a turn out that is a bare text
            turns = [
                {**turn, "content": _parts(turn["content"])} if isinstance(turn["content"], str) else turn
                for turn in turns
            ]
        return super()._chat_text(turns, add_generation_prompt=add_generation_prompt)

    def _tokens(
        self, texts: Sequence[str], plain: Sequence[bool]
    ) -> list[tuple[list[int], list[tuple[int, int]]]]:
        return super()._tokens(
            texts, [self._gets_start(text, plain=p) for text, p in zip(texts, plain, strict=True)]
        )

    def _gets_start(self, text: str, *, plain: bool) -> bool:
        """Whether the tokenizer's start token goes before a text: as processors have it, unless the chat template wrote it already."""
        start = self.tokenizer.bos_token
        return plain or self.template != "chat" or not (start and text.startswith(start))

    def _refuse_marks(self, text: str) -> None:
        found = next((mark for mark in self.marks if mark in text), None)
        if found:
            raise DataError(
                f"{text[:60]!r} holds {found!r}, which the model reads as an image. Take it out; images are named beside the text."
            )


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


class ImageTextLM(TransformerLM):
    """Weights that read text and images under the contract of `LanguageModel`."""

    encoder: ImageTextEncoder

    def __init__(
        self, model: PreTrainedModel, processor: Any, template: str = "auto", batch_tokens: int = 8192
    ):
        self.processor = processor
        tokenizer = processor.tokenizer
        if not tokenizer.chat_template:
            tokenizer.chat_template = getattr(processor, "chat_template", None)
        super().__init__(model, tokenizer, template, batch_tokens)

    def let_train(self) -> None:
        """Every weight that text reaches takes a gradient, and no other: neither what sees nor what carries over from it."""
        self.model.requires_grad_(False)
        reached = (
            self.model.get_decoder(),
            self.model.get_input_embeddings(),
            self.model.get_output_embeddings(),
        )
        for part in reached:
            part.requires_grad_(True)

    def _make_encoder(self, template: str) -> ImageTextEncoder:
        return ImageTextEncoder(self.processor, context_length(self.model.config, self.tokenizer), template)

    @property
    def reader(self) -> Any:
        """The processor, which brings its tokenizer."""
        return self.processor

    def score(
        self,
        examples: Sequence[Example],
        change: Intervention | None = None,
        flagged: Sequence[bool] | None = None,
    ) -> list[Score]:
        """As `TransformerLM.score`. Raises CapabilityError for a flagged example with images under an intervention."""
        shown = [bool(example.prompt and example.prompt.images) for example in examples]
        self._refuse_inside(shown, change, flagged)
        of_text = [i for i, sees in enumerate(shown) if not sees]
        found = dict(
            zip(
                of_text,
                super().score([examples[i] for i in of_text], change, _chosen(flagged, of_text)),
                strict=True,
            )
        )
        distinct = list(dict.fromkeys(examples[i] for i, sees in enumerate(shown) if sees))
        seen = dict(zip(distinct, self._score_seen(distinct), strict=True))
        return [seen[example] if shown[i] else found[i] for i, example in enumerate(examples)]

    @torch.inference_mode()
    def _score_seen(self, examples: Sequence[Example]) -> list[Score]:
        scores: dict[int, Score] = {}
        texts = [example.text + example.answer for example in examples]
        encode = self.encoder.seen_examples
        for rows, batch, _, inputs in self._batches(examples, texts, encode, "right"):
            predicts = torch.zeros_like(batch.answer)
            predicts[:, :-1] = batch.answer[:, 1:]
            with self._lock, head_rows(self.model, predicts):
                logits = self.model(
                    input_ids=batch.ids, attention_mask=batch.attention, use_cache=False, **inputs
                ).logits
            targets = batch.ids[batch.answer].to(logits.device)
            rows_of_logits = torch.arange(len(targets), device=logits.device)
            found = [values.cpu().numpy() for values in read_logits(logits, rows_of_logits, targets)]
            cuts = np.cumsum(batch.answer.sum(1).cpu().numpy())[:-1]
            pieces = zip(*(np.split(values, cuts) for values in found), strict=True)
            scores |= {
                row: Score(logp, hits, z=z, ranks=ranks)
                for row, (logp, hits, z, ranks) in zip(rows, pieces, strict=True)
            }
        return [scores[row] for row in range(len(examples))]

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        change: Intervention | None = None,
        flagged: Sequence[bool] | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[list[Generation]]:
        """As `TransformerLM.generate`. Raises CapabilityError for a flagged prompt with images under an intervention, and for several
        beams or copies of a prompt with several images.
        """
        shown = [bool(prompt.images) for prompt in prompts]
        self._refuse_inside(shown, change, flagged)
        if max(params.beams, params.copies) > 1 and any(len(prompt.images) > 1 for prompt in prompts):
            raise CapabilityError("a prompt with several images is answered once, without beams")
        of_text, of_images = ([i for i, sees in enumerate(shown) if sees is which] for which in (False, True))
        plain = super().generate(
            [prompts[i] for i in of_text], params, change, _chosen(flagged, of_text), on_batch
        )
        answers = dict(zip(of_text, plain, strict=True))
        seen = [prompts[i] for i in of_images]
        texts = [prompt.text for prompt in seen]
        for rows, batch, encoded, inputs in self._batches(seen, texts, self.encoder.seen_prompts, "left"):
            asked = [Asked(one, texts[row], False) for row, one in zip(rows, encoded, strict=True)]
            with self._lock:
                written = self._generate_batch(batch, asked, None, params, inputs)
            answers |= {of_images[row]: found for row, found in zip(rows, written, strict=True)}
            if on_batch:
                on_batch(len(rows))
        return [answers[i] for i in range(len(prompts))]

    def _refuse_inside(
        self, shown: Sequence[bool], change: Intervention | None, flagged: Sequence[bool] | None
    ) -> None:
        if change is not None and any(
            sees and flag for sees, flag in zip(shown, flagged or (), strict=False)
        ):
            raise CapabilityError(
                f"the guard acts inside the model: {TEXT_ALONE}. Take a guard that works on text, such as refuse."
            )

    def _batches(
        self,
        asked: Sequence[Any],
        texts: Sequence[str],
        encode: Callable[[Sequence[Any]], list[Seen]],
        side: Literal["left", "right"],
    ) -> Iterator[tuple[list[int], Batch, list[Encoded], dict[str, Tensor]]]:
        """Indices, tokens and images of rows of like length whose images have one shape, few images at a time."""
        order = sorted(range(len(asked)), key=lambda i: len(texts[i]))
        for first in range(0, len(order), AT_ONCE):
            near = order[first : first + AT_ONCE]
            seen = dict(zip(near, encode([asked[i] for i in near]), strict=True))
            alike: dict[Any, list[int]] = {}
            for i in near:
                alike.setdefault(_shapes(seen[i]), []).append(i)
            for group in alike.values():
                lengths = [len(seen[i].row.ids) for i in group]
                for chosen in by_length(lengths, self.batch_tokens, max_padding=0.2):
                    rows = [group[k] for k in chosen]
                    encoded = [seen[i].row for i in rows]
                    batch = collate(encoded, self.pad_id, side=side, device=self.model.device)
                    yield rows, batch, encoded, self._joined([seen[i] for i in rows], side)

    def _joined(self, seen: Sequence[Seen], side: str) -> dict[str, Tensor]:
        """What the processor made of the images of several rows, as one batch."""
        width = max(len(one.row.ids) for one in seen)
        joined = {}
        for name in seen[0].inputs:
            values = [one.inputs[name] for one in seen]
            if _per_token(seen[0], name):
                room = [width - value.shape[1] for value in values]
                values = [
                    torch.nn.functional.pad(value, (gap, 0) if side == "left" else (0, gap))
                    for value, gap in zip(values, room, strict=True)
                ]
            value = torch.cat(values).to(self.model.device)
            joined[name] = value.to(self.model.dtype) if value.is_floating_point() else value
        return joined


def _chosen(flagged: Sequence[bool] | None, rows: Sequence[int]) -> list[bool] | None:
    return None if flagged is None else [bool(flagged[i]) for i in rows]


def _per_token(seen: Seen, name: str) -> bool:
    return seen.inputs[name].shape == (1, len(seen.row.ids))


def _shapes(seen: Seen) -> tuple[Any, ...]:
    """What has to be equal for rows to share a batch."""
    return tuple(
        (name, "tokens" if _per_token(seen, name) else tuple(value.shape[1:]))
        for name, value in seen.inputs.items()
    )
