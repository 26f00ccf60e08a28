"""How transformers calls the cache of keys and values: `cache`, and `past_key_values` before version 5.24."""

from functools import cache
from inspect import signature
from typing import Any


@cache
def cache_name() -> str:
    """The argument of `generate` and of a model's `forward`."""
    from transformers import GenerationMixin

    named = signature(GenerationMixin.prepare_inputs_for_generation).parameters
    return "cache" if "cache" in named else "past_key_values"


def length_held(arguments: dict[str, Any]) -> int:
    """Tokens that the cache among the arguments of a forward holds already."""
    held = arguments.get(cache_name())
    return 0 if held is None else int(held.get_seq_length())
