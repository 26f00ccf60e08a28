"""An assistant that knows only what is to be forgotten, the training side of ULD (Ji et al., 2024, arXiv:2406.08607).

    assistant = first n blocks of the target;     min  CE( D_f and its paraphrases ) + 5 KL( uniform || assistant ) on D_r and distractors

While answering, its logits are taken off those of the target: log p = log p_target - w · log p_assistant. This trains the
assistant alone. The artifact is no unlearned model: what it is good for is to know the forget set and nothing else.
Needs: forget rows that are pairs, and retain rows.
Differs from the paper: nothing in training; the subtraction is not part of it.
Differs from the authors' code: the uniform term counts answer tokens, not prompts and padding.
Fails when: the first n blocks know too little to learn the rows, or the retain rows miss what must not be touched.
"""

from typing import ClassVar

from pydantic import Field

from expunge.config import Settings


class Assistant(Settings):
    claim: ClassVar = "suppression"
    forgets: ClassVar = True
    start: ClassVar = "target"
    reinforces: ClassVar = True
    implies: ClassVar = {"data": "paraphrase", "retain": "uniform", "adapter": "lora"}

    blocks: int = Field(8, ge=1)
    """How many of the target's first blocks the assistant is made of."""
