"""Loading and saving language models, of text alone or of text and images: safetensors only, float32 for training, every doubt said before work starts."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Loaded(NamedTuple):
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    dtype_reason: str


def load_model(
    name: str | Path,
    *,
    dtype: str = "auto",
    device: str | None = None,
    device_map: str | None = None,
    revision: str | None = None,
) -> Loaded:
    """Load a folder or a hub id with its tokenizer, in evaluation mode.

    `dtype`: "auto" (float32 on a CPU, else the checkpoint's own) or a torch dtype's name. Raises ModelError.
    """
    import torch
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = load_config(name, revision)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    wanted, reason = _dtype(dtype, device_map or device)
    options: dict[str, Any] = {"dtype": wanted, "use_safetensors": True, "revision": revision}
    if device_map:
        options["device_map"] = device_map
    try:
        model: Any = model_class(config).from_pretrained(str(name), **options)
        tokenizer: Any = AutoTokenizer.from_pretrained(str(name), revision=revision)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(_explain(name, error)) from error
    check_tokenizer(tokenizer, str(name))
    if not device_map:
        try:
            model.to(device)
        except (RuntimeError, AssertionError) as error:  # torch says so in both ways
            raise ConfigError(
                f"--device {device}: not to be had here ({str(error).splitlines()[0]})."
            ) from None
    return Loaded(model.eval(), tokenizer, reason)


def sees_images(config: Any) -> bool:
    """Whether a configuration is that of a model of text and images."""
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    return hasattr(config, "vision_config") and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def model_class(config: Any) -> Any:
    """The class of transformers that opens a model of this configuration."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if sees_images(config) else AutoModelForCausalLM


def load_processor(name: str | Path) -> Any:
    """What turns images and text into a model's inputs, of a folder or hub id. Raises ModelError where there is none."""
    from transformers import AutoProcessor

    try:
        processor: Any = AutoProcessor.from_pretrained(str(name))
    except (
        Exception
    ) as error:  # many kinds: a missing file, or a package (torchvision) that this processor needs
        raise ModelError(
            f"{_explain(name, error)}\nThe processor of its images did not open; some need torchvision, of the build that fits torch."
        ) from error
    if not hasattr(processor, "image_processor"):
        raise ModelError(
            f"{name}: the model sees images, but nothing there opens them. Save its processor beside the weights: processor.save_pretrained(folder)."
        )
    check_tokenizer(processor.tokenizer, str(name))
    return processor


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id alone. Raises ModelError."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(name))
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(_explain(name, error)) from error
    return tokenizer


def load_config(name: str | Path, revision: str | None = None) -> Any:
    """The configuration of a folder or hub id alone. Raises ModelError."""
    from transformers import AutoConfig

    if is_folder_name(name):
        check_folder(Path(name))
    try:
        return AutoConfig.from_pretrained(str(name), revision=revision)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(_explain(name, error)) from error


def refuse_quantised(name: str | Path) -> None:
    """Raises ModelError for a model whose configuration says that its weights are quantised; they are not loaded for that."""
    if getattr(load_config(name), "quantization_config", None):
        raise ModelError(
            f"{name}: its weights are quantised, and changes smaller than their grid would be lost. Unlearn the full-precision model, then quantise."
        )


def save_model(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Write weights (safetensors), configuration and tokenizer, or in its place the processor of a model that sees images."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def is_folder_name(name: str | Path) -> bool:
    """A path rather than a hub id: it exists, or looks like no `owner/name`."""
    text = str(name)
    return (
        isinstance(name, Path)
        or Path(text).exists()
        or text.startswith((".", "/", "~"))
        or text.count("/") > 1
    )


def check_folder(folder: Path) -> None:
    """Raises ModelError when a model folder is missing, incomplete, or holds only weights that can run code."""
    if not folder.is_dir():
        raise ModelError(
            f"{folder}: no such model folder. Give a folder with config.json and *.safetensors, or a hub id such as owner/name."
        )
    names = {path.name for path in folder.iterdir()}
    if "config.json" not in names:
        raise ModelError(
            f"{folder}: no config.json, so this is not a model folder (it holds: {', '.join(sorted(names)[:6]) or 'nothing'})."
        )
    if not any(name.endswith(".safetensors") for name in names):
        pickled = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt")))
        if pickled:
            raise ModelError(
                f"{folder} has {pickled[0]} but no .safetensors file.\n"
                "A pickled file can run code when it is opened, so expunge does not load it.\n"
                "Convert it once where that is safe: load it with transformers and call model.save_pretrained(folder)."
            )
        raise ModelError(f"{folder}: no weights (*.safetensors) in it.")
    if not names & {"tokenizer.json", "tokenizer.model", "vocab.json"}:
        raise ModelError(
            f"{folder}: no tokenizer in it. Save one beside the weights: tokenizer.save_pretrained('{folder}')."
        )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raises ModelError without an eos token; warns without a pad token (padding is known by position, so any id will do)."""
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{name}: the tokenizer has no eos token, so nothing says where an answer ends.\n"
            "Set one and save it again: tokenizer.eos_token = '</s>'; tokenizer.save_pretrained(folder)."
        )
    if tokenizer.pad_token_id is None:
        warnings.warn(
            f"{name}: the tokenizer has no pad token; rows are padded with eos, and padding is known by position alone.",
            stacklevel=2,
        )
        tokenizer.pad_token_id = tokenizer.eos_token_id


def context_length(config: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens a row may have, of a model of this configuration."""
    config = config.get_text_config()
    limits = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    return int(min(limit for limit in limits if limit))


def _dtype(dtype: str, device: str) -> tuple[Any, str]:
    import torch

    if dtype != "auto":
        if not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ConfigError(f"--dtype {dtype}: not a torch dtype. Use auto, float32, bfloat16 or float16.")
        return getattr(torch, dtype), f"{dtype}: as asked"
    if device == "cpu":
        return torch.float32, "float32: on a CPU lower precision is slower, not faster"
    return "auto", "the checkpoint's own dtype"


def _explain(name: str | Path, error: Exception) -> str:
    text = str(error).strip().split("\n", 1)[0]
    if is_folder_name(name):
        return f"{name}: cannot be loaded: {text}"
    return (
        f"'{name}' is no folder here, and as a hub id it could not be had: {text}\n"
        "Check the name, log in if it is gated, or download it and give the folder."
    )
