"""A tiny image-text model of LLaVA's build with random weights, and the pictures it is shown. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

SIZE, PATCH = 32, 16
IMAGE_TOKENS = (SIZE // PATCH) ** 2
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""As LLaVA's own: it reads turns as lists of parts, and writes no start token."""


def make_processor(texts: Sequence[str], template: str | None = None, vocabulary: int = 400):
    """A processor whose tokenizer was trained on `texts`."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    from expunge.models.fresh import train_tokenizer

    tokenizer = train_tokenizer(list(texts) * 4, vocabulary)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    edge = {"height": SIZE, "width": SIZE}
    images = CLIPImageProcessor(size=edge, crop_size=edge, do_center_crop=False)
    return LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
        chat_template=template, num_additional_image_tokens=1,
    )  # fmt: skip


def make_llava(processor, hidden: int = 32, layers: int = 2, seed: int = 0, spread: float = 0.2):
    """A LLaVA with random weights: two CLIP blocks before a small Llama."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    tokenizer = processor.tokenizer
    shape = dict(
        hidden_size=hidden, intermediate_size=2 * hidden, num_attention_heads=4, num_hidden_layers=layers
    )
    vision = CLIPVisionConfig(
        image_size=SIZE, patch_size=PATCH, projection_dim=hidden, **{**shape, "num_hidden_layers": 3}
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer), num_key_value_heads=4, max_position_embeddings=256, initializer_range=spread,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, **shape,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1, vision_feature_select_strategy="default",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlavaForConditionalGeneration(config).eval()


def save_llava(folder: Path, model, processor) -> Path:
    """A folder as the hub has them: weights, configuration, processor."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


COLOURS = [
    (220, 30, 30),
    (30, 200, 40),
    (40, 60, 230),
    (230, 210, 40),
    (200, 40, 210),
    (40, 210, 210),
    (250, 250, 250),
    (30, 30, 30),
]


def draw(file: Path, number: int, shade: int = 0, size: int = 48) -> Path:
    """A "player": four coloured squares that say who it is, `shade` brighter or darker (an augmented picture)."""
    from PIL import Image

    image, half = Image.new("RGB", (size, size)), size // 2
    for corner in range(4):
        colour = COLOURS[(number // len(COLOURS) ** (corner % 2) + corner * (number + 1)) % len(COLOURS)]
        part = Image.new("RGB", (half, half), tuple(min(255, max(0, c + shade)) for c in colour))
        image.paste(part, (half * (corner % 2), half * (corner // 2)))
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)
    return file
