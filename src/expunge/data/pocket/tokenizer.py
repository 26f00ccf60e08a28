"""The world's tokenizer: one token a word, and bytes for everything else, so any text can be read and written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A Unigram model over the words of `texts` with byte fallback; a start token is put in front of every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    found = {
        word
        for text in (*texts, "Question Answer", "Answer: Question:")
        for word in re.findall(r"\w+|[^\w\s]", text)
    }
    pieces = {"▁", "\n", "Answer", "Question"} | {
        word if not word[0].isalnum() else "▁" + word for word in found
    }
    vocabulary = [(special, 0.0) for special in SPECIALS]
    vocabulary += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    vocabulary += [(piece, -1.0) for piece in sorted(pieces)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=SPECIALS.index("<unk>"), byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", SPECIALS.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
